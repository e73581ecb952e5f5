"""The adversary of a decoder: what it learns to tell apart, and who is taught by what."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.training.adversary import Adversary, balance


def stripes(count: int, seed: int) -> Tensor:
    """Pictures [count 3 32 32] of a straight edge somewhere."""
    where = torch.rand(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed)) * 20 + 6
    return torch.where(torch.arange(32.0) < where, 0.8, -0.8).expand(count, 3, 32, 32).contiguous()


def blurred(pixels: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2), mode="replicate"), 5, stride=1)


@pytest.fixture
def adversary() -> Adversary:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Adversary()


def test_it_learns_to_tell_drawn_edges_from_true_ones_and_pictures_learn_from_it(adversary: Adversary):
    optimiser = torch.optim.Adam(adversary.parameters(), lr=1e-3, betas=(0.5, 0.99))
    generator = torch.Generator().manual_seed(1)
    for step in range(60):
        truth = stripes(8, step)
        _, learns, _ = adversary.contest(blurred(truth), truth, generator)
        optimiser.zero_grad()
        learns.backward()
        optimiser.step()
    truth = stripes(16, 1000)
    drawn = blurred(truth).requires_grad_(True)
    lost, learns, told = adversary.contest(drawn, truth, generator)
    assert told > 0.8
    assert learns < lost
    (gradient,) = torch.autograd.grad(lost, drawn)
    better = (drawn - 0.1 * gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True)).detach()
    assert adversary.contest(better, truth, generator)[0] < lost


def test_neither_side_teaches_the_other(adversary: Adversary):
    truth = stripes(2, 0)
    drawn = blurred(truth).requires_grad_(True)
    lost, learns, _ = adversary.contest(drawn, truth, torch.Generator().manual_seed(0))
    lost.backward(retain_graph=True)
    assert drawn.grad is not None
    assert all(parameter.grad is None for parameter in adversary.parameters())
    drawn.grad = None
    learns.backward()
    assert drawn.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())


def test_a_place_is_scored_by_what_is_around_it_alone(adversary: Adversary):
    pixels = torch.zeros(1, 3, 128, 128)
    other = pixels.clone()
    other[..., 100:] = 1
    for score, changed, side in zip(adversary(pixels), adversary(other), (16, 8), strict=True):
        assert score.shape == (1, 1, side, side)
        assert torch.equal(score[..., :3], changed[..., :3])
        assert not torch.equal(score[..., -1], changed[..., -1])


def test_where_all_is_true_nothing_is_told_apart(adversary: Adversary):
    truth = stripes(2, 0)
    lost, _, told = adversary.contest(truth.clone(), truth, torch.Generator().manual_seed(0))
    assert told == 0.5
    assert float(lost.detach()) == pytest.approx(2 * torch.tensor(2.0).log().item())


def test_gradients_are_balanced_where_they_reach_pictures():
    drawn = torch.ones(1, 3, 2, 2, requires_grad=True)
    assert float(balance(5 * drawn.sum(), 2 * drawn.sum(), drawn)) == pytest.approx(2.5)
    assert torch.isfinite(balance(drawn.sum(), 0 * drawn.sum(), drawn))
