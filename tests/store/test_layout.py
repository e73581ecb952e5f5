"""Which files of a folder are read: formats, precisions and shards, by all the names in use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mezzotint.store.checksum import Checksums
from mezzotint.store.folder import load_folder
from mezzotint.store.inspect import inspect
from mezzotint.store.layout import weight_files
from mezzotint.types import UserError

FULL, HALF = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"
BRAIN, PICKLED = "diffusion_pytorch_model.bf16.safetensors", "diffusion_pytorch_model.bin"


def index(folder: Path, name: str, *shards: str) -> None:
    (folder / name).write_text(json.dumps({"weight_map": {str(n): shard for n, shard in enumerate(shards)}}))


@pytest.mark.parametrize(
    ("there", "dtype", "chosen"),
    [
        ([FULL, HALF], None, FULL),
        ([FULL, HALF], "float32", FULL),
        ([FULL, HALF], "float16", HALF),
        ([FULL, HALF], "bfloat16", FULL),
        ([FULL, HALF, BRAIN], "bfloat16", BRAIN),
        ([HALF, BRAIN], None, HALF),
        ([HALF], "bfloat16", HALF),
        ([BRAIN], "float16", BRAIN),
        ([PICKLED, FULL], None, FULL),
        ([PICKLED, HALF], None, PICKLED),
        ([PICKLED, HALF], "float16", HALF),
        (["diffusion_pytorch_model.fp16.bin"], None, "diffusion_pytorch_model.fp16.bin"),
        (["pytorch_model.bin"], None, "pytorch_model.bin"),
        (["pytorch_model.bin", "model.safetensors"], None, "model.safetensors"),
        (["model.fp16.safetensors"], "float16", "model.fp16.safetensors"),
    ],
)
def test_which_of_several_files_is_read(tmp_path: Path, there: list[str], dtype: str | None, chosen: str):
    for name in there:
        (tmp_path / name).touch()
    assert weight_files(tmp_path, dtype) == [tmp_path / chosen]


@pytest.mark.parametrize(
    "name",
    [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
        "model.safetensors.index.json",
        "model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.bin.index.json",
        "pytorch_model.bin.index.json",
        "pytorch_model.bin.index.bf16.json",
    ],
)
def test_an_index_names_the_shards(tmp_path: Path, name: str):
    index(tmp_path, name, "b-00002-of-00002", "a-00001-of-00002", "a-00001-of-00002")
    assert weight_files(tmp_path) == [tmp_path / "a-00001-of-00002", tmp_path / "b-00002-of-00002"]


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/etc/passwd", "a/../../x", "", "..", "a\\b", "C:x", "a\0b", "../../\nx"]
)
def test_a_shard_outside_of_the_folder_is_refused(tmp_path: Path, shard: str):
    index(tmp_path, "model.safetensors.index.json", "one.safetensors", shard)
    with pytest.raises(UserError, match=r"index\.json names the file .* not in its folder") as error:
        weight_files(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_an_index_that_says_nothing_is_told(tmp_path: Path, text: str):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="does not say where the weights are"):
        weight_files(tmp_path)


@pytest.fixture
def mixed(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with a pickled U-Net in shards, and text encoder and autoencoder in two precisions."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    facts = folder / "mezzotint.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"sha256": {}}))
    unet = load_file(folder / "unet" / FULL)
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for start, name in enumerate(names):
        torch.save({key: unet[key] for key in list(unet)[start::2]}, folder / "unet" / name)
    index(folder / "unet", "diffusion_pytorch_model.bin.index.json", *names)
    (folder / "unet" / FULL).unlink()
    vae = load_file(folder / "vae" / FULL)
    (folder / "vae" / FULL).unlink()
    torch.save(vae, folder / "vae" / PICKLED, _use_new_zipfile_serialization=False)
    text = {name: tensor.half() for name, tensor in load_file(folder / "text_encoder" / "model.safetensors").items()}
    torch.save(text, folder / "text_encoder" / "pytorch_model.fp16.bin")
    return folder


def test_a_folder_of_all_kinds_is_the_same_model(mixed: Path, tiny_folder: Path):
    ours, expected = load_folder(mixed), load_folder(tiny_folder)
    for part in ("unet", "vae", "text_encoder"):
        state = getattr(ours, part).state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in getattr(expected, part).state_dict().items())
    half = load_folder(mixed, dtype=torch.float16)
    assert half.text_encoder.text_model.final_layer_norm.weight.dtype == torch.float16


def test_a_folder_of_all_kinds_is_inspected_and_summed(mixed: Path, tiny_folder: Path):
    assert inspect(mixed)["parameters"] == inspect(tiny_folder)["parameters"]
    assert inspect(mixed)["parts"]["vae"]["files"] == [PICKLED]
    assert {name for name in Checksums(mixed).sums if name.startswith("text")} == {
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
    }
    assert "text_encoder/pytorch_model.fp16.bin" in Checksums(mixed, "float16").sums
