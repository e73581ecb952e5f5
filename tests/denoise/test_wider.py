"""A wider U-Net begins with what the narrower one knows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mezzotint.denoise.adapter import adapted, go_on, learned
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.denoise.wider import Widening
from mezzotint.types import UserError

PLAIN = UNetConfig(
    block_out_channels=(16, 32),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    mid_block_type=None,
    layers_per_block=1,
    cross_attention_dim=8,
    norm_num_groups=8,
)
ATTENDS = replace(
    PLAIN,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    mid_block_type="UNetMidBlock2DCrossAttn",
    attention_head_dim=2,
)


def a_unet(config: UNetConfig) -> UNet:
    torch.manual_seed(0)
    return UNet(config).eval()


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def rows(channels: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = chance()
    return (
        torch.randn(2, channels, 6, 8, generator=rng),
        torch.tensor([3.0, 700.0]),
        torch.randn(2, 7, 8, generator=rng),
    )


@torch.no_grad()
@pytest.mark.parametrize("widths", [(16, 32), (32, 64), (48, 96)])
def test_where_all_is_copied_alike_it_predicts_the_same(widths: tuple[int, int]) -> None:
    unet = a_unet(PLAIN)
    wide = Widening(PLAIN, widths).unet(unet, chance()).eval()
    assert wide.config.block_out_channels == widths
    assert torch.allclose(wide(*rows()), unet(*rows()), atol=1e-5)


@torch.no_grad()
def test_the_copies_can_learn_to_differ() -> None:
    """They answer alike and are read in unlike shares."""
    wide = Widening(PLAIN, (32, 64)).unet(a_unet(PLAIN), chance())
    first, second = (wide.get_parameter(f"down_blocks.0.resnets.0.conv{number}.weight") for number in (1, 2))
    assert torch.equal(wide.conv_in.weight[0::2], wide.conv_in.weight[1::2])
    assert (second[:, 0::2] - second[:, 1::2]).abs().mean() > 0.1 * second.abs().mean()
    assert first.shape == second.shape == (32, 32, 3, 3)


@torch.no_grad()
def test_where_not_all_is_copied_the_rest_of_the_unet_is_the_same() -> None:
    """Nothing is lost of what does not read copied channels beside others: the way down, where no widths meet."""
    unet = a_unet(replace(ATTENDS, block_out_channels=(16, 64)))
    wide = Widening(unet.config, (32, 64)).unet(unet, chance()).eval()
    kept: list[torch.Tensor] = []
    for network in (unet, wide):
        assert network.mid_block is not None
        network.mid_block.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    out = [network(*rows()) for network in (unet, wide)]
    assert torch.allclose(*kept, atol=1e-5)
    assert out[0].shape == out[1].shape


@torch.no_grad()
@pytest.mark.parametrize("widths", [(32, 32), (48, 32)])
def test_shortcuts_come_and_go(widths: tuple[int, int]) -> None:
    """(16, 32) has a 1x1 convolution between its resolutions; (32, 32) has none, (48, 32) has one again."""
    wide = Widening(ATTENDS, widths).unet(a_unet(ATTENDS), chance()).eval()
    assert all(torch.isfinite(value).all() for value in wide.state_dict().values())
    again = Widening(wide.config, (96, 32)).unet(wide, chance()).eval()
    assert torch.isfinite(again(*rows())).all()


@torch.no_grad()
def test_what_was_learned_beside_it_goes_along() -> None:
    unet = a_unet(PLAIN)
    narrow = adapted(unet, 2, 3)
    for value in learned(narrow).values():
        value.copy_(0.1 * torch.randn(value.shape, generator=chance()))
    widening = Widening(PLAIN, (32, 64))
    wide = adapted(widening.unet(unet, chance()), 2, 3)
    go_on(wide, widening.learned(learned(narrow)))
    assert torch.allclose(wide(*rows(6)), narrow(*rows(6)), atol=1e-5)
    assert not torch.allclose(narrow(*rows(6)), unet(*rows()), atol=1e-2)


@pytest.mark.parametrize(
    ("widths", "told"),
    [
        ((16,), "1 widths were given for a U-Net of 2 resolutions"),
        ((24, 32), "width of 16 cannot become 24: it must be a multiple of 16"),
        ((8, 32), "width of 16 cannot become 8"),
        ((16, 64), "width of 32 cannot become 64: a resolution with attention keeps its 32"),
    ],
)
def test_widths_that_cannot_be_are_told(widths: tuple[int, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Widening(ATTENDS, widths)
