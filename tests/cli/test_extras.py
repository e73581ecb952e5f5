"""--lora, --embedding and --vae, from what is typed to the picture and back from it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import mezzotint
from mezzotint.cli import main
from mezzotint.store.png import read_provenance

PROMPT = "a red <thing>"
EVERYTHING = ["--lora", "cat.safetensors:0.8", "--lora", "ink.safetensors:1:-0.5", "--embedding", "word.safetensors",
              "--vae", "vae.safetensors"]  # fmt: skip


@pytest.fixture
def here(tiny_folder: Path, extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny model and copies of the files beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    shutil.copytree(extras, tmp_path, dirs_exist_ok=True)
    return tmp_path


def draw(*arguments: str, out: str = "out.png", prompt: str = PROMPT) -> bytes:
    words = ["generate", prompt, "--model", "tiny", "--seed", "5", "--device", "cpu", "-o", out, *arguments]
    assert main(words) == 0
    with Image.open(out) as image:
        return image.convert("RGB").tobytes()


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_every_file_changes_the_picture_and_the_request_names_it(here: Path):
    pictures = {draw()}
    for number in range(0, len(EVERYTHING), 2):
        pictures.add(draw(*EVERYTHING[number : number + 2]))
    pictures.add(draw(*EVERYTHING))
    assert len(pictures) == 6
    request = read_provenance(here / "out.png")[1].request
    assert request.loras == (f"{here}/cat.safetensors:0.8", f"{here}/ink.safetensors:1:-0.5")
    assert (request.embeddings, request.vae) == ((f"{here}/word.safetensors",), f"{here}/vae.safetensors")


def test_the_same_through_python(here: Path):
    drawn = draw(*EVERYTHING)
    loras = {"cat.safetensors": 0.8, "ink.safetensors": (1, -0.5)}
    files = {"loras": loras, "embeddings": ["word.safetensors"], "vae": "vae.safetensors"}
    assert mezzotint.load("tiny", device="cpu", **files)(PROMPT, seed=5).tobytes() == drawn


def test_the_sums_of_the_files_and_their_names_in_the_web_uis_manner(here: Path, extras: Path):
    import hashlib

    draw(*EVERYTHING)
    _, provenance = read_provenance(here / "out.png")
    files = ["vae.safetensors", "cat.safetensors", "ink.safetensors", "word.safetensors"]
    assert list(provenance.extras) == [str(here / name) for name in files]
    for name in files:
        data = (extras / name).read_bytes()
        own = provenance.extras[str(here / name)]
        assert own.sha256 == hashlib.sha256(data).hexdigest()
        assert own.data_sha256 == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    sums = {Path(path).stem: own for path, own in provenance.extras.items()}
    with Image.open(here / "out.png") as image:
        prompt, settings = image.info["parameters"].split("\n")
    assert prompt == "a red <thing> <lora:cat:0.8> <lora:ink:-0.5:1>"  # there, the text encoders go first
    assert f"VAE hash: {sums['vae'].sha256[:10]}, VAE: vae.safetensors, " in settings
    loras = ", ".join(f"{name}: {sums[name].data_sha256[:12]}" for name in ("cat", "ink"))
    assert f'Lora hashes: "{loras}", TI hashes: "word: {sums["word"].sha256[:12]}", RNG' in settings


def test_a_picture_is_drawn_again_with_its_files(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    draw(*EVERYTHING)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    said = told(capsys, "reproduce", "../out.png")
    assert (said["same"], said["same_weights"], said["changed_files"]) == (True, True, [])


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("cat.safetensors", ["--lora", "moved.safetensors:0.8", "--lora", "ink.safetensors:1:-0.5"]),
        ("word.safetensors", ["--embedding", "moved.safetensors"]),
        ("vae.safetensors", ["--vae", "moved.safetensors"]),
    ],
)
def test_a_file_that_is_missing_or_moved(here: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str]):
    draw(*EVERYTHING)
    (here / name).rename(here / "moved.safetensors")
    capsys.readouterr()
    assert main(["reproduce", "out.png"]) == 2
    err = capsys.readouterr().err
    assert err == (
        f"mezzotint: out.png was drawn with {here / name}, which is not here: put it there again, or give {flags[0]}.\n"
    )
    said = told(capsys, "reproduce", "out.png", *flags)
    assert (said["same"], said["same_weights"]) == (True, True)


@pytest.mark.parametrize("name", ["cat.safetensors", "word.safetensors", "vae.safetensors"])
def test_a_file_that_has_changed(here: Path, capsys: pytest.CaptureFixture[str], name: str):
    draw(*EVERYTHING)
    save_file({key: value * 1.5 for key, value in load_file(here / name).items()}, here / name)
    capsys.readouterr()
    assert main(["reproduce", "out.png"]) == 1
    said = capsys.readouterr().out
    assert said.endswith(f"; {here / name} is not what it was drawn with\n")
    assert told(capsys, "reproduce", "out.png", code=1)["changed_files"] == [str(here / name)]


def test_words_that_change_nothing_are_told(here: Path, capsys: pytest.CaptureFixture[str]):
    draw("--embedding", "word.safetensors", prompt="a red cube")
    said = "mezzotint: warning: None of the learned words is in the prompt or the negative, so they change nothing"
    assert capsys.readouterr().err == f"{said}: <thing>.\n"
    draw("--embedding", "word.safetensors", "--negative", "<THING>", prompt="a red cube")
    draw("--lora", "cat.safetensors", prompt="a red cube")  # it changes the picture without its word
    assert capsys.readouterr().err == ""


BEFORE_LOADING = {
    "no such LoRA": (["--lora", "none.safetensors"], "There is no LoRA"),
    "a weight that is no number": (["--lora", "cat.safetensors:much"], "'much'; it must be a number"),
    "a weight without end": (["--lora", "cat.safetensors:1e999"], "finite"),
    "a LoRA twice": (["--lora", "cat.safetensors", "--lora", "cat.safetensors:0.5"], "twice"),
    "a LoRA without a file": (["--lora", ":0.5"], "names no file"),
    "a LoRA that is a word": (["--lora", "word.safetensors"], "is no LoRA: its tensors are <thing>"),
    "a LoRA that is text": (["--lora", "tiny/model_index.json"], "model_index.json"),
    "a LoRA that is cut short": (["--lora", "short.safetensors"], "short.safetensors"),
    "a LoRA of another family": (["--lora", "wide.safetensors"], "wide.safetensors is a LoRA for Stable Diffusion XL"),
    "a word that is a LoRA": (["--embedding", "cat.safetensors"], "is a LoRA"),
    "no such word": (["--embedding", "none.pt"], "There is no file of learned words"),
    "no such autoencoder": (["--vae", "none.pt"], "There is no autoencoder"),
    "a flag without a value": (["--lora"], "expected one argument"),
}


@pytest.mark.parametrize(("arguments", "said"), BEFORE_LOADING.values(), ids=BEFORE_LOADING)
def test_what_is_wrong_is_found_before_torch_is_imported(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
):
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("mezzotint.load", load)
    (here / "short.safetensors").write_bytes((here / "cat.safetensors").read_bytes()[:-1])
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    import torch

    save_file({f"{layer}.lora_down.weight": torch.zeros(1, 2048), f"{layer}.lora_up.weight": torch.zeros(16, 1)},
              here / "wide.safetensors")  # fmt: skip
    capsys.readouterr()
    assert main(["generate", PROMPT, "--model", "tiny", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mezzotint: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (here / "out.png").exists()


def test_no_torch_behind_a_missing_file(here: Path):
    code = (
        "import sys\n"
        "from mezzotint.cli import main\n"
        "assert main(['generate', 'a cube', '--model', 'tiny', '--lora', 'cat.safetensors', '--vae', 'none']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_shipped_model_with_a_lora_and_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    import torch

    monkeypatch.chdir(tmp_path)
    width = mezzotint.load(device="cpu").conditioner.width
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{layer}.lora_down.weight": torch.ones(1, width), f"{layer}.lora_up.weight": torch.ones(width, 1)},
              tmp_path / "cat.safetensors")  # fmt: skip
    save_file({"<cat>": torch.ones(width)}, tmp_path / "word.safetensors")
    flags = ["--lora", "cat.safetensors:0.5", "--embedding", "word.safetensors", "--steps", "1", "--seed", "3"]
    said = told(capsys, "generate", "a <cat>", *flags)
    assert said["request"]["loras"] == [f"{tmp_path}/cat.safetensors:0.5"]
    assert said["warnings"] == []
    assert told(capsys, "reproduce", "out.png")["same"] is True
