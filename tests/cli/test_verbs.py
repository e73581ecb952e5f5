"""What the verbs do when all is well, on a tiny model of random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mezzotint
from mezzotint.cli import VERBS, main
from mezzotint.cli.flags import field_docs
from mezzotint.store.png import read_provenance
from mezzotint.types import Request

PROGRAM = Path(sys.executable).with_name("mezzotint")


@pytest.fixture
def here(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return tmp_path


def names(here: Path) -> set[str]:
    return {path.name for path in here.iterdir()} - {"tiny"}


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_picture_and_the_same_again_through_the_installed_program(here: Path):
    command = [PROGRAM, "generate", "a red sphere", "--model", "tiny", "--seed", "7", "-o", "out.png", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    said = json.loads(run.stdout)
    assert said["files"] == ["out.png"]
    assert said["seed"] == 7
    assert said["seconds"] > 0
    assert said["request"]["prompt"] == "a red sphere"
    assert names(here) == {"out.png"}
    again = subprocess.run([PROGRAM, "reproduce", "out.png"], capture_output=True, text=True, check=True)
    assert again.stdout == "out.png: the same to the last bit\n"


def test_the_request_is_whole(here: Path, capsys: pytest.CaptureFixture[str]):
    said = told(capsys, "generate", "a red sphere", "--model", "tiny", "--size", "24x16", "--negative", "blue")
    image, provenance = read_provenance(here / "out.png")
    assert image.size == (24, 16)
    assert provenance.request.to_dict() == said["request"]
    assert (provenance.request.steps, provenance.request.guidance) == (3, 2.0)  # What the model is best drawn with.
    assert provenance.request.negative == "blue"
    assert provenance.made_with["mezzotint"] == mezzotint.__version__
    assert len(provenance.weights) == 64


def test_a_seed_by_chance_is_told(here: Path, capsys: pytest.CaptureFixture[str]):
    seeds = {told(capsys, "generate", "a cube", "--model", "tiny", "--steps", "1")["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_several_pictures_and_their_sheet(here: Path, capsys: pytest.CaptureFixture[str]):
    said = told(capsys, "generate", "a cube", "--model", "tiny", "--seed", "5", "-n", "9", "-o", "out.png")
    assert said["files"] == [f"out-{number}.png" for number in range(9)]
    assert said["sheet"] == "out.png"
    assert names(here) == {*said["files"], "out.png"}
    assert said["request"]["seed"] == said["seed"] == 5
    sheet = Image.open(here / "out.png")
    assert sheet.size == (3 * 16 + 2 * 4, 3 * 16 + 2 * 4)
    last, provenance = read_provenance(here / "out-8.png")
    assert provenance.request.seed == 13
    assert sheet.crop((40, 40, 56, 56)).tobytes() == last.tobytes()
    assert main(["reproduce", "out-8.png"]) == 0


def test_a_picture_that_was_altered_is_told(here: Path, capsys: pytest.CaptureFixture[str]):
    told(capsys, "generate", "a cube", "--model", "tiny", "--seed", "5")
    image, _ = read_provenance(here / "out.png")
    red, green, blue = image.getpixel((3, 4))
    image.putpixel((3, 4), (red, green, blue ^ 1))
    with Image.open(here / "out.png") as original:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("mezzotint", original.info["mezzotint"])
    image.save(here / "out.png", pnginfo=info)
    assert main(["reproduce", "out.png", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["same"] is False
    assert (said["max_difference"], said["different_pixels"], said["same_weights"]) == (1, 1, True)
    assert main(["reproduce", "out.png"]) == 1
    assert "different in 1 of 256 pixels, by up to 1 of 255" in capsys.readouterr().out


def test_the_same_through_python(here: Path, capsys: pytest.CaptureFixture[str]):
    told(capsys, "generate", "a red cube", "--model", "tiny", "--seed", "7")
    image = mezzotint.load("tiny", device="cpu")("a red cube", seed=7)
    assert image.tobytes() == Image.open(here / "out.png").tobytes()


def test_python_m_is_the_program():
    run = subprocess.run([sys.executable, "-m", "mezzotint", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"mezzotint {mezzotint.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert f"usage: mezzotint {verb}" in capsys.readouterr().out


def test_every_field_of_a_request_is_a_flag_with_its_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    docs = field_docs(Request)
    for field in fields(Request):
        assert field.name in docs
        if field.name not in ("prompt", "width", "height"):
            assert f"--{field.name.replace('_', '-')} " in said
            assert docs[field.name] in said


def test_samplers_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["samplers"]) == 0
    assert "dpmpp-2m" in capsys.readouterr().out


def test_models_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == {
        path.name
        for path in (Path(mezzotint.__file__).parent / "models").iterdir()
        if (path / "model_index.json").is_file()
    }


def test_inspect_as_text_and_as_json(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", "tiny"]) == 0
    assert "v_prediction" in capsys.readouterr().out
    assert main(["inspect", "tiny/unet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "UNet2DConditionModel"


def test_a_line_of_progress_where_a_person_watches(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main(["generate", "a cube", "--model", "tiny", "-n", "2"]) == 0
    err = capsys.readouterr().err
    assert "picture 2 of 2, step 3 of 3" in err
    assert err.endswith("\r\033[K")
