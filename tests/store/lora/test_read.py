"""Every layout of LoRA file, made by hand for one tiny model, comes to the same changes; what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mezzotint.store.lora.delta import Adapter
from mezzotint.store.lora.names import Layers, flat
from mezzotint.store.lora.read import layers_of, peft_metadata, read_adapter
from mezzotint.types import UserError

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
TO_K = f"{BLOCK}.attn2.to_k"
TO_OUT = f"{BLOCK}.attn1.to_out.0"
ATTENTION = [TO_K, TO_OUT, "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"]
OTHERS = [
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.1.resnets.0.conv_shortcut",
    "down_blocks.1.attentions.0.proj_in",
    "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.0.upsamplers.0.conv",
    "time_embedding.linear_2",
    "conv_in",
]
TEXT = ["text_model.encoder.layers.0.self_attn.out_proj", "text_model.encoder.layers.1.mlp.fc1"]
PLACES = [("unet", layer) for layer in ATTENTION + OTHERS] + [("text_encoder", layer) for layer in TEXT]
RANK = 2

Factors = dict[tuple[str, str], tuple[Tensor, Tensor]]
"""down and up of every layer, in the shapes that kohya gives them."""


@pytest.fixture
def factors(model: dict[str, nn.Module]) -> Factors:
    torch.manual_seed(0)
    made: Factors = {}
    for part, layer in PLACES:
        outputs, *inputs = model[part].get_parameter(f"{layer}.weight").shape
        ones = [1] * (len(inputs) - 1)
        made[part, layer] = (torch.randn(RANK, *inputs), torch.randn(outputs, RANK, *ones))
    return made


@pytest.fixture
def expected(model: dict[str, nn.Module], factors: Factors) -> dict[tuple[str, str], Tensor]:
    """The change of every weight, with alpha as the rank."""
    return {
        (part, f"{layer}.weight"): (up.flatten(1) @ down.flatten(1)).reshape(
            model[part].get_parameter(f"{layer}.weight").shape
        )
        for (part, layer), (down, up) in factors.items()
    }


def kohya(factors: Factors, rename: Callable[[str], str] = lambda layer: layer, **prefixes: str) -> dict[str, Tensor]:
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te_"} | prefixes
    made: dict[str, Tensor] = {}
    for (part, layer), (down, up) in factors.items():
        name = prefixes[part] + flat(rename(layer) if part == "unet" else layer)
        made |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(RANK)}
    return made


def with_endings(factors: Factors, down: str, up: str, name: Callable[[str, str], str]) -> dict[str, Tensor]:
    return {
        f"{name(part, layer)}{ending}": tensor
        for (part, layer), pair in factors.items()
        for ending, tensor in zip((down, up), pair, strict=True)
    }


def as_kohya(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    return kohya(factors)


def as_kohya_xl(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    return kohya(factors, ldm, text_encoder="lora_te1_")


def as_peft(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    return with_endings(factors, ".lora_A.weight", ".lora_B.weight", lambda part, layer: f"{part}.{layer}")


def as_peft_alone(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    return with_endings(
        factors, ".lora_A.default.weight", ".lora_B.default.weight", lambda part, layer: f"base_model.model.{layer}"
    )


def as_peft_of_transformers_5(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    return {key.replace("text_model.", ""): tensor for key, tensor in as_peft(factors, ldm).items()}


def as_diffusers(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    unet = {place: pair for place, pair in factors.items() if place[0] == "unet"}
    text = {place: pair for place, pair in factors.items() if place[0] == "text_encoder"}
    ends = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    return with_endings(
        unet, ".lora.down.weight", ".lora.up.weight", lambda part, layer: f"unet.{layer}"
    ) | with_endings(text, *ends, lambda part, layer: f"text_encoder.{layer}")


def as_omi(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    names = {"unet": lambda layer: f"unet.{ldm(layer)}", "text_encoder": lambda layer: f"clip_l.{layer}"}
    return with_endings(factors, ".lora_down.weight", ".lora_up.weight", lambda part, layer: names[part](layer))


def as_comfy(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    names = {
        "unet": lambda layer: f"diffusion_model.{ldm(layer)}",
        "text_encoder": lambda layer: f"text_encoders.clip_l.transformer.{layer}",
    }
    return with_endings(factors, ".lora_down.weight", ".lora_up.weight", lambda part, layer: names[part](layer))


def as_lokr(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for (part, layer), (down, up) in factors.items():
        name = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + flat(layer)
        made[f"{name}.lokr_w1"] = torch.ones(1, 1)
        made[f"{name}.lokr_w2_a"], made[f"{name}.lokr_w2_b"] = up.flatten(1), down.flatten(1)
    return made


def as_loha(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for (part, layer), (down, up) in factors.items():
        name = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + flat(layer)
        made[f"{name}.hada_w1_a"], made[f"{name}.hada_w1_b"] = up.flatten(1), down.flatten(1)
        made[f"{name}.hada_w2_a"] = torch.ones(len(up), 1)
        made[f"{name}.hada_w2_b"] = torch.ones(1, down[0].numel())
        made[f"{name}.alpha"] = torch.tensor(float(RANK))
    return made


def as_diff(factors: Factors, ldm: Callable[[str], str]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for (part, layer), (down, up) in factors.items():
        name = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + flat(layer)
        made[f"{name}.diff"] = (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])
    return made


LAYOUTS = [
    as_kohya,
    as_kohya_xl,
    as_peft,
    as_peft_alone,
    as_peft_of_transformers_5,
    as_diffusers,
    as_omi,
    as_comfy,
    as_lokr,
    as_loha,
    as_diff,
]


def assert_changes(adapter: Adapter, model: dict[str, nn.Module], expected: dict[tuple[str, str], Tensor]) -> None:
    assert adapter.changes.keys() == expected.keys()
    for (part, name), delta in adapter.changes.items():
        weight = model[part].get_parameter(name)
        # Sums of two products in fp32, in another order.
        torch.testing.assert_close(delta.change(weight), expected[part, name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_comes_to_the_same(
    layout: Callable[..., dict[str, Tensor]],
    model: dict[str, nn.Module],
    layers: Layers,
    places: dict,
    factors: Factors,
    expected: dict[tuple[str, str], Tensor],
) -> None:
    ldm = {name.rpartition(".")[0]: piece.source.rpartition(".")[0] for name, piece in places.items()}
    assert_changes(read_adapter(layout(factors, ldm.__getitem__), layers), model, expected)


def test_the_oldest_layout_of_diffusers_has_attention_alone(
    model: dict[str, nn.Module], layers: Layers, factors: Factors, expected: dict[tuple[str, str], Tensor]
) -> None:
    tensors: dict[str, Tensor] = {}
    for layer in ATTENTION:
        block, leaf = layer.removesuffix(".0").rsplit(".", 1)
        for ending, tensor in zip(("down", "up"), factors["unet", layer], strict=True):
            tensors[f"unet.{block}.processor.{leaf}_lora.{ending}.weight"] = tensor
    for ending, tensor in zip(("down", "up"), factors["text_encoder", TEXT[0]], strict=True):
        name = TEXT[0].replace("out_proj", "to_out_lora")
        tensors[f"text_encoder.{name}.{ending}.weight"] = tensor
    kept = [("unet", f"{layer}.weight") for layer in ATTENTION] + [("text_encoder", f"{TEXT[0]}.weight")]
    assert_changes(read_adapter(tensors, layers), model, {place: expected[place] for place in kept})
    without_prefix = {key.removeprefix("unet."): tensor for key, tensor in tensors.items() if key.startswith("unet.")}
    assert read_adapter(without_prefix, layers).changes.keys() == set(kept[:-1])


def test_alpha_over_rank_scales(layers: Layers, factors: Factors, expected: dict[tuple[str, str], Tensor]) -> None:
    tensors = kohya(factors)
    for number, key in enumerate(key for key in tensors if key.endswith(".alpha")):
        tensors[key] = torch.tensor(2.0**number)
    adapter = read_adapter(tensors, layers)
    scales = {2.0**number / RANK for number in range(len(factors))}
    assert {delta.scale for delta in adapter.changes.values()} == scales


def test_weights_that_are_matrices_or_kernels_by_choice(
    model: dict[str, nn.Module], layers: Layers, factors: Factors, expected: dict[tuple[str, str], Tensor]
) -> None:
    """Stable Diffusion 1's proj_in is a 1x1 convolution and SDXL's a matrix: a file may have it the other way."""
    kernel, matrix = ("unet", "down_blocks.1.attentions.0.proj_in"), ("unet", TO_K)
    down, up = factors[kernel]
    other = {kernel: (down[:, :, 0, 0], up[:, :, 0, 0])}
    down, up = factors[matrix]
    other[matrix] = (down[:, :, None, None], up[:, :, None, None])
    adapter = read_adapter(kohya(other), layers)
    assert_changes(
        adapter, model, {(part, f"{layer}.weight"): expected[part, f"{layer}.weight"] for part, layer in other}
    )
    # In the adapter they are as the layer has them, so that they are written so.
    assert adapter.changes["unet", f"{kernel[1]}.weight"].factors["lora_up"].shape == (16, RANK, 1, 1)
    assert adapter.changes["unet", f"{TO_K}.weight"].factors["lora_down"].shape == (RANK, 16)


def test_biases_and_norms(model: dict[str, nn.Module], layers: Layers) -> None:
    weight, bias = torch.randn(8), torch.randn(8)
    adapter = read_adapter(
        {
            "lora_unet_conv_norm_out.w_norm": weight,
            "lora_unet_conv_norm_out.b_norm": bias,
            "lora_unet_conv_in.diff_b": bias,
        },
        layers,
    )
    assert set(adapter.changes) == {
        ("unet", "conv_norm_out.weight"),
        ("unet", "conv_norm_out.bias"),
        ("unet", "conv_in.bias"),
    }
    assert torch.equal(adapter.changes["unet", "conv_norm_out.bias"].change(torch.zeros(8)), bias)


@pytest.mark.parametrize("layer", [TO_K, "down_blocks.0.resnets.0.conv1"])
def test_kohyas_magnitude_tells_its_axis_by_its_shape_and_pefts_is_of_outputs(
    layer: str, model, layers: Layers
) -> None:
    weight = model["unet"].get_parameter(f"{layer}.weight")
    o, i, *kernel = weight.shape
    ones = [1] * len(kernel)
    pair = {
        f"unet.{layer}.lora_A.weight": torch.randn(2, i, *kernel),
        f"unet.{layer}.lora_B.weight": torch.randn(o, 2, *ones),
    }
    lengths = torch.rand(o) + 1

    def magnitude(key: str, value: Tensor) -> Tensor:
        found = read_adapter(pair | {f"unet.{layer}.{key}": value}, layers).changes["unet", f"{layer}.weight"].magnitude
        assert found is not None
        return found

    assert magnitude("dora_scale", lengths.reshape(o, 1, *ones)).shape == (o, 1, *ones)
    assert magnitude("dora_scale", torch.rand(1, i, *ones)).shape == (1, i, *ones)
    assert magnitude("lora_magnitude_vector", lengths).shape == (o, 1, *ones)
    assert torch.equal(magnitude("lora_magnitude_vector", lengths.reshape(1, o, *ones)).flatten(), lengths)
    with pytest.raises(UserError, match="magnitude has shape"):
        magnitude("dora_scale", torch.rand(o + 1))


def test_one_tensor_under_two_names_counts_once(layers: Layers, factors: Factors, places: dict) -> None:
    """OneTrainer has written files that name each layer in both layouts."""
    one = {("unet", TO_K): factors["unet", TO_K]}
    ldm = {name.rpartition(".")[0]: piece.source.rpartition(".")[0] for name, piece in places.items()}
    both = kohya(one) | kohya(one, ldm.__getitem__)
    assert len(read_adapter(both, layers).changes) == 1
    key = next(key for key in both if "input_blocks" in key and key.endswith("lora_up.weight"))
    with pytest.raises(UserError, match="twice, and not the same"):
        read_adapter(both | {key: both[key] + 1}, layers)


def test_pefts_configuration_tells_alpha(layers: Layers, factors: Factors, tmp_path: Path) -> None:
    def scales(config: dict[str, object]) -> dict[str, float]:
        adapter = read_adapter(
            as_peft(factors, str), layers, {"lora_adapter_metadata": json.dumps(config)}, name="file.safetensors"
        )
        return {name.removesuffix(".weight"): delta.scale for (_, name), delta in adapter.changes.items()}

    assert set(scales({}).values()) == {1.0}
    found = scales(
        {"unet.lora_alpha": 8, "unet.alpha_pattern": {"conv_in": 4.0, TO_K: 2}, "text_encoder.lora_alpha": 1}
    )
    assert {found[TO_K], found["conv_in"], found[TO_OUT], found[TEXT[0]]} == {1.0, 2.0, 4.0, 0.5}
    assert (found[TO_K], found["conv_in"], found[TO_OUT], found[TEXT[0]]) == (1.0, 2.0, 4.0, 0.5)
    # A pattern is the end of a name, from a dot on: `conv1` is no end of `my_conv1`.
    found = scales({"lora_alpha": 2, "alpha_pattern": {"conv1": 8, "onv_in": 8}})
    assert (found["down_blocks.0.resnets.0.conv1"], found["conv_in"], found[TEXT[0]]) == (4.0, 1.0, 1.0)
    assert scales({"lora_alpha": 2, "use_rslora": True})["conv_in"] == pytest.approx(2**0.5)
    for damaged in ("[]", "{", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": 3}'):
        with pytest.raises(UserError, match="file is damaged"):
            read_adapter(as_peft(factors, str), layers, {"lora_adapter_metadata": damaged}, name="file")
    with pytest.raises(UserError, match="pattern"):
        scales({"alpha_pattern": {"down_blocks.*": 2}})
    assert peft_metadata(tmp_path / "adapter_model.safetensors") == {}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16, "r": RANK}))
    metadata = peft_metadata(tmp_path / "adapter_model.safetensors")
    adapter = read_adapter(as_peft_alone(factors, str), layers, metadata)
    assert {delta.scale for delta in adapter.changes.values()} == {8.0}


def test_tensors_that_fit_nothing_are_named_and_counted(layers: Layers, factors: Factors) -> None:
    strangers = {f"lora_unet_{name}.lora_down.weight": torch.zeros(1, 1) for name in "abcde"}
    with pytest.raises(
        UserError, match=r"mine.safetensors has 5 tensors, lora_unet_a\S+, \S+, \S+ and others, for which"
    ):
        read_adapter(kohya(factors) | strangers, layers, name="mine.safetensors")
    with pytest.raises(UserError, match="touches no layer of this model"):
        read_adapter(strangers, layers)
    with pytest.raises(UserError, match="touches no layer of this model"):
        read_adapter({}, layers)
    with pytest.raises(UserError, match=r"the tensor lora_unet_conv_in.oft_blocks of a kind"):
        read_adapter(kohya(factors) | {"lora_unet_conv_in.oft_blocks": torch.zeros(1)}, layers)


def test_without_the_map_names_of_the_latent_diffusion_code_fit_nothing(model, factors: Factors, places: dict) -> None:
    ldm = {name.rpartition(".")[0]: piece.source.rpartition(".")[0] for name, piece in places.items()}
    with pytest.raises(UserError, match="for which there is no layer"):
        read_adapter(kohya(factors, ldm.__getitem__), layers_of(model))


def test_words_bundled_with_a_lora_are_no_part_of_it(layers: Layers, factors: Factors) -> None:
    tensors = kohya(factors)
    words = {"bundle_emb.cat.string_to_param.*": torch.zeros(1, 16)}
    assert read_adapter(tensors | words, layers).changes.keys() == read_adapter(tensors, layers).changes.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_up.weight": torch.zeros(16, 3)}, "do not fit each other: lora_down .2, 16., lora_up .16, 3."),
        ({"lora_up.weight": torch.zeros(17, 2)}, r"the change has shape \[17, 16\], the layer \[16, 16\]"),
        ({"lora_up.weight": None}, "a factor is missing"),
        ({"lora_up.weight": None, "lora_down.weight": None}, "a factor is missing"),
        ({"lora_up.weight": torch.full((16, 2), torch.nan)}, "is damaged: lora_unet.*lora_up.weight"),
        ({"lora_up.weight": torch.full((16, 2), -torch.inf)}, "is damaged"),
        ({"lora_up.weight": torch.zeros(16, 2, dtype=torch.int64)}, "is damaged"),
        ({"alpha": torch.zeros(2)}, "alpha has shape"),
        ({"diff_b": torch.zeros(16)}, "it has no bias"),
        ({"dora_scale": torch.ones(16, 1), "lora_magnitude_vector": torch.ones(16)}, "two magnitudes"),
    ],
)
def test_a_change_that_does_not_fit_its_layer_is_named(
    change: dict[str, Tensor | None], message: str, layers: Layers, factors: Factors
) -> None:
    tensors = kohya({("unet", TO_K): factors["unet", TO_K]})
    for ending, tensor in change.items():
        key = f"lora_unet_{flat(TO_K)}.{ending}"
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    with pytest.raises(UserError, match=message) as error:
        read_adapter(tensors, layers, name="mine.safetensors")
    assert str(error.value).startswith("mine.safetensors")
    assert TO_K in str(error.value) or flat(TO_K) in str(error.value)
