"""A LoRA file goes from one naming to another and back without its model, and its factors stay equal to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.store.header import read_header
from mezzotint.store.ldm import unet
from mezzotint.store.lora.convert import SD as SD_CONFIG
from mezzotint.store.lora.convert import convert_lora, dotted, own_layer, published_names, sdxl_places
from mezzotint.store.lora.names import flat, ldm_layers
from mezzotint.types import UserError

SD = unet.places(SD_CONFIG)
CROSS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
SELF = "up_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.1.conv1"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"


def pair(rank: int, inputs: int, outputs: int, *kernel: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Factors down and up."""
    ones = [1] * len(kernel)
    return [torch.randn(rank, inputs, *kernel, dtype=dtype), torch.randn(outputs, rank, *ones, dtype=dtype)]


def kohya(layers: dict[str, list[Tensor]], alpha: float = 2.0) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer, (down, up) in layers.items():
        tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        tensors |= {f"{layer}.alpha": torch.tensor(alpha)}
    return tensors


def sd_file() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return kohya(
        {
            f"lora_unet_{flat(CROSS)}": pair(4, 768, 64, dtype=torch.float16),
            f"lora_unet_{flat(SELF)}": pair(3, 64, 64),
            f"lora_unet_{flat(CONV)}": pair(2, 8, 16, 3, 3),
            f"lora_unet_{flat('mid_block.attentions.0.proj_in')}": pair(2, 8, 16, 1, 1),
            f"lora_te_{flat(TEXT)}": pair(4, 16, 16),
        }
    )


def sdxl_file() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return kohya(
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": pair(4, 2048, 640),
            "lora_unet_output_blocks_2_2_conv": pair(4, 1280, 1280, 3, 3),
            "lora_unet_label_emb_0_0": pair(4, 2816, 1280),
            f"lora_te1_{flat(TEXT)}": pair(4, 16, 16),
            f"lora_te2_{flat(TEXT)}": pair(4, 24, 24),
            "lora_te2_text_projection": pair(4, 24, 24),
        },
        alpha=4.0,
    )


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("make", [sd_file, sdxl_file])
def test_kohya_to_peft_and_back(make, tmp_path: Path) -> None:
    before = make()
    save_file(before, tmp_path / "a.safetensors", metadata={"ss_output_name": "cat"})
    convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "peft")
    middle = load_file(tmp_path / "b.safetensors")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in middle)
    assert len(middle) == len(before) * 2 / 3
    convert_lora(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    assert_equal(load_file(tmp_path / "c.safetensors"), before)
    assert read_header(tmp_path / "c.safetensors").metadata["ss_output_name"] == "cat"
    convert_lora(tmp_path / "c.safetensors", tmp_path / "d.safetensors", "peft")
    assert_equal(load_file(tmp_path / "d.safetensors"), middle)


def test_the_layers_are_those_of_diffusers(tmp_path: Path) -> None:
    save_file(sdxl_file(), tmp_path / "a.safetensors")
    convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "peft")
    names = {name.rsplit(".", 2)[0] for name in load_file(tmp_path / "b.safetensors")}
    assert names == {
        "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k",
        "unet.up_blocks.0.upsamplers.0.conv",
        "unet.add_embedding.linear_1",
        f"text_encoder.{TEXT}",
        f"text_encoder_2.{TEXT}",
        "text_encoder_2.text_projection",
    }


def test_another_model_with_two_text_encoders_keeps_the_names_of_diffusers(tmp_path: Path) -> None:
    """What the latent diffusion code would call its blocks, the file does not tell."""
    tensors = {f"unet.{CROSS}.lora_{side}.weight": tensor for side, tensor in zip("AB", pair(4, 40, 16), strict=True)}
    text = {f"text_encoder_2.{TEXT}.lora_{side}.weight": torch.zeros(2, 2) for side in "AB"}
    for name, more in (("wide", {}), ("narrow", text)):
        save_file(tensors | more, tmp_path / name)
        convert_lora(tmp_path / name, tmp_path / "b.safetensors", "kohya")
        assert f"lora_unet_{flat(CROSS)}.alpha" in load_file(tmp_path / "b.safetensors")
    assert f"lora_te2_{flat(TEXT)}.alpha" in load_file(tmp_path / "b.safetensors")


def test_a_pickled_file_in_diffusers_old_naming(tmp_path: Path) -> None:
    down, up = pair(4, 16, 16)
    old = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora"
    torch.save({f"{old}.down.weight": down, f"{old}.up.weight": up}, tmp_path / "a.bin")
    convert_lora(tmp_path / "a.bin", tmp_path / "b.safetensors", "kohya")
    name = f"lora_unet_{flat('mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0')}"
    found = load_file(tmp_path / "b.safetensors")
    assert_equal(found, kohya({name: [down, up]}, alpha=4.0))  # the rank, which went without saying


def test_words_in_the_file_go_along_where_they_can(tmp_path: Path) -> None:
    before = sd_file() | {"bundle_emb.<cat>.emb_params": torch.randn(2, 768)}
    save_file(before, tmp_path / "a.safetensors")
    convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "kohya")
    assert_equal(load_file(tmp_path / "b.safetensors"), before)
    with pytest.raises(UserError, match="learned words"):
        convert_lora(tmp_path / "a.safetensors", tmp_path / "c.safetensors", "peft")
    assert not (tmp_path / "c.safetensors").exists()


HADA = {f"lora_unet_{flat(SELF)}.hada_w{n}_{side}": torch.randn(4, 4) for n in (1, 2) for side in "ab"}
HADA |= {f"lora_unet_{flat(SELF)}.alpha": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("tensors", "to", "said"),
    [
        (sd_file(), "comfy", "no naming 'comfy'"),
        (HADA, "peft", "as peft's LoRA cannot"),
        (kohya({"lora_unet_some_block": pair(2, 4, 4)}), "peft", "3 tensors, lora_unet_some_block.alpha"),
        ({"x.lora_down.weight": torch.zeros(2, 4)}, "peft", "x"),
        ({"conv.weight": torch.zeros(2, 4)}, "peft", "is no LoRA: its tensors are conv.weight"),
    ],
)
def test_what_cannot_be_converted(tensors: dict[str, Tensor], to: str, said: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=said):
        convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_lycoris_goes_to_kohya(tmp_path: Path) -> None:
    save_file(HADA, tmp_path / "a.safetensors")
    convert_lora(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "kohya")
    assert_equal(load_file(tmp_path / "b.safetensors"), HADA)


def test_every_layer_of_published_models_is_told_by_its_flattened_name() -> None:
    with torch.device("meta"):
        config = CLIPTextConfig(hidden_size=32, num_attention_heads=2, with_projection=True, projection_dim=8)
        text = CLIPTextModel(config)
    names = {name.rpartition(".")[0] for name in [*SD, *sdxl_places(), *text.state_dict()]}
    assert [name for name in names if dotted(flat(name)) != name] == []
    assert dotted("down_blocks_0_sofa") is None


def test_the_names_of_the_latent_diffusion_code_do_not_contradict_each_other() -> None:
    known = published_names()
    for places in (SD, sdxl_places()):
        for layer, theirs in ldm_layers(places).items():
            assert known[theirs] == known[flat(theirs)] == layer
            assert own_layer(f"lora_unet_{flat(theirs)}") == own_layer(f"unet.{layer}") == ("unet", layer)
