"""`mezzotint convert`: both layouts, both ways, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file

from mezzotint.cli import main
from mezzotint.store.image_prompt import image_prompts_beside
from mezzotint.store.load import load_parts
from mezzotint.store.models import resolve


def tensors(folder: Path, home: str = "") -> dict[str, torch.Tensor]:
    """All but a classifier's, for which one file has no place, by their folders in `home` and their names."""
    files = sorted(file for file in folder.rglob("*.safetensors") if file.parent.name != "classifier")
    places = {file: (home / file.parent.relative_to(folder)).as_posix() for file in files}
    return {f"{places[file]}.{name}": tensor for file in files for name, tensor in read_tensors(file).items()}


def test_the_shipped_model_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one, back = tmp_path / "one.safetensors", tmp_path / "back"
    assert main(["convert", "still-life", str(one), "--to", "single-file"]) == 0
    assert "MiB" in capsys.readouterr().out
    assert main(["convert", str(one), str(back), "--to", "diffusers", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["target"], told["layout"]) == (str(back), "diffusers")
    expected, found = tensors(resolve("still-life")), tensors(back)
    expected |= tensors(image_prompts_beside(resolve("still-life")), "image_prompt")
    assert expected.keys() == found.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
    )
    shipped, again = load_parts(resolve("still-life")), load_parts(back)
    assert again.tokenizer == shipped.tokenizer
    assert (again.facts.name, again.facts.sizes, again.facts.defaults) == (
        shipped.facts.name, shipped.facts.sizes, shipped.facts.defaults,
    )  # fmt: skip


def test_a_picture_from_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = tmp_path / "one.safetensors"
    assert main(["convert", "still-life", str(one), "--to", "single-file"]) == 0
    drawn: list[bytes] = []
    for model in ("still-life", str(one)):
        out = tmp_path / "out.png"
        asked = ["a red cube", "--model", model, "--seed", "3", "--steps", "2", "-o", str(out)]
        assert main(["generate", *asked]) == 0
        with Image.open(out) as picture:
            drawn.append(picture.tobytes())
    assert drawn[0] == drawn[1]
    capsys.readouterr()
    assert main(["reproduce", str(tmp_path / "out.png")]) == 0
    assert "the same to the last bit" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(tiny_folder: Path, tmp_path: Path, dtype: str):
    one = tmp_path / "one.safetensors"
    assert main(["convert", str(tiny_folder), str(one), "--to", "single-file", "--dtype", dtype]) == 0
    assert {tensor.dtype for tensor in read_tensors(one).values()} == {getattr(torch, dtype)}


def test_averages_in_the_place_of_weights(tiny_folder: Path, tmp_path: Path):
    one = tmp_path / "one.safetensors"
    assert main(["convert", str(tiny_folder), str(one), "--to", "single-file"]) == 0
    weights = read_tensors(one)
    prefix = "model.diffusion_model."
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
    with safe_open(one, "pt") as file:
        metadata = file.metadata()
    save_file(weights | averages, one, metadata)
    for flags, plus in ([], 0), (["--ema"], 1):
        assert (
            main(["convert", str(one), str(tmp_path / "two.safetensors"), "--to", "single-file", "--overwrite", *flags])
            == 0
        )
        found = read_tensors(tmp_path / "two.safetensors")
        assert all(torch.equal(found[name], weights[name] + plus) for name in found if name.startswith(prefix))


@pytest.mark.parametrize(
    ("target", "to", "said"),
    [
        ("out.ckpt", "single-file", "does not end in .safetensors"),
        ("none/out.safetensors", "single-file", "There is no folder"),
        ("notes.txt", "diffusers", "is a file"),
        ("full", "diffusers", "holds something else than a model"),
        ("model", "diffusers", "is the model itself"),
        ("other", "diffusers", "other is there already"),
        ("other.safetensors", "single-file", "other.safetensors is there already"),
    ],
)
def test_what_would_be_lost_is_told_before(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, to: str, said: str
):
    shutil.copytree(tiny_folder, tmp_path / "model")
    shutil.copytree(tiny_folder, tmp_path / "other")
    (tmp_path / "other.safetensors").write_text("keep")
    (tmp_path / "notes.txt").write_text("keep")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / target), "--to", to]) == 2
    assert said in capsys.readouterr().err
    for kept in ("notes.txt", "full/notes.txt", "other.safetensors"):
        assert (tmp_path / kept).read_text() == "keep"
    assert (tmp_path / "model" / "model_index.json").is_file()


def test_a_lora_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    factors = {
        f"{layer}.lora_down.weight": torch.randn(2, 128),
        f"{layer}.lora_up.weight": torch.randn(160, 2),
        f"{layer}.alpha": torch.tensor(1.0),
    }
    save_file(factors, tmp_path / "kohya.safetensors")
    one, back = tmp_path / "peft.safetensors", tmp_path / "back.safetensors"
    assert main(["convert", str(tmp_path / "kohya.safetensors"), str(one), "--to", "peft"]) == 0
    assert any(name.endswith("attn2.to_k.lora_A.weight") for name in read_tensors(one))
    assert main(["convert", str(one), str(back), "--to", "kohya"]) == 0
    found = read_tensors(back)
    assert found.keys() == factors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in factors.items())
    capsys.readouterr()
    assert main(["convert", str(one), str(tmp_path / "model"), "--to", "diffusers"]) == 2
    assert "is a LoRA, not a model" in capsys.readouterr().err
    assert main(["convert", "still-life", str(back), "--to", "peft"]) == 2
    assert "There is no LoRA" in capsys.readouterr().err
