"""The packed U-Net draws what the plain one draws, whatever it is asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.packing import PackedConv, PackedLinear, can_pack, level, packed
from mezzotint.denoise.unet import UNet

CONFIG = UNetConfig(
    block_out_channels=(16, 32, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=4,
)
SIZE = (8, 10)
# Sums of up to a few hundred fp32 products in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    unet = UNet(CONFIG).eval()
    if not can_pack(unet.conv_in.weight):
        pytest.skip("this build of torch has no oneDNN")
    return unet


def inputs(rows: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, 4, *size), torch.rand(rows) * 999, torch.randn(rows, 5, 12)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("size", [SIZE, (7, 9), (16, 20)], ids=["its size", "odd", "larger"])
@pytest.mark.parametrize("linear", [False, True])
def test_it_draws_the_same(rows: int, size: tuple[int, int], linear: bool) -> None:
    torch.manual_seed(0)
    unet = UNet(UNetConfig.from_dict(CONFIG.to_dict() | {"use_linear_projection": linear})).eval()
    x, t, sequence = inputs(rows, size)
    fast = packed(unet, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(fast(x, t, sequence), unet(x, t, sequence), **TOLERANCE)
        torch.testing.assert_close(fast(x, t, projected=fast.project(sequence)), unet(x, t, sequence), **TOLERANCE)


def test_every_convolution_is_packed_for_the_size_it_sees(unet: UNet) -> None:
    fast = packed(unet, (7, 10))
    seen: dict[str, bool] = {}
    for name, module in fast.named_modules():
        if isinstance(module, PackedConv):
            module.register_forward_hook(
                lambda layer, args, _, name=name: seen.update({name: args[0].shape[2:] == layer.size})
            )
    with torch.inference_mode():
        fast(*inputs(1, (7, 10)))
    convolutions = {name for name, layer in unet.named_modules() if type(layer) is nn.Conv2d}
    assert set(seen) == convolutions
    assert all(seen.values())


def test_blocks_are_made_by_drawing_and_not_before(unet: UNet) -> None:
    """They are a second copy of the weights, which a model that is only loaded has no use for."""
    fast = packed(unet, SIZE)
    layers = [layer for layer in fast.modules() if isinstance(layer, PackedConv | PackedLinear)]
    assert all(layer.blocks is None for layer in layers)
    with torch.inference_mode():
        fast(*inputs(1, (4, 5)))
        convolutions = [layer for layer in layers if isinstance(layer, PackedConv)]
        assert all(layer.blocks is None for layer in convolutions)
        fast(*inputs(1, SIZE))
    assert all(layer.blocks is not None for layer in layers)


def test_the_plain_network_stays_as_it_was_and_lends_its_weights(unet: UNet) -> None:
    names = dict(unet.named_modules()).keys()
    fast = packed(unet, SIZE)
    assert dict(unet.named_modules()).keys() == names
    assert not any(isinstance(module, PackedConv) for module in unet.modules())
    mine, theirs = unet.state_dict(), fast.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(mine[name].data_ptr() == theirs[name].data_ptr() for name in mine)


def test_gradients_pass_as_if_it_were_plain(unet: UNet) -> None:
    x, t, sequence = inputs(2, SIZE)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(unet(x, t, sequence).square().sum(), x)
    (actual,) = torch.autograd.grad(packed(unet, SIZE)(x, t, sequence).square().sum(), x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_change_of_dtype_goes_back_to_plain_weights(unet: UNet) -> None:
    x, t, sequence = inputs(2, SIZE)
    with torch.inference_mode():
        expected = unet(x, t, sequence)
        fast = packed(unet, SIZE).double()
        torch.testing.assert_close(fast(x.double(), t, sequence.double()).float(), expected, **TOLERANCE)


def test_bf16_is_packed_too(unet: UNet) -> None:
    x, t, sequence = inputs(2, SIZE)
    with torch.inference_mode():
        expected = unet(x, t, sequence)
        fast = packed(unet.bfloat16(), SIZE)
        actual = fast(x.bfloat16(), t, sequence.bfloat16()).float()
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


def test_nothing_is_packed_where_it_cannot_be() -> None:
    with torch.device("meta"):
        unet = UNet(CONFIG)
    assert packed(unet, SIZE) is unet


def test_levels_follow_the_names() -> None:
    assert [level(name, 3) for name in ("conv_in", "down_blocks.1.resnets.0.conv1", "mid_block.resnets.0")] == [0, 1, 2]
    assert level("up_blocks.0.resnets.0.conv1", 3) == 2
    assert level("up_blocks.0.upsamplers.0.conv", 3) == 1
