"""Ranks, overlaps and edges whose numbers are known."""

from __future__ import annotations

import pytest
import torch

from mezzotint.evaluate.maps import edge_energy, fade_energy, overlap, rank_correlation


def test_rank_correlation() -> None:
    values = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    assert rank_correlation(values, values.exp()) == pytest.approx(1)
    assert rank_correlation(values, 1 / values) == pytest.approx(-1)
    assert rank_correlation(values, torch.ones(5, 7)) == 0
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert rank_correlation(torch.tensor([1.0, 2, 2, 9]), torch.tensor([0.0, 1, 2, 3])) == pytest.approx(0.9**0.5)


def test_rank_correlation_is_scipys() -> None:
    scipy = pytest.importorskip("scipy.stats")
    chance = torch.Generator().manual_seed(1)
    a, b = (torch.randint(0, 9, (200,), generator=chance).float() for _ in range(2))
    assert rank_correlation(a, b) == pytest.approx(scipy.spearmanr(a, b).statistic)


def test_overlap() -> None:
    one, other = torch.zeros(4, 4).bool(), torch.zeros(4, 4).bool()
    assert overlap(one, other) == 1
    one[:2], other[1:3] = True, True
    assert overlap(one, other) == pytest.approx(4 / 12)
    assert overlap(one, ~one) == 0


def test_the_energy_across_an_edge() -> None:
    """Every pair of neighbours counts once, the corner pixels in both directions, the picture's border not at all."""
    inside = torch.zeros(6, 8).bool()
    inside[2:4, 3:6] = True  # Ten pairs.
    step = inside.float().expand(2, 6, 8) * 3
    assert edge_energy(step, inside) == 10 * 9 * 2
    assert edge_energy(torch.ones(2, 6, 8), inside) == 0
    corner = torch.zeros(6, 8).bool()
    corner[:2, :2] = True
    assert edge_energy(corner.float()[None], corner) == 4
    # What happens away from the edge is not of it.
    step[:, 0, 0] = 50
    assert edge_energy(step, inside) == 10 * 9 * 2


def test_a_fade_spreads_a_step_and_its_energy_is_less() -> None:
    inside = torch.zeros(1, 12).bool()
    inside[0, 4:] = True
    step = inside.float()[None] * 4
    ramp = torch.tensor([0.0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4, 4]).view(1, 1, 12)
    assert edge_energy(step, inside) == fade_energy(step, inside, 4) == 16
    assert edge_energy(ramp, inside) == 1
    assert [fade_energy(ramp, inside, reach) for reach in (1, 2, 4, 6)] == [1, 2, 4, 4]
