"""The files beside a model: their names, and what their headers tell before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mezzotint.store.extras import Extras, lora_files, text_width, vae_files
from mezzotint.types import Lora, Request, UserError


def test_names_are_full_paths_from_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    named = Extras.named("vae", ["cat:0.5", Path("ink")], ["word"], "ip.bin")
    loras = {"cat": 0.5, f"{tmp_path}/ink": (1, 1.0)}
    assert named == Extras.named(tmp_path / "vae", loras, [tmp_path / "word"], tmp_path / "ip.bin")
    assert named.fields == {
        "vae": str(tmp_path / "vae"),
        "loras": (f"{tmp_path}/cat:0.5", f"{tmp_path}/ink:1"),
        "embeddings": (str(tmp_path / "word"),),
        "image_adapter": str(tmp_path / "ip.bin"),
    }
    assert Extras.of(Request(**named.fields)) == named
    assert named.but(vae="", loras=[], image_adapter="") == Extras(embeddings=(str(tmp_path / "word"),))
    assert Extras.named().fields == {"vae": "", "loras": (), "embeddings": (), "image_adapter": ""}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"loras": ["cat", "cat:0.5"]}, "cat is there twice"),
        ({"loras": {"cat": 1.0, Path("cat"): 0.5}}, "cat is there twice"),
        ({"embeddings": ["word", "./word"]}, "word is there twice"),
        ({"loras": "cat"}, "must be a list"),
        ({"embeddings": Path("word")}, "must be a list"),
        ({"loras": {"cat": "much"}}, "'much'; it must be a number"),
        ({"loras": {"cat": (1, 2, 3)}}, "it must be a number"),
        ({"loras": {"cat": True}}, "it must be a number"),
        ({"loras": {"cat": float("nan")}}, "finite"),
        ({"loras": ["cat:inf"]}, "finite"),
        ({"loras": [":0.5"]}, "names no file"),
    ],
)
def test_names_that_are_none(files, said: str):
    with pytest.raises(UserError, match=said):
        Extras.named(**files)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"loras": ["none"]}, "There is no LoRA .*none: give FILE or FILE:WEIGHT."),
        ({"loras": ["cat.safetensors:much"]}, "The weight of the LoRA .*cat.safetensors is 'much'"),
        ({"loras": ["~nobody-of-this-name/cat"]}, "There is no LoRA"),
        ({"loras": ["x" * 3000]}, "There is no LoRA"),
        ({"loras": ["a\0b"]}, "There is no LoRA"),
        ({"loras": ["word.safetensors"]}, "word.safetensors is no LoRA: its tensors are <thing>."),
        ({"loras": ["vae"]}, "The folder .*vae holds no LoRA"),
        ({"loras": ["text"]}, "text"),
        ({"embeddings": ["none"]}, "There is no file of learned words .*none"),
        ({"embeddings": ["cat.safetensors"]}, "is a LoRA, not a file of learned words"),
        ({"embeddings": ["vae.safetensors"]}, "holds no learned words: its tensors are .* and 1.. more"),
        ({"embeddings": ["picture.png"]}, "carries no learned word"),
        ({"vae": "none"}, "There is no autoencoder .*none"),
        ({"vae": "text"}, "text"),
        ({"vae": "."}, "has no diffusion_pytorch_model.safetensors"),
    ],
)
def test_what_headers_tell(files, said: str, extras: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    for path in extras.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "text").write_text("text")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        Extras.named(**files).check()


def test_a_lora_for_text_of_another_width_is_told_from_its_header(extras: Path, tiny_folder: Path):
    cat = Extras.named(loras=[extras / "cat.safetensors"])
    cat.check()
    cat.check(text_width(tiny_folder))
    with pytest.raises(UserError, match=r"cat.safetensors is a LoRA for .* 16 wide.*attn2_to_k.* 2048 wide"):
        cat.check(2048)


def test_the_files_that_are_read(extras: Path, tmp_path: Path):
    named = Extras.named(extras / "vae", [extras / "cat.safetensors:0.5"], [extras / "word.safetensors"])
    names = ["diffusion_pytorch_model.safetensors", "config.json", "cat.safetensors", "word.safetensors"]
    assert [path.name for path in named.files()] == names
    lora = tmp_path / "adapter_model.safetensors"
    lora.write_bytes(b"")
    assert lora_files(str(tmp_path)) == [lora]
    (tmp_path / "adapter_config.json").write_text("{}")
    assert lora_files(str(tmp_path)) == [lora, tmp_path / "adapter_config.json"]


def test_a_request_is_stamped_with_what_is_on_the_model():
    mine = Extras.named(vae="/vae", loras=["/cat:0.5"])
    assert mine.on(Request(prompt="x")) == Request(prompt="x", vae="/vae", loras=("/cat:0.5",))
    assert mine.on(Request(loras=("/cat:.5:0.5",))).loras == ("/cat:0.5",)
    with pytest.raises(UserError, match=r"The request has the loras /ink:1, and on the model there is /cat:0\.5"):
        mine.on(Request(loras=("/ink",)))
    with pytest.raises(UserError, match="embeddings /word, and on the model there is none"):
        mine.on(Request(embeddings=("/word",)))


def test_no_torch_is_imported():
    code = "import sys, mezzotint.store.extras, mezzotint.store.inspect_extras\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lora_is_what_its_text_says():
    assert str(Lora("a:0.5")) == "a:0.5:1:1"  # else the end of its name would be a weight


def test_an_autoencoder_out_of_a_whole_model(tiny_folder: Path) -> None:
    names = [path.relative_to(tiny_folder).as_posix() for path in vae_files(tiny_folder)]
    assert names == ["vae/diffusion_pytorch_model.safetensors", "vae/config.json"]
    Extras.named(vae=tiny_folder).check()


def test_a_file_without_tensors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    for extras in (Extras.named(loras=[path]), Extras.named(embeddings=[path])):
        with pytest.raises(UserError, match=r"its tensors are none at all\.$"):
            extras.check()
