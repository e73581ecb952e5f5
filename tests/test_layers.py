"""GroupNorm is torch's in all but speed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mezzotint.layers import GroupNorm

FORMATS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(3, 8, 5, 7, 4), (1, 6, 1, 1, 1), (2, 4, 9, 3, 4)]
"""B, C, h, w and groups."""


def both(batch: int, channels: int, height: int, width: int, groups: int) -> tuple[nn.GroupNorm, GroupNorm, Tensor]:
    generator = torch.Generator().manual_seed(0)
    theirs, ours = nn.GroupNorm(groups, channels, eps=1e-6), GroupNorm(groups, channels, eps=1e-6)
    with torch.no_grad():
        theirs.weight.copy_(1 + 0.5 * torch.randn(channels, generator=generator))
        theirs.bias.copy_(torch.randn(channels, generator=generator))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, 0.5 + torch.randn(batch, channels, height, width, generator=generator)


def gradients(norm: nn.GroupNorm, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    norm.zero_grad()
    y = norm(x)
    y.backward(dy)
    assert x.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    return y.detach(), x.grad, norm.weight.grad, norm.bias.grad


@pytest.mark.parametrize("layout", FORMATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_torch_s(shape: tuple[int, int, int, int, int], layout: torch.memory_format):
    theirs, ours, x = both(*shape)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=layout)
    expected, got = gradients(theirs, x, dy), gradients(ours, x, dy.contiguous(memory_format=layout))
    assert torch.equal(got[0], expected[0])  # The values come from the same kernel.
    for mine, other in zip(got[1:], expected[1:], strict=True):
        # Sums of up to 105 float32 terms in another order, then differences of values up to 1 / deviation.
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5 * max(1.0, float(other.abs().max())))


def test_gradients_by_finite_differences():
    _, ours, x = both(2, 4, 3, 3, 2)
    ours.double()
    assert torch.autograd.gradcheck(ours, (x.double().requires_grad_(True),), atol=1e-4, eps=1e-5)


@pytest.mark.parametrize("layout", FORMATS, ids=str)
def test_half_precision_stays_close_to_full(layout: torch.memory_format):
    theirs, ours, x = both(4, 16, 16, 16, 4)
    x = x.bfloat16().contiguous(memory_format=layout)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).bfloat16().contiguous(memory_format=layout)
    expected, got = gradients(theirs, x.float(), dy.float()), gradients(ours, x, dy)
    assert got[0].dtype == got[1].dtype == torch.bfloat16
    assert got[2].dtype == got[3].dtype == torch.float32
    for mine, other in zip(got, expected, strict=True):
        # bfloat16 keeps 8 bits; a value passes through three roundings, and sums are rounded once.
        error = (mine.float() - other).abs().max() / other.abs().max()
        assert error < 4 * 2**-8
    assert got[1].is_contiguous(memory_format=layout)


def test_a_second_use_and_no_gradients():
    theirs, ours, x = both(2, 8, 4, 4, 4)
    first = ours(x)
    with torch.no_grad():
        second = ours(x)
        assert torch.equal(second, theirs(x))
    assert first.requires_grad
    assert not second.requires_grad
    assert torch.equal(first, second)
    (ours(ours(x)).sum() + first.sum()).backward()  # One layer twice in a graph adds up its gradients.
    assert ours.weight.grad is not None
    twice = ours.weight.grad.clone()
    (theirs(theirs(x)).sum() + theirs(x).sum()).backward()
    torch.testing.assert_close(twice, theirs.weight.grad, rtol=1e-4, atol=1e-4)


def test_sequences_are_left_to_torch():
    theirs, ours, _ = both(2, 8, 4, 4, 4)
    x = torch.randn(2, 8, 5)
    assert torch.equal(ours(x), theirs(x))


def test_no_second_derivative_rather_than_a_wrong_one():
    _, ours, x = both(2, 8, 4, 4, 4)
    x.requires_grad_(True)
    (first,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
