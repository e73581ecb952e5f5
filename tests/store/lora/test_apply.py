"""Adapters go on, are weighed anew and come off, and then every bit is where it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mezzotint.denoise.packing import PackedConv, PackedLinear, can_pack, packed
from mezzotint.denoise.unet import UNet
from mezzotint.store.lora.apply import Adapters, Strength
from mezzotint.store.lora.delta import Adapter, Delta
from mezzotint.types import UserError

TO_K = ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight")
CONV = ("unet", "down_blocks.0.resnets.0.conv1.weight")
BIAS = ("unet", "conv_in.bias")
TEXT = ("text_encoder", "text_model.encoder.layers.0.mlp.fc1.weight")


def make_adapter(model: dict[str, nn.Module], seed: int, *, dora: bool = False, name: str = "LoRA") -> Adapter:
    """A change of a matrix, a kernel, a bias and the text encoder."""
    rng = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    changes: dict[tuple[str, str], Delta] = {BIAS: Delta.full(random(8))}
    for part, parameter in (TO_K, CONV, TEXT):
        o, i, *kernel = model[part].get_parameter(parameter).shape
        ones = [1] * len(kernel)
        magnitude = random(o, 1, *ones).abs() + 1 if dora else None
        changes[part, parameter] = Delta.low_rank(
            random(2, i, *kernel), random(o, 2, *ones), alpha=1.0, magnitude=magnitude
        )
    return Adapter(changes, name=name)


def snapshot(model: dict[str, nn.Module]) -> dict[tuple[str, str], Tensor]:
    return {(part, name): value.clone() for part, net in model.items() for name, value in net.named_parameters()}


def assert_same(model: dict[str, nn.Module], before: dict[tuple[str, str], Tensor]) -> None:
    for place, value in snapshot(model).items():
        assert torch.equal(value, before[place]), place


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dora", [False, True])
def test_after_the_last_is_off_every_bit_is_where_it_was(
    dtype: torch.dtype, dora: bool, model: dict[str, nn.Module]
) -> None:
    for net in model.values():
        net.to(dtype)
    before = snapshot(model)
    places = {place: model[place[0]].get_parameter(place[1]) for place in before}
    data = {place: parameter.data_ptr() for place, parameter in places.items()}
    first, second = make_adapter(model, 1, dora=dora), make_adapter(model, 2)
    adapters = Adapters(model)
    for weights in ({first: 1.0}, {first: 0.3, second: -1.7}, {second: 1e4}, {second: 0.1, first: 0.2}):
        adapters.set(weights)
        changed = {place for place, value in snapshot(model).items() if not torch.equal(value, before[place])}
        assert changed == {TO_K, CONV, BIAS, TEXT}
        assert all(parameter.dtype == dtype for parameter in places.values())
    adapters.set({})
    assert_same(model, before)
    # The parameters are the same objects, and hold the very memory that was read.
    assert all(model[part].get_parameter(name) is places[part, name] for part, name in places)
    assert {place: parameter.data_ptr() for place, parameter in places.items()} == data
    assert adapters.strengths == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_sum_is_made_in_32_bits_and_rounded_once(dtype: torch.dtype, model: dict[str, nn.Module]) -> None:
    for net in model.values():
        net.to(dtype)
    before = snapshot(model)
    first, second = make_adapter(model, 1), make_adapter(model, 2)
    Adapters(model).set({first: 0.5, second: Strength(unet=2.0, text_encoder=-1.0)})
    for place in (TO_K, CONV, BIAS, TEXT):
        exact = before[place].double()
        weight = -1.0 if place == TEXT else 2.0
        for adapter, strength in ((first, 0.5), (second, weight)):
            exact = exact + strength * adapter.changes[place].change(before[place].double())
        actual = model[place[0]].get_parameter(place[1])
        # Half a unit in the last place of the dtype, and fp32's rounding of a sum of a few terms on the way.
        half = torch.finfo(dtype).eps / 2
        torch.testing.assert_close(actual.double(), exact, rtol=half + 1e-6, atol=1e-5)


def test_what_was_on_before_leaves_no_trace(model: dict[str, nn.Module]) -> None:
    fresh = copy.deepcopy(model)
    first, second = make_adapter(model, 1, dora=True), make_adapter(model, 2)
    adapters = Adapters(model)
    for weights in ({second: 3.0}, {}, {second: 0.7, first: 1.0}, {first: 0.25}, {first: 0.5, second: 1.0}):
        adapters.set(weights)
    Adapters(fresh).set({first: 0.5, second: 1.0})
    assert_same(model, snapshot(fresh))


def test_a_weight_of_nothing_is_nothing(model: dict[str, nn.Module]) -> None:
    before = snapshot(model)
    adapter = make_adapter(model, 1)
    adapters = Adapters(model)
    adapters.set({adapter: Strength(unet=0.0)})
    assert torch.equal(model["unet"].get_parameter(TO_K[1]), before[TO_K])
    assert not torch.equal(model["text_encoder"].get_parameter(TEXT[1]), before[TEXT])
    adapters.set({adapter: 0.0})
    assert_same(model, before)
    assert adapters.strengths == {adapter: Strength(unet=0.0, text_encoder=0.0)}


def test_half_of_dora_is_half_the_way(model: dict[str, nn.Module]) -> None:
    before = snapshot(model)
    adapter = make_adapter(model, 1, dora=True)
    adapters = Adapters(model)
    adapters.set({adapter: 1.0})
    whole = model["unet"].get_parameter(TO_K[1]).clone()
    adapters.set({adapter: 0.5})
    half = model["unet"].get_parameter(TO_K[1])
    torch.testing.assert_close(half, (before[TO_K] + whole) / 2, rtol=1e-6, atol=1e-6)  # fp32's rounding


def test_only_what_changes_is_written(model: dict[str, nn.Module]) -> None:
    unet, text = model["unet"].get_parameter(TO_K[1]), model["text_encoder"].get_parameter(TEXT[1])
    adapter = make_adapter(model, 1)
    adapters = Adapters(model)
    adapters.set({adapter: 1.0})
    kept, left = text.data_ptr(), unet.data_ptr()
    adapters.set({adapter: Strength(unet=0.5)})
    assert text.data_ptr() == kept
    assert unet.data_ptr() != left


def test_a_model_may_move_to_another_dtype_meanwhile(model: dict[str, nn.Module]) -> None:
    before = snapshot(model)
    adapter = make_adapter(model, 1)
    adapters = Adapters(model)
    adapters.set({adapter: 1.0})
    model["unet"].half()
    adapters.set({})
    for name, value in model["unet"].named_parameters():
        assert torch.equal(value, before["unet", name].half()), name
    assert torch.equal(model["text_encoder"].get_parameter(TEXT[1]), before[TEXT])


def test_the_memory_format_stays(model: dict[str, nn.Module]) -> None:
    model["unet"].to(memory_format=torch.channels_last)
    Adapters(model).set({make_adapter(model, 1): 1.0})
    assert model["unet"].get_parameter(CONV[1]).is_contiguous(memory_format=torch.channels_last)


def test_it_works_where_gradients_are_off_for_good(model: dict[str, nn.Module]) -> None:
    """Weights made under inference_mode could be used nowhere else."""
    adapters = Adapters(model)
    with torch.inference_mode():
        adapters.set({make_adapter(model, 1): 1.0})
    assert not model["unet"].get_parameter(TO_K[1]).is_inference()


def test_a_packed_network_draws_with_the_adapter_and_without_it(model: dict[str, nn.Module]) -> None:
    unet = model["unet"]
    assert isinstance(unet, UNet)
    if not can_pack(unet.conv_in.weight):
        pytest.skip("this build of torch has no oneDNN")
    fast = packed(unet, (4, 4))
    assert isinstance(fast.get_submodule(CONV[1].removesuffix(".weight")), PackedConv)
    adapter = make_adapter(model, 1)
    linear = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert isinstance(fast.get_submodule(linear), PackedLinear)
    adapter = Adapter(
        {**adapter.changes, ("unet", f"{linear}.weight"): Delta.low_rank(torch.randn(2, 16), torch.randn(16, 2))}
    )
    adapters = Adapters({"unet": fast, "text_encoder": model["text_encoder"]})
    torch.manual_seed(0)
    x, t, sequence = torch.randn(2, 4, 4, 4), torch.rand(2) * 999, torch.randn(2, 5, 16)
    with torch.inference_mode():
        before = fast(x, t, sequence)
        adapters.set({adapter: 1.0})
        during = fast(x, t, sequence)
        # Sums of up to a few hundred fp32 products in another order; the plain network shares the parameters.
        torch.testing.assert_close(during, unet(x, t, sequence), rtol=1e-4, atol=1e-5)
        assert (during - before).abs().max() > 0.01
        adapters.set({})
        assert torch.equal(fast(x, t, sequence), before)


def test_a_packed_network_in_another_dtype_keeps_no_blocks_of_old_weights(model: dict[str, nn.Module]) -> None:
    unet = model["unet"]
    assert isinstance(unet, UNet)
    if not can_pack(unet.conv_in.weight):
        pytest.skip("this build of torch has no oneDNN")
    fast = packed(unet, (4, 4))
    adapters = Adapters({"unet": fast, "text_encoder": model["text_encoder"]})
    fast.half()
    adapters.set({make_adapter(model, 1): 1.0})
    layer = fast.get_submodule(CONV[1].removesuffix(".weight"))
    assert isinstance(layer, PackedConv)
    assert layer.blocks is None
    fast.float()
    x, t, sequence = torch.randn(1, 4, 4, 4), torch.rand(1) * 999, torch.randn(1, 5, 16)
    with torch.inference_mode():
        # The layers that the adapter does not touch have blocks from before the weights were rounded to 16 bits.
        torch.testing.assert_close(fast(x, t, sequence), unet(x, t, sequence), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("place", "shape"),
    [
        (("unet", "nothing.weight"), (4, 4)),
        (("unet", "conv_in.nothing"), (4, 4)),
        (("text_encoder_2", "text_projection.weight"), (4, 4)),
        (TO_K, (16, 17)),
    ],
)
def test_an_adapter_of_another_model_is_refused_before_anything_changes(
    place: tuple[str, str], shape: tuple[int, ...], model: dict[str, nn.Module]
) -> None:
    before = snapshot(model)
    good = make_adapter(model, 1)
    adapters = Adapters(model)
    with pytest.raises(UserError, match=f"^mine changes {place[1]}"):
        adapters.set({good: 1.0, Adapter({place: Delta.full(torch.zeros(shape))}, name="mine"): 1.0})
    assert_same(model, before)
    assert adapters.strengths == {}


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_a_finite_number(weight: float, model: dict[str, nn.Module]) -> None:
    with pytest.raises(UserError, match="finite"):
        Adapters(model).set({make_adapter(model, 1): weight})
