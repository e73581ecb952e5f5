"""`mezzotint world`: a sheet of scenes and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sheet_and_its_captions(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["world", "-n", "5", "--size", "16", "-o", "sheet.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.strip() for line in lines)
    assert lines[-1] == "sheet.png: 5 scenes"
    sheet = Image.open(here / "sheet.png")
    assert sheet.size == (3 * 16 + 2 * 4, 2 * 16 + 4)
    pixels = np.asarray(sheet)
    assert pixels[20:, 40:].min() == 255  # The sixth place is empty.
    assert pixels[:16, :16].std() > 5
    assert [path.name for path in here.iterdir()] == ["sheet.png"]


def test_json_tells_the_scenes(here: Path, capsys: pytest.CaptureFixture[str]):
    said: list[dict[str, object]] = []
    for out in ("a.png", "b.png"):
        assert main(["world", "--n", "3", "--size", "8", "--seed", "4", "--held-out", "--out", out, "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    first, second = said
    assert first["file"] == "a.png"
    assert first["scenes"] == second["scenes"]
    assert (here / "a.png").read_bytes() == (here / "b.png").read_bytes()
    scenes = first["scenes"]
    assert isinstance(scenes, list)
    assert {"caption", "scene"} == set(scenes[0])
    from mezzotint.world.scene import Solid, is_held_out

    assert all(is_held_out(tuple(Solid(**solid) for solid in one["scene"]["solids"])) for one in scenes)


def test_one_large_scene_after_another_is_the_same_as_alone(here: Path):
    """What is rendered one at a time must not show through."""
    assert main(["world", "-n", "2", "--size", "520", "-o", "two.png"]) == 0
    assert main(["world", "-n", "1", "--size", "520", "-o", "one.png"]) == 0
    two, one = Image.open(here / "two.png"), Image.open(here / "one.png")
    assert two.crop((0, 0, 520, 520)).tobytes() == one.tobytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "0"], "number of scenes is 0"),
        (["-n", "x"], "'x' is not a whole number"),
        (["--n", "10001"], "10000"),
        (["--size", "7"], "size is 7"),
        (["--size", "4096"], "2048"),
        (["-n", "5000", "--size", "512"], "16383x16383: ask for fewer"),
        (["-o", "sheet.xyz"], ".png"),
        (["-o", "none/sheet.png"], "no folder"),
        (["-o", "/dev/null/sheet.png"], "/dev/null"),
        (["--seed", "1.5"], "whole number"),
        (["--seed", "18446744073709551616"], "from 0 to"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    assert main(["world", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mezzotint: ")
    assert said in err
    assert err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_scenes_are_rendered_and_pasted_a_few_at_a_time(here: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """However many there are, so that memory does not grow with them; and it does not show."""
    from mezzotint.world import render as module

    rendered: list[int] = []

    def counted(scenes: object, *args: object) -> object:
        rendered.append(len(scenes))  # pyright: ignore
        return real(scenes, *args)  # pyright: ignore

    real = module.render
    monkeypatch.setattr(module, "render", counted)
    assert main(["world", "-n", "11", "--size", "16", "-o", "whole.png"]) == 0
    monkeypatch.setattr("mezzotint.cli.world.PIXELS_IN_WORK", 3 * 16 * 16)
    assert main(["world", "-n", "11", "--size", "16", "-o", "chunks.png"]) == 0
    assert rendered == [11, 3, 3, 3, 2]
    assert (here / "whole.png").read_bytes() == (here / "chunks.png").read_bytes()
