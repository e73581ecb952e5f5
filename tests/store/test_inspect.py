"""What is told of files, from their headers alone: each family by the keys and shapes of its published files."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from mezzotint.store.inspect import inspect
from mezzotint.types import UserError

UNET = "model.diffusion_model."
TELL = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"


def hollow(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F16", metadata: dict[str, str] | None = None):
    """A safetensors file of zeros, as sparse as the file system allows."""
    width, place, header = {"F16": 2, "BF16": 2, "F32": 4}[dtype], 0, {}
    for name, shape in shapes.items():
        size = width
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header | ({"__metadata__": metadata} if metadata is not None else {})).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    return path


def checkpoint(context: int, channels: int = 4, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The tensors that tell a single-file model's family."""
    return {
        f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, context),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        **more,
    }


ADDED = {f"{UNET}label_emb.0.0.weight": (1280, 2816)}


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        (checkpoint(768), "Stable Diffusion 1.x"),
        (checkpoint(768, 9), "Stable Diffusion 1.x inpainting"),
        (checkpoint(768, 8), "Stable Diffusion 1.x instruct-pix2pix"),
        (checkpoint(1024), "Stable Diffusion 2.x"),
        (checkpoint(1024, 5), "Stable Diffusion 2.x depth"),
        (checkpoint(1024) | {f"{UNET}label_emb.0.0.weight": (1280, 1536)}, "Stable Diffusion 2.x unCLIP"),
        (checkpoint(2048) | ADDED, "Stable Diffusion XL"),
        (checkpoint(1280) | {f"{UNET}label_emb.0.0.weight": (1536, 2560)}, "Stable Diffusion XL refiner"),
        (checkpoint(1280), "latent diffusion 1.4B"),
        (checkpoint(192), "Stable Diffusion layout, 192 wide text"),
    ],
)
def test_families_of_single_files(tmp_path: Path, shapes: dict[str, tuple[int, ...]], family: str):
    told = inspect(hollow(tmp_path / "any-name.safetensors", shapes))
    assert told["layout"] == "single file, latent diffusion layout"
    assert told["family"] == family
    assert told["dtype"] == "float16"
    assert told["parts"]["vae"] == {"dtype": "float16", "parameters": 512 * 4 * 9}
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"].values())


@pytest.mark.parametrize(("dtype", "spread"), [("F16", 0.25), ("F32", 0.25), ("BF16", 0.25), ("F16", 2**-7)])
def test_v_prediction_is_told_by_the_spread_of_one_tensor(tmp_path: Path, dtype: str, spread: float):
    path = hollow(tmp_path / "two.safetensors", {TELL: (320,), **checkpoint(1024)}, dtype)
    numbers = [spread if index % 2 == 0 else -spread for index in range(320)]
    packed = struct.pack("<320e" if dtype == "F16" else "<320f", *numbers)
    if dtype == "BF16":
        packed = b"".join(packed[place + 2 : place + 4] for place in range(0, len(packed), 4))
    with path.open("r+b") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        file.write(packed)
    told = inspect(path)
    assert told["prediction_type"] == ("v_prediction" if spread > 0.09 else "epsilon")
    assert f"deviation {spread:.3f}" in told["prediction_evidence"]


def test_v_prediction_is_told_by_a_marker_or_by_metadata(tmp_path: Path):
    marked = inspect(hollow(tmp_path / "a.safetensors", checkpoint(2048) | ADDED | {"v_pred": (1,)}))
    assert (marked["prediction_type"], marked["prediction_evidence"]) == ("v_prediction", "tensor v_pred")
    spec = {"modelspec.prediction_type": "v"}
    assert inspect(hollow(tmp_path / "b.safetensors", checkpoint(768), metadata=spec))["prediction_type"] == (
        "v_prediction"
    )
    assert inspect(hollow(tmp_path / "c.safetensors", checkpoint(768)))["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (
            {"lora_unet_x_attn2_to_k.lora_down.weight": (8, 768), "lora_unet_x_attn2_to_k.alpha": ()},
            {"layout": "LoRA", "ranks": [8], "family": "Stable Diffusion 1.x"},
        ),
        ({"unet.x.attn2.to_k.lora_A.weight": (4, 2048)}, {"layout": "LoRA", "family": "Stable Diffusion XL"}),
        ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, {"layout": "ControlNet"}),
        (
            {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)},
            {"layout": "autoencoder, latent diffusion names", "latent_channels": 4},
        ),
        ({"text_model.embeddings.token_embedding.weight": (9, 5)}, {"layout": "CLIP, transformers names", "width": 5}),
        ({"emb_params": (2, 768)}, {"layout": "textual inversion", "vectors": {"emb_params": [2, 768]}}),
        ({"something": (3,)}, {"layout": "unknown tensors", "first": ["something"], "parameters": 3}),
    ],
)
def test_other_files(tmp_path: Path, shapes: dict[str, tuple[int, ...]], expected: dict[str, Any]):
    told = inspect(hollow(tmp_path / "x.safetensors", shapes))
    assert told.items() >= expected.items()


def test_a_folder_of_ours(tiny_folder: Path):
    told = inspect(tiny_folder)
    assert told["layout"] == "diffusers folder"
    assert told["prediction_type"] == "v_prediction"
    assert told["parts"]["unet"]["class"] == "UNet2DConditionModel"
    assert told["parts"]["unet"]["dtype"] == "float32"
    assert told["parameters"] == sum(part.get("parameters", 0) for part in told["parts"].values()) > 0
    assert told["name"] == "tiny"
    json.dumps(told)


@pytest.mark.parametrize(
    ("part", "layout"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "U-Net, diffusers names"),
        ("vae/diffusion_pytorch_model.safetensors", "autoencoder, diffusers names"),
        ("text_encoder/model.safetensors", "CLIP, transformers names"),
        ("vae", "part of a diffusers folder"),
    ],
)
def test_parts_of_ours(tiny_folder: Path, part: str, layout: str):
    assert inspect(tiny_folder / part)["layout"] == layout


def test_a_file_of_gigabytes_takes_no_time(tmp_path: Path):
    shapes = checkpoint(768) | {f"{UNET}middle.{index}.weight": (1280, 1280) for index in range(1000)}
    path = hollow(tmp_path / "large.safetensors", shapes, "F32")
    assert path.stat().st_size > 6e9
    began = time.process_time()  # Not the wall clock, which also tells of whatever else runs.
    inspect(path)
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("text")])
def test_what_is_no_model(tmp_path: Path, make: Any):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(UserError, match="x"):
        inspect(path)
