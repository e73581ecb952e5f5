"""A layer is found by any name that a file has for it, and by no other."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mezzotint.store.lora.names import ENDINGS, Layers, flat, part_of, split

Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "text_model.encoder.layers.0.self_attn.out_proj"


@pytest.mark.parametrize(
    ("key", "layer", "role"),
    [
        ("lora_unet_conv_in.lora_down.weight", "lora_unet_conv_in", "lora_down"),
        ("lora_unet_conv_in.lora_mid.weight", "lora_unet_conv_in", "lora_mid"),
        ("lora_te_x.alpha", "lora_te_x", "alpha"),
        ("lora_te_x.hada_w2_b", "lora_te_x", "hada_w2_b"),
        ("lora_te_x.lokr_w2", "lora_te_x", "lokr_w2"),
        ("lora_unet_conv_norm_out.w_norm", "lora_unet_conv_norm_out", "diff"),
        (f"unet.{Q[:-5]}.processor.to_q_lora.down.weight", f"unet.{Q}", "lora_down"),
        (f"unet.{Q[:-5]}.processor.to_q_lora.alpha", f"unet.{Q}", "alpha"),
        (f"unet.{Q}.lora.up.weight", f"unet.{Q}", "lora_up"),
        (f"unet.{Q}.lora.alpha", f"unet.{Q}", "alpha"),
        (f"unet.{Q}.lora_A.weight", f"unet.{Q}", "lora_down"),
        (f"base_model.model.{Q}.lora_B.default.weight", Q, "lora_up"),
        (f"unet.base_model.model.{Q}.lora_B.a-name.weight", f"unet.{Q}", "lora_up"),
        (f"unet.{Q}.lora_magnitude_vector", f"unet.{Q}", "lora_magnitude_vector"),
        (f"unet.{Q}.lora_magnitude_vector.weight", f"unet.{Q}", "lora_magnitude_vector"),
        (f"unet.{Q}.lora_magnitude_vector.default.weight", f"unet.{Q}", "lora_magnitude_vector"),
        (f"text_encoder.{TEXT}.lora_linear_layer.down.weight", f"text_encoder.{TEXT}", "lora_down"),
    ],
)
def test_a_key_is_taken_apart(key: str, layer: str, role: str) -> None:
    found = split(key)
    assert found is not None
    assert (found.layer, found.role) == (layer, role)


@pytest.mark.parametrize("key", ["", ".alpha", "alpha", "lora_unet_conv_in.oft_blocks", "conv_in.weight", "x.lora_A"])
def test_what_is_no_key_of_a_lora_is_none(key: str) -> None:
    assert split(key) is None


@pytest.mark.parametrize(
    "name",
    [
        f"unet.{Q}",
        f"lora_unet_{flat(Q)}",
        f"lycoris_{flat(Q)}",
        Q,
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
        "unet.input_blocks.3.1.transformer_blocks.0.attn1.to_q",
        "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn1.to_q",
    ],
)
def test_a_layer_of_the_unet_has_these_names(layers: Layers, name: str) -> None:
    assert layers.find(name) == ("unet", Q)


@pytest.mark.parametrize(
    "name",
    [
        f"text_encoder.{TEXT}",
        f"lora_te_{flat(TEXT)}",
        f"lora_te1_{flat(TEXT)}",
        f"clip_l.{TEXT}",
        f"text_encoders.clip_l.transformer.{TEXT}",
        TEXT,
        TEXT.removeprefix("text_model."),
        "text_encoder.text_model.encoder.layers.0.self_attn.to_out",
    ],
)
def test_a_layer_of_the_text_encoder_has_these_names(layers: Layers, name: str) -> None:
    assert layers.find(name) == ("text_encoder", TEXT)


def test_every_layer_is_found_by_its_flattened_name_in_both_layouts(layers: Layers, places: dict) -> None:
    for name, piece in places.items():
        layer, source = name.rpartition(".")[0], piece.source.rpartition(".")[0]
        assert layers.find(f"lora_unet_{flat(layer)}") == ("unet", layer)
        assert layers.find(f"lora_unet_{flat(source)}") == ("unet", layer)


@pytest.mark.parametrize(
    "name",
    ["lora_te2_text_projection", "lora_unet_conv", "unet.conv_in.conv", "conv-in", "lora_te_conv_in", "vae.conv_in"],
)
def test_other_names_find_nothing(layers: Layers, name: str) -> None:
    assert layers.find(name) is None


def test_the_only_text_encoder_of_the_refiner_is_the_second() -> None:
    refiner = Layers({"text_encoder_2": {"text_projection.weight": (4, 4)}})
    assert refiner.find("lora_te_text_projection") == ("text_encoder_2", "text_projection")
    assert refiner.find("lora_te2_text_projection") == ("text_encoder_2", "text_projection")
    both = Layers({"text_encoder": {}, "text_encoder_2": {"text_projection.weight": (4, 4)}})
    assert both.find("lora_te1_text_projection") is None


# A busy machine is no reason to fail.
CALM = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.lists(st.sampled_from(["a", "b", "to_q", "to", "q", "0", "1"]), min_size=1, max_size=4).map(".".join)


@CALM
@given(st.sets(NAMES, min_size=1, max_size=12))
def test_flattened_names_are_never_guessed(names: set[str]) -> None:
    """A name finds the one layer that flattens to it, and none where several do: a.b_c and a_b.c."""
    layers = Layers({"unet": {f"{name}.weight": (1, 1) for name in names}})
    for name in names:
        others = [other for other in names if flat(other) == flat(name)]
        assert layers.find(f"lora_unet_{flat(name)}") == (("unet", name) if len(others) == 1 else None)
        assert layers.find(f"unet.{name}") == ("unet", name)


@CALM
@given(NAMES, st.sampled_from(sorted(ENDINGS)))
def test_every_ending_is_told_from_the_name_before_it(name: str, ending: str) -> None:
    key = split(f"unet.{name}{ending}")
    assert key is not None
    assert (key.role, key.scheme) == ENDINGS[ending]
    assert part_of(key.layer) == ("unet", name, False)
