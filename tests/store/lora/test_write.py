"""What is written is read again as it was, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mezzotint.store.lora.delta import Adapter, Delta
from mezzotint.store.lora.names import Layers
from mezzotint.store.lora.read import PEFT_METADATA, layers_of, read_adapter
from mezzotint.store.lora.write import exact_number, kohya_tensors, write_kohya, write_peft
from mezzotint.types import UserError

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
CONV = ("unet", "down_blocks.0.resnets.0.conv1.weight")


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def plain_adapter(dtype: torch.dtype = torch.float32) -> Adapter:
    """What both kinds of file can hold: low ranks, some with magnitudes of outputs, in several ranks and alphas."""
    return Adapter(
        {
            ("unet", f"{BLOCK}.attn1.to_q.weight"): Delta.low_rank(
                random(2, 16, dtype=dtype), random(16, 2, dtype=dtype), alpha=2.0
            ),
            ("unet", f"{BLOCK}.attn1.to_out.0.weight"): Delta.low_rank(
                random(3, 16, dtype=dtype), random(16, 3, dtype=dtype), alpha=0.1, magnitude=torch.rand(16, 1)
            ),
            CONV: Delta.low_rank(
                random(2, 8, 3, 3, dtype=dtype),
                random(8, 2, 1, 1, dtype=dtype),
                alpha=1.0,
                magnitude=torch.rand(8, 1, 1, 1),
            ),
            ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj.weight"): Delta.low_rank(
                random(2, 16, dtype=dtype), random(16, 2, dtype=dtype), alpha=2.0
            ),
        },
        {"ss_base_model_version": "sd_v1"},
    )


def every_kind() -> dict[tuple[str, str], Delta]:
    """What only kohya's and LyCORIS' files can hold."""
    return {
        CONV: Delta.low_rank(random(2, 8, 1, 1), random(8, 3, 1, 1), alpha=1.0, mid=random(3, 2, 3, 3)),
        ("unet", f"{BLOCK}.attn1.to_k.weight"): Delta.low_rank(
            random(2, 16), random(16, 2), magnitude=torch.rand(1, 16)
        ),
        ("unet", f"{BLOCK}.attn1.to_v.weight"): Delta(
            {
                "hada_w1_a": random(16, 2),
                "hada_w1_b": random(2, 16),
                "hada_w2_a": random(16, 2),
                "hada_w2_b": random(2, 16),
            },
            alpha=1.0,
        ),
        ("unet", "up_blocks.1.resnets.0.conv2.weight"): Delta(
            {
                "lokr_w1": random(2, 2),
                "lokr_w2_a": random(1, 4),
                "lokr_w2_b": random(1, 4),
                "lokr_t2": random(1, 1, 3, 3),
            },
            alpha=0.5,
        ),
        ("unet", "conv_norm_out.weight"): Delta.full(random(8)),
        ("unet", "conv_norm_out.bias"): Delta.full(random(8)),
    }


def read_file(path: Path, layers: Layers) -> Adapter:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return read_adapter(tensors, layers, file.metadata(), name=path.name)


def assert_same(actual: Adapter, expected: Adapter) -> None:
    assert actual.changes.keys() == expected.changes.keys()
    for place, delta in expected.changes.items():
        found = actual.changes[place]
        assert found.scale == delta.scale, place
        assert found.factors.keys() == delta.factors.keys()
        for role, tensor in delta.factors.items():
            assert found.factors[role].dtype == tensor.dtype
            assert torch.equal(found.factors[role], tensor), (place, role)
        assert (found.magnitude is None) == (delta.magnitude is None)
        if found.magnitude is not None and delta.magnitude is not None:
            assert torch.equal(found.magnitude, delta.magnitude)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["kohya", "kohya for SDXL", "peft"])
def test_a_file_is_read_again_as_it_was(
    kind: str, dtype: torch.dtype, layers: Layers, places: dict, tmp_path: Path
) -> None:
    adapter = plain_adapter(dtype)
    path = tmp_path / "lora.safetensors"
    if kind == "peft":
        write_peft(adapter, path)
    else:
        write_kohya(adapter, path, places=places if kind == "kohya for SDXL" else None)
    found = read_file(path, layers)
    assert_same(found, adapter)
    assert found.metadata["ss_base_model_version"] == "sd_v1"
    if kind == "peft":
        write_peft(found, tmp_path / "again.safetensors")
        again = read_file(tmp_path / "again.safetensors", layers)
        assert_same(again, adapter)
        assert again.metadata == found.metadata


@pytest.mark.parametrize("sdxl", [False, True])
def test_every_kind_of_change_is_read_again_from_kohyas_file(
    sdxl: bool, layers: Layers, places: dict, tmp_path: Path
) -> None:
    adapter = Adapter(every_kind())
    write_kohya(adapter, tmp_path / "lora.safetensors", places=places if sdxl else None)
    assert_same(read_file(tmp_path / "lora.safetensors", layers), adapter)


def test_kohyas_names(places: dict) -> None:
    adapter = plain_adapter()
    keys = kohya_tensors(adapter).keys()
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0.dora_scale" in keys
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in keys
    keys = kohya_tensors(adapter, places=places).keys()
    assert "lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight" in keys
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha" in keys
    second = Adapter({("text_encoder_2", "text_projection.weight"): Delta.low_rank(random(1, 4), random(4, 1))})
    assert "lora_te2_text_projection.lora_up.weight" in kohya_tensors(second)
    with pytest.raises(UserError, match="no name for"):
        kohya_tensors(adapter, places={})


def test_what_kohyas_metadata_tells(layers: Layers, tmp_path: Path) -> None:
    delta = Delta.low_rank(random(4, 16), random(16, 4), alpha=2.0)
    write_kohya(Adapter({("unet", f"{BLOCK}.attn1.to_q.weight"): delta}), tmp_path / "lora.safetensors")
    metadata = read_file(tmp_path / "lora.safetensors", layers).metadata
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2.0")


@pytest.mark.parametrize("number", range(6))
def test_what_peft_has_no_place_for_is_refused(number: int, tmp_path: Path) -> None:
    place, delta = list(every_kind().items())[number]
    with pytest.raises(UserError, match="write it as kohya's"):
        write_peft(Adapter({place: delta}), tmp_path / "lora.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_alphas_that_are_the_ranks_go_without_saying(layers: Layers, tmp_path: Path) -> None:
    delta = Delta.low_rank(random(4, 16), random(16, 4), alpha=4.0)
    write_peft(Adapter({("unet", f"{BLOCK}.attn1.to_q.weight"): delta}), tmp_path / "lora.safetensors")
    found = read_file(tmp_path / "lora.safetensors", layers)
    assert PEFT_METADATA not in found.metadata
    assert found.changes["unet", f"{BLOCK}.attn1.to_q.weight"].scale == 1.0


@pytest.mark.parametrize("value", [1.0, 0.5, 0.1, 1 / 3, 1e30])
def test_a_number_is_kept_exactly(value: float) -> None:
    assert float(exact_number(value)) == value


def test_layers_are_those_of_parameters(model: dict[str, nn.Module]) -> None:
    layers = layers_of(model)
    assert layers.shape(CONV) == (8, 8, 3, 3)
    assert layers.shape(("vae", "x")) is None
