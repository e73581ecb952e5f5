"""The U-Net without its coarsest self-attention, against the same network computed another way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mezzotint.denoise.attention import TransformerBlock
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.packing import PackedLinear, can_pack, packed, repack
from mezzotint.denoise.perturbed import OwnValues, perturbed
from mezzotint.denoise.unet import UNet
from mezzotint.types import UserError

VALUES: dict[str, Any] = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SIZE = (8, 12)
# The same fp32 products; packed ones are summed in another order.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def network(**changes: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(**(VALUES | changes))).eval()


def inputs(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, 4, *SIZE), torch.rand(rows) * 999, torch.randn(rows, 5, 12)


def by_hooks(unet: UNet, names: list[str]) -> torch.Tensor:
    """What the network says when these attentions answer with W_out W_v x + b, computed from the weights."""

    def answer(attention: Any, args: Any, _: Any) -> torch.Tensor:
        out = attention.to_out[0]
        return F.linear(args[0], out.weight @ attention.to_v.weight, out.bias)

    hooks = [unet.get_submodule(name).register_forward_hook(answer) for name in names]
    said = unet(*inputs())
    for hook in hooks:
        hook.remove()
    return said


MID = ["mid_block.attentions.0.transformer_blocks.0.attn1"]


@torch.inference_mode()
def test_the_mid_block_attends_to_itself_alone():
    unet = network()
    before = unet(*inputs())
    said = perturbed(unet)(*inputs())
    torch.testing.assert_close(said, by_hooks(unet, MID), **TOLERANCE)
    assert (said - before).abs().max() > 1e-3, "or the tolerance says nothing"
    assert torch.equal(unet(*inputs()), before)


@torch.inference_mode()
def test_every_transformer_of_the_mid_block_is_changed():
    unet = network(transformer_layers_per_block=(1, 1, 2))
    names = [MID[0], MID[0].replace("blocks.0", "blocks.1")]
    torch.testing.assert_close(perturbed(unet)(*inputs()), by_hooks(unet, names), **TOLERANCE)


@pytest.mark.parametrize("coarsest", [True, False])
@torch.inference_mode()
def test_without_a_mid_block_it_is_the_coarsest_level_with_attention(coarsest):
    down, up = VALUES["down_block_types"], VALUES["up_block_types"]
    kinds = (
        {} if coarsest else {"down_block_types": (*down[:2], "DownBlock2D"), "up_block_types": ("UpBlock2D", *up[1:])}
    )
    unet = network(mid_block_type=None, **kinds)
    places = ["down_blocks.2", "up_blocks.0"] if coarsest else ["down_blocks.1", "up_blocks.1"]
    names = [name for name, _ in unet.named_modules() if name.endswith("attn1") and name.startswith(tuple(places))]
    assert len(names) == 3  # one on the way down, two on the way up
    torch.testing.assert_close(perturbed(unet)(*inputs()), by_hooks(unet, names), **TOLERANCE)


def test_without_self_attention_there_is_nothing_to_take_away():
    plain = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3, "mid_block_type": None}
    with pytest.raises(UserError, match="no self-attention"):
        perturbed(network(**plain))


def test_it_shares_every_layer_and_its_texts():
    unet = network()
    worse = perturbed(unet)
    mine, theirs = dict(unet.named_parameters()), dict(worse.named_parameters())
    assert list(mine) == list(theirs)
    assert all(mine[name] is theirs[name] for name in mine)
    assert sum(isinstance(module, OwnValues) for module in worse.modules()) == 1
    assert not any(isinstance(module, OwnValues) for module in unet.modules())
    kept, given = dict(unet.named_modules()), dict(worse.named_modules())
    own = [name for name in given if name not in kept or kept[name] is not given[name]]
    assert own == ["", *(".".join(MID[0].split(".")[:count]) for count in range(1, 7))]
    with torch.inference_mode():
        told = unet.project(inputs()[2])
        x, t, sequence = inputs()
        assert torch.equal(worse(x, t, None, None, told), worse(x, t, sequence))


def test_a_layer_that_changes_changes_in_both():
    """As a LoRA does: the weight in place, then `repack`."""
    unet = packed(network(), SIZE)
    if not can_pack(unet.conv_in.weight):
        pytest.skip("this build of torch has no oneDNN")
    worse = perturbed(unet)
    block = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0")
    assert isinstance(block, TransformerBlock)
    value = block.attn1.to_v
    assert isinstance(value, PackedLinear)
    with torch.inference_mode():
        first = worse(*inputs())
        torch.testing.assert_close(first, by_hooks(network(), MID), **TOLERANCE)
    with torch.no_grad():
        value.weight.mul_(-1)
    repack(value)
    with torch.inference_mode():
        again = worse(*inputs())
        assert not torch.allclose(first, again)
        torch.testing.assert_close(again, by_hooks(unet, MID), **TOLERANCE)
