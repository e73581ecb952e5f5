"""What is told of files, from their headers alone: each family by the keys and shapes of its published files."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mezzotint.store.inspect import inspect
from mezzotint.types import UserError

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
SPREAD = f"{UNET}output_blocks.3.1.transformer_blocks.0.norm1.bias"
"""In the tiny Stable Diffusion 2, the tensor whose spread tells of v-prediction."""

Shapes = dict[str, tuple[int, ...]]


def hollow(path: Path, shapes: Shapes, dtype: str = "F16", metadata: dict[str, str] | None = None):
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


@pytest.mark.parametrize(
    ("file", "family", "read"),
    [
        ("ldm", "latent diffusion 1.4B", "layer -1, with the final norm"),
        ("sd1", "Stable Diffusion 1.x", "layer -1, with the final norm"),
        ("sd2", "Stable Diffusion 2.x", "layer -2, with the final norm"),
        ("sdxl", "Stable Diffusion XL", "layer -2, without the final norm"),
        ("refiner", "Stable Diffusion XL refiner", "layer -2, without the final norm, and pooled"),
    ],
)
def test_families_of_single_files(tmp_path: Path, checkpoints: dict[str, Shapes], file: str, family: str, read: str):
    extra: Shapes = {"something.else": (3,), "betas": (5,)}
    path = hollow(tmp_path / "any-name.safetensors", checkpoints[file] | extra)
    told = inspect(path)
    assert told["layout"] == "single file, latent diffusion layout"
    assert told["family"] == family
    assert told["dtype"] == "float16"
    assert (told["unused_keys"], told["unknown_keys"]) == (["something.else", "betas"], ["something.else"])
    assert (told["missing_keys"], told["refusal"]) == ([], None)
    assert told["size"] == {"ldm": [256, 256], "sdxl": [1024, 1024], "refiner": [1024, 1024]}.get(file, [512, 512])
    assert all(told[key].endswith(".") for key in ("prediction_evidence", "schedule_evidence", "size_evidence"))
    vae = {name: shape for name, shape in checkpoints[file].items() if name.startswith("first_stage_model.")}
    assert told["parts"]["vae"] == {
        "dtype": "float16",
        "parameters": sum(prod(shape) for shape in vae.values()),
        "names": "latent diffusion names",
        "prefix": "first_stage_model.",
    }
    assert told["parts"]["text_encoder"]["read"] == read
    assert told["parameters"] == sum(part["parameters"] for part in told["parts"].values()) + 8
    json.dumps(told)


def test_what_is_missing_is_named(tmp_path: Path, checkpoints: dict[str, Shapes]):
    shapes = checkpoints["sd1"]
    del shapes[f"{UNET}time_embed.2.bias"]
    assert inspect(hollow(tmp_path / "x.safetensors", shapes))["missing_keys"] == [f"{UNET}time_embed.2.bias"]
    broken = inspect(hollow(tmp_path / "y.safetensors", {FIRST: (320, 4, 3, 3)}))
    assert "missing" in broken["refusal"]


@pytest.mark.parametrize(("dtype", "spread"), [("F16", 0.25), ("F32", 0.25), ("BF16", 0.25), ("F16", 2**-7)])
def test_v_prediction_is_told_by_the_spread_of_one_tensor(
    tmp_path: Path, checkpoints: dict[str, Shapes], dtype: str, spread: float
):
    shapes = {SPREAD: checkpoints["sd2"].pop(SPREAD), **checkpoints["sd2"]}  # First, so at the data's beginning.
    path = hollow(tmp_path / "two.safetensors", shapes, dtype)
    count = shapes[SPREAD][0]
    numbers = [spread if index % 2 == 0 else -spread for index in range(count)]
    packed = struct.pack(f"<{count}e" if dtype == "F16" else f"<{count}f", *numbers)
    if dtype == "BF16":
        packed = b"".join(packed[place + 2 : place + 4] for place in range(0, len(packed), 4))
    with path.open("r+b") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        file.write(packed)
    told = inspect(path)
    assert told["prediction_type"] == ("v_prediction" if spread > 0.09 else "epsilon")
    assert f"deviation {spread:.3f}" in told["prediction_evidence"]
    assert told["size"] == ([768, 768] if spread > 0.09 else [512, 512])


def test_numbers_that_cannot_be_read_tell_nothing(tmp_path: Path, checkpoints: dict[str, Shapes]):
    shapes = checkpoints["sd2"] | {"alphas_cumprod": (200_000,)}
    told = inspect(hollow(tmp_path / "long.safetensors", shapes))
    assert told["zero_terminal_snr"] is False
    assert "deviation 0.000" in told["prediction_evidence"]
    told = inspect(hollow(tmp_path / "short.safetensors", checkpoints["sd2"] | {"alphas_cumprod": (9,)}))
    assert told["zero_terminal_snr"] is True  # Zeros: nothing of the picture is left at the end.


def test_v_prediction_is_told_by_a_marker_or_by_metadata(tmp_path: Path, checkpoints: dict[str, Shapes]):
    marked = inspect(hollow(tmp_path / "a.safetensors", checkpoints["sdxl"] | {"v_pred": (0,), "ztsnr": (0,)}))
    assert (marked["prediction_type"], marked["zero_terminal_snr"]) == ("v_prediction", True)
    assert "v_pred" in marked["prediction_evidence"]
    assert "ztsnr" in marked["schedule_evidence"]
    spec = {"modelspec.prediction_type": "v", "modelspec.resolution": "640x512"}
    told = inspect(hollow(tmp_path / "b.safetensors", checkpoints["sd1"], metadata=spec))
    assert (told["prediction_type"], told["size"]) == ("v_prediction", [640, 512])
    assert inspect(hollow(tmp_path / "c.safetensors", checkpoints["sd1"]))["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (
            {
                "lora_unet_x_attn2_to_k.lora_down.weight": (8, 768),
                "lora_unet_x_attn2_to_k.lora_up.weight": (320, 8),
                "lora_unet_x_attn2_to_k.alpha": (),
            },
            {"layout": "LoRA", "ranks": [8], "alphas": [0.0], "layers": {"unet": 1}, "family": "Stable Diffusion 1.x"},
        ),
        (
            {"unet.x.attn2.to_k.lora_A.weight": (4, 2048), "unet.x.attn2.to_k.lora_B.weight": (640, 4)},
            {"layout": "LoRA", "naming": "peft, blocks named as in diffusers", "family": "Stable Diffusion XL"},
        ),
        (
            {"unet.x.attn1.to_k.lora_A.weight": (4, 320)},
            {"layout": "LoRA", "family": "unknown", "broken_layers": ["unet.x.attn1.to_k"]},
        ),
        (
            {"lora_te2_x_fc1.hada_w1_a": (4, 3), "lora_te2_x_fc1.hada_w1_b": (3, 4)},
            {"layout": "LoRA", "family": "Stable Diffusion XL", "ranks": []},
        ),
        ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, {"layout": "ControlNet"}),
        (
            {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)},
            {"layout": "autoencoder, latent diffusion names", "latent_channels": 4},
        ),
        ({"text_model.embeddings.token_embedding.weight": (9, 5)}, {"layout": "CLIP, transformers names", "width": 5}),
        (
            {"emb_params": (2, 768)},
            {"layout": "textual inversion", "vectors": {"emb_params": [2, 768]}, "words": ["x"]},
        ),
        (
            {"clip_l": (2, 768), "clip_g": (2, 1280)},
            {"layout": "textual inversion", "family": "Stable Diffusion XL"},
        ),
        ({"<cat>": (1024,)}, {"layout": "textual inversion", "words": ["<cat>"], "family": "Stable Diffusion 2.x"}),
        (
            {"unet.x.attn2.to_k.lora_A.weight": (4, 1280), "unet.x.attn2.to_k.lora_B.weight": (768, 4)},
            {"layout": "LoRA", "family": "Stable Diffusion XL refiner"},
        ),
        (
            {"unet.x.attn2.to_k.lora_A.weight": (4, 1280), "unet.x.attn2.to_k.lora_B.weight": (640, 4)},
            {"layout": "LoRA", "family": "latent diffusion 1.4B"},
        ),
        (
            {"image_proj.latents": (1, 16, 768), "image_proj.proj_in.weight": (768, 1280)}
            | {"image_proj.norm_out.weight": (768,), "ip_adapter.1.to_k_ip.weight": (320, 768)},
            {"layout": "image adapter", "kind": "plus", "image_width": 1280, "family": "Stable Diffusion 1.x"},
        ),
        (
            {"image_proj.perceiver.weight": (9, 9), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
            {"layout": "image adapter", "kind": "unknown", "family": "Stable Diffusion XL"},
        ),
        (
            {"image_proj.latents": (1, 16, 768), "ip_adapter.1.to_k_ip.weight": (9,)},
            {"layout": "image adapter", "kind": "plus", "family": "unknown"},
        ),
        ({}, {"layout": "no tensors", "tensors": 0, "parameters": 0}),
        ({"something": (3, 1, 2)}, {"layout": "unknown tensors", "first": ["something"], "parameters": 6}),
    ],
)
def test_other_files(tmp_path: Path, shapes: Shapes, expected: dict[str, Any]):
    told = inspect(hollow(tmp_path / "x.safetensors", shapes))
    assert {name: told[name] for name in expected} == expected


def test_what_a_loras_metadata_tells(tmp_path: Path):
    """The words to type, and what was trained on what; an entry where nothing is said is left out."""
    shapes: Shapes = {"lora_unet_x.lora_down.weight": (8, 4), "lora_unet_x.lora_up.weight": (4, 8)}
    metadata = {
        "ss_output_name": "my cat",
        "ss_base_model_version": "sd_v1",
        "ss_training_comment": "None",
        "ss_network_alpha": "4.0",
        "ss_tag_frequency": json.dumps({"10_cat": {"cat": 10, "sofa ": 5}, "2_x": {"sofa": 1}}),
    }
    told = inspect(hollow(tmp_path / "x.safetensors", shapes, metadata=metadata))
    assert told["alphas"] == [4.0]
    assert told["trained"] == {
        "title": "my cat",
        "base_version": "sd_v1",
        "frequent_tags": ["cat (10)", "sofa (6)"],
    }
    for damaged in ("[", "3", '{"a": 3}', '{"a": {"b": "c"}}'):
        told = inspect(hollow(tmp_path / "x.safetensors", shapes, metadata={"ss_tag_frequency": damaged}))
        assert told["trained"] == {}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_lora_that_changes_nothing_is_told(tmp_path: Path, dtype: str):
    import torch
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    down, up = torch.ones(2, 4, dtype=kind), torch.zeros(4, 2, dtype=kind)
    factors = {"unet.x.lora_A.weight": down, "unet.x.lora_B.weight": up.neg()}
    factors |= {"unet.y.lora_A.weight": down.clone(), "unet.y.lora_B.weight": up}

    def warned(tensors: dict[str, torch.Tensor]) -> bool:
        save_file(tensors, tmp_path / "x.safetensors")
        return "changes nothing" in inspect(tmp_path / "x.safetensors").get("warning", "")

    assert warned(factors)
    smallest = up.clone()
    smallest[3, 1] = torch.finfo(kind).smallest_normal
    assert not warned(factors | {"unet.y.lora_B.weight": smallest})
    assert not warned(factors | {"unet.y.lora_magnitude_vector": torch.ones(4)})
    kohya = {"lora_unet_x.lora_down.weight": down, "lora_unet_x.lora_up.weight": down.T.contiguous()}
    assert warned(kohya | {"lora_unet_x.alpha": torch.zeros(())})
    assert not warned(kohya | {"lora_unet_x.alpha": torch.ones(())})
    assert not warned(factors | {"unet.x.diff_b": torch.ones(4)})


def test_pefts_alpha_is_told(tmp_path: Path):
    shapes: Shapes = {"unet.x.lora_A.weight": (8, 4), "unet.x.lora_B.weight": (4, 8)}
    config = {"unet.lora_alpha": 4, "unet.alpha_pattern": {"x": 2}}
    path = hollow(tmp_path / "x.safetensors", shapes, metadata={"lora_adapter_metadata": json.dumps(config)})
    assert inspect(path)["alphas"] == [2.0, 4.0]
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16, "alpha_pattern": {}}))
    assert inspect(hollow(tmp_path / "adapter_model.safetensors", shapes))["alphas"] == [16.0]
    assert inspect(path)["alphas"] == [2.0, 4.0]  # the file beside it is not its own


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "pytorch_lora_weights.safetensors"])
def test_the_folder_of_a_lora(tmp_path: Path, name: str):
    hollow(tmp_path / name, {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (8, 2, 1, 1)})
    found = inspect(tmp_path)
    assert (found["layout"], found["path"], found["ranks"]) == ("LoRA", str(tmp_path / name), [2])


def test_pickled_words_and_those_in_a_png(tmp_path: Path):
    import base64

    import torch
    from PIL import Image, PngImagePlugin

    torch.save({"string_to_param": {"*": torch.zeros(3, 768)}, "name": "mine"}, tmp_path / "x.pt")
    told = inspect(tmp_path / "x.pt")
    assert (told["layout"], told["words"]) == ("textual inversion", ["mine"])
    values = {"name": "mine", "string_to_param": {"*": {"TORCHTENSOR": [[0.0] * 768] * 2}}}
    info = PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(json.dumps(values).encode()).decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    told = inspect(tmp_path / "x.png")
    assert (told["words"], told["vectors"]) == (["mine"], {"string_to_param.*": [2, 768]})


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("model:\n  params:\n    parameterization: eps\n", "epsilon"),
        ("model:\n  params:\n    # parameterization: v\n", "epsilon"),
    ],
)
def test_the_yaml_beside_a_checkpoint(tmp_path: Path, checkpoints: dict[str, Shapes], text: str, expected: str):
    path = hollow(tmp_path / "model.safetensors", checkpoints["sd1"], "F32")
    (tmp_path / "model.yaml").write_text(text)
    told = inspect(path)
    assert told["prediction_type"] == expected
    assert ("The .yaml beside the file" in told["prediction_evidence"]) == ("#" not in text)


def test_a_file_of_gigabytes_takes_no_time(tmp_path: Path, checkpoints: dict[str, Shapes]):
    shapes = checkpoints["sdxl"] | {f"{UNET}extra.{index}.weight": (1280, 1280) for index in range(1000)}
    path = hollow(tmp_path / "large.safetensors", shapes, "F32")
    assert path.stat().st_size > 6e9
    seconds: list[float] = []
    for _ in range(3):
        began = time.process_time()  # Not the wall clock, which also tells of whatever else runs.
        inspect(path)
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.1


INSPECT = """
import sys, time
from mezzotint.cli import main
main(["inspect", sys.argv[1]])
print(time.process_time(), "torch" in sys.modules)
"""


def test_the_command_is_quick_on_gigabytes_and_needs_no_torch(tmp_path: Path, checkpoints: dict[str, Shapes]):
    """From the start of the process. Its own seconds are counted, not those that others take beside it."""
    shapes = checkpoints["sd1"] | {f"{UNET}extra.{index}.weight": (1280, 1280) for index in range(700)}
    path = hollow(tmp_path / "large.safetensors", shapes, "F32")
    assert path.stat().st_size > 4e9
    run = subprocess.run([sys.executable, "-c", INSPECT, str(path)], check=True, capture_output=True, text=True)
    seconds, torch = run.stdout.splitlines()[-1].split()
    assert torch == "False"
    assert float(seconds) < 0.5


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("text")])
def test_what_is_no_model(tmp_path: Path, make: Any):
    path = tmp_path / "x"
    make(path)
    with pytest.raises(UserError, match="x"):
        inspect(path)


def test_what_a_folder_lacks_and_has_too_much(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    whole = inspect(folder)
    assert (whole["missing_keys"], whole["unused_keys"], whole["unknown_keys"]) == ([], [], [])
    assert (whole["family"], whole["size"]) == ("Stable Diffusion 1.x", [16, 16])
    for part, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = folder / part / f"{file}.safetensors"
        tensors = load_file(path)
        first = min(tensors)
        save_file({name: tensor for name, tensor in tensors.items() if name != first} | {"more": torch.zeros(1)}, path)
        told = inspect(folder)
        assert f"{part}: {first}" in told["missing_keys"]
        assert f"{part}: more" in told["unknown_keys"]
