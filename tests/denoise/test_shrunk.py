"""A network that sees a large latent whole, and the denoiser that takes them for high noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.packing import PackedConv, can_pack, packed
from mezzotint.denoise.shrunk import ByNoise, shrunk
from mezzotint.denoise.unet import UNet
from mezzotint.denoise.variants import with_modules
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.types import Conditioning

CONFIG = UNetConfig(
    block_out_channels=(8, 16, 16),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=4,
)
TRAINED = (8, 8)


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).eval()


def inputs(rows: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, 4, *size), torch.rand(rows) * 999, torch.randn(rows, 5, 12)


@pytest.mark.parametrize("size", [TRAINED, (7, 9), (4, 12)])
def test_at_the_trained_area_and_below_it_is_the_same_network(unet, size):
    x, t, sequence = inputs(2, size)
    with torch.inference_mode():
        assert torch.equal(shrunk(unet, TRAINED)(x, t, sequence), unet(x, t, sequence))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (12, 40)])
def test_larger_latents_are_drawn_otherwise_at_their_size(unet, size):
    x, t, sequence = inputs(2, size)
    with torch.inference_mode():
        other = shrunk(unet, TRAINED)(x, t, sequence)
        assert other.shape == x.shape
        assert not torch.allclose(other, unet(x, t, sequence), atol=1e-3)


def test_all_parameters_and_all_other_modules_are_the_very_same(unet):
    other = shrunk(unet, TRAINED)
    assert {id(p) for p in other.parameters()} == {id(p) for p in unet.parameters()}
    assert other.mid_block.attentions[0] is unet.mid_block.attentions[0]
    assert other.conv_out is unet.conv_out
    assert type(unet.down_blocks[0].downsamplers[0]).__name__ == "Downsample"  # what it was made of stays as it was


def test_the_inside_of_a_shrunk_network_has_the_trained_size(unet):
    seen = []
    hook = unet.mid_block.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape[2:])))
    with torch.inference_mode():
        for size in (TRAINED, (16, 16), (32, 32), (8, 32)):
            x, t, sequence = inputs(1, size)
            shrunk(unet, TRAINED)(x, t, sequence)
    hook.remove()
    assert seen == [(2, 2), (2, 2), (2, 2), (1, 4)]


def test_it_is_made_from_a_packed_network_too(unet):
    if not can_pack(unet.conv_in.weight):
        pytest.skip("this build of torch has no oneDNN")
    fast = packed(unet, TRAINED)
    x, t, sequence = inputs(2, (16, 16))
    with torch.inference_mode():
        # Sums of up to a few hundred fp32 products in another order.
        torch.testing.assert_close(
            shrunk(fast, TRAINED)(x, t, sequence),
            shrunk(unet, TRAINED)(x, t, sequence),
            rtol=1e-4,
            atol=1e-5,
        )
    assert any(isinstance(module, PackedConv) for module in shrunk(fast, TRAINED).modules())


def test_a_network_of_one_resolution_has_nothing_to_shrink():
    one = UNet(
        UNetConfig(
            block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            cross_attention_dim=12,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    )
    assert shrunk(one, TRAINED) is one


def test_modules_are_replaced_in_a_copy_alone():
    network = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Linear(1, 1))
    tanh = nn.Tanh()
    other = with_modules(network, {"0.1": tanh})
    assert other[0][1] is tanh
    assert isinstance(network[0][1], nn.ReLU)
    assert other[0][0] is network[0][0]
    assert other[1] is network[1]


@pytest.mark.parametrize("given", [True, False])
def test_rows_of_one_batch_go_to_the_network_of_their_noise(unet, given):
    above, below = (Denoiser(network, NoiseSchedule()) for network in (shrunk(unet, TRAINED), unet))
    both = ByNoise(above, below, 1.0)
    x, _, sequence = inputs(4, (16, 12))
    sigma, told = torch.tensor([0.5, 7.0, 1.0, 4000.0]), Conditioning(sequence)
    with torch.inference_mode():
        mixed = both(x, sigma, told, both.project(told) if given else None)
        high, low = above(x, sigma, told), below(x, sigma, told)
        # Rows of a smaller batch: the same sums, perhaps in another order.
        torch.testing.assert_close(mixed[[1, 3]], high[[1, 3]], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed[[0, 2]], low[[0, 2]], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(high[1], low[1], atol=1e-3)
        assert torch.equal(both(x, sigma + 9, told), above(x, sigma + 9, told))
        assert torch.equal(both(x, sigma / 1e5, told), below(x, sigma / 1e5, told))
