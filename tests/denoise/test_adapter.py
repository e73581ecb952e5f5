"""What is learned beside a U-Net that stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mezzotint.denoise.adapter import LowRank, Wider, adapted, go_on, learned, with_learned
from mezzotint.denoise.unet import UNet

SHAPE = (2, 4, 4, 6)


@pytest.fixture
def unet(tiny_parts: Any) -> UNet:
    unet = UNet(tiny_parts.unet.config)
    unet.load_state_dict(tiny_parts.unet.state_dict())
    return unet.eval()


def rows(channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4 + channels, *SHAPE[2:], generator=rng)
    return x, torch.tensor([3.0, 700.0]), torch.randn(2, 77, 16, generator=rng)


@torch.no_grad()
def test_before_it_has_learned_anything_it_is_the_unet(unet: UNet) -> None:
    wide = adapted(unet, 3, 2)
    x, t, text = rows(3)
    assert torch.equal(wide(x, t, text), unet(x[:, :4], t, text))
    assert (wide.config.in_channels, unet.config.in_channels) == (7, 4)


def test_what_was_learned_is_the_same_in_a_unet_of_its_own(unet: UNet) -> None:
    wide = adapted(unet, 3, 2)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in wide.parameters() if p.requires_grad], lr=0.3)
    x, t, text = rows(3)
    for _ in range(3):
        optimiser.zero_grad()
        (wide(x, t, text) - 1).square().mean().backward()
        optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())
    merged = with_learned(unet, learned(wide))
    with torch.no_grad():
        assert torch.allclose(merged(x, t, text), wide(x, t, text), atol=1e-5)
        zero = torch.cat([x[:, :4], torch.zeros_like(x[:, 4:])], dim=1)
        assert not torch.allclose(merged(x, t, text), merged(zero, t, text), atol=1e-4)
    kinds = {type(module) for module in wide.modules()}
    assert {Wider, LowRank} <= kinds
    assert {type(module) for module in merged.modules()} == {type(module) for module in unet.modules()}


def test_going_on_from_what_was_learned(unet: UNet) -> None:
    known = {name: torch.randn_like(value) for name, value in learned(adapted(unet, 3, 2)).items()}
    wide = adapted(unet, 3, 2)
    go_on(wide, known)
    x, t, text = rows(3)
    with torch.no_grad():
        assert torch.allclose(wide(x, t, text), with_learned(unet, known)(x, t, text), atol=1e-4)
    for other in (adapted(unet, 3, 1), adapted(unet, 2, 2)):
        with pytest.raises(ValueError, match="another"):
            go_on(other, known)


def test_what_was_learned_of_another_unet_is_refused(unet: UNet) -> None:
    tensors = learned(adapted(unet, 3, 2))
    with pytest.raises((KeyError, RuntimeError)):
        with_learned(unet, {**tensors, "elsewhere.up": torch.ones(2, 2), "elsewhere.down": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="already"):
        adapted(with_learned(unet, tensors), 1, 2)
