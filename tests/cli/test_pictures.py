"""--image, --mask and --extend, from what is typed to the picture and back from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mezzotint.cli import main
from mezzotint.store.png import read_provenance

INPAINT = ["--image", "in.png", "--mask", "mask.png"]


@pytest.fixture
def here(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny model, a picture and a mask."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    Image.effect_noise((16, 16), 80).convert("RGB").save("in.png")
    mask = Image.new("L", (16, 16))
    ImageDraw.Draw(mask).rectangle((4, 4, 11, 11), fill=255)
    mask.save("mask.png")
    return tmp_path


def draw(*arguments: str, prompt: str = "a red ball") -> Image.Image:
    assert main(["generate", prompt, "--model", "tiny", "--seed", "5", "--device", "cpu", *arguments]) == 0
    with Image.open("out.png") as image:
        return image.convert("RGB")


def test_inpainting_keeps_what_is_outside_and_is_reproduced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, before = (np.asarray(image) for image in (draw(*INPAINT), Image.open("in.png").convert("RGB")))
    assert np.array_equal(found[:4], before[:4])
    assert not np.array_equal(found[6:10, 6:10], before[6:10, 6:10])
    provenance = read_provenance(here / "out.png")[1]
    assert (provenance.request.image, provenance.request.mask) == (f"{here}/in.png", f"{here}/mask.png")
    assert [Path(name).name for name in provenance.extras] == ["in.png", "mask.png"]
    assert main(["reproduce", "out.png"]) == 0
    Path("in.png").rename("moved.png")
    capsys.readouterr()
    assert main(["reproduce", "out.png"]) == 2
    assert "in.png, which is not here" in capsys.readouterr().err
    assert main(["reproduce", "out.png", "--image", "moved.png"]) == 0
    Image.new("RGB", (16, 16), "red").save("in.png")
    capsys.readouterr()
    assert main(["reproduce", "out.png", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["changed_files"] == [f"{here}/in.png"]


def test_image_to_image_needs_no_prompt_and_extending_makes_it_larger(here: Path) -> None:
    assert draw("--image", "in.png", "--strength", "0.5", prompt="").size == (16, 16)
    assert draw("--image", "in.png", "--extend", "right=8").size == (24, 16)
    half = ("--image", "in.png", "--strength", "0.5")
    assert draw(*half, "--extend", "left=0").tobytes() == draw(*half).tobytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "in.png"],
        ["-o", "./in.png", "--mask", "mask.png"],
        ["-n", "2", "-o", "other.png", "--mask", "other-1.png"],
        ["--preview", ".", "--mask", "step-001.png"],
    ],
)
def test_what_is_read_is_not_written_over(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    for name in ("other-1.png", "step-001.png"):
        (here / name).write_bytes((here / "mask.png").read_bytes())
    before = {file.name: file.read_bytes() for file in here.iterdir() if file.is_file()}
    assert main(["generate", "a ball", "--model", "tiny", "--image", "in.png", *arguments]) == 2
    assert "not written over" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in here.iterdir() if file.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image", "none.png"],
        ["--image", "tiny"],
        ["--image", "text.png"],
        ["--mask", "mask.png"],
        ["--image", "in.png", "--mask", "black.png"],
        ["--image", "in.png", "--mask", "wide.png"],
        ["--image", "in.png", "--strength", "7"],
        ["--image", "in.png", "--extend", "up"],
        ["--depth", "in.png"],
        ["--image", "in.png", "--fill", "pink"],
    ],
)
def test_what_cannot_be_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    (here / "text.png").write_text("no picture")
    Image.new("L", (16, 16)).save("black.png")
    Image.new("L", (32, 16), 255).save("wide.png")
    asked = ["generate", "a red ball", "--model", "tiny", "--device", "cpu", "--preview", "steps/of/it", *arguments]
    assert main(asked) == 2
    assert not (here / "steps").exists()
    told = capsys.readouterr().err
    assert told.startswith("mezzotint: ")
    assert told.count("\n") == 1
    assert not (here / "out.png").exists()


def test_a_depth_map_is_not_written_over_its_picture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "in.png").read_bytes()
    assert main(["depth", "in.png", "-o", "./in.png"]) == 2
    assert "not written over" in capsys.readouterr().err
    assert (here / "in.png").read_bytes() == before
