"""One stream per picture."""

from __future__ import annotations

import pytest
import torch

from mezzotint.noise import draw_noise, generator


def test_a_row_depends_on_its_seed_alone():
    together = draw_noise([5, 6, 2**63 - 1], (4, 8, 8))
    assert together.shape == (3, 4, 8, 8)
    assert together.dtype == torch.float32
    for row, seed in enumerate([5, 6, 2**63 - 1]):
        assert torch.equal(together[row], draw_noise([seed], (4, 8, 8))[0])
    assert not torch.equal(together[0], together[1])


def test_the_global_stream_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_noise([1, 2], (4, 4))
    assert torch.equal(torch.rand(3), expected)


def test_the_noise_is_what_diffusers_pipelines_draw_from_the_seed():
    expected = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(7))
    assert torch.equal(draw_noise([7], (4, 8, 8)), expected)


def test_noise_is_unit():
    noise = draw_noise([0], (100_000,))
    # Three deviations of the mean and of the variance of 100 000 numbers.
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.var()) == pytest.approx(1, abs=0.014)
    assert generator(3).initial_seed() == 3
