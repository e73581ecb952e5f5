"""What the verbs do when all is well, on a tiny model of random weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import mezzotint
from mezzotint.cli import VERBS, main
from mezzotint.cli.flags import field_docs, flag
from mezzotint.cli.inspect import lines
from mezzotint.sampling import SAMPLERS
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
    assert (said["max_difference"], said["different_pixels"], said["different_values"]) == (1, 1, 1)
    assert (said["same_weights"], said["changed"]) == (True, {})
    assert main(["reproduce", "out.png"]) == 1
    assert "different in 1 of 768 values, by up to 1 of 255" in capsys.readouterr().out


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
            assert f"{flag(field.name)} " in said
            assert docs[field.name] in said


def test_samplers_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["samplers"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("dpmpp-2m", "er-sde", "karras", "zsnr"))
    assert main(["samplers", "--json"]) == 0
    rows = {row.pop("name"): row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(SAMPLERS)
    assert {key: rows["heun"][key] for key in ("order", "evaluations", "stochastic", "eta")} == {
        "order": 2,
        "evaluations": 2,
        "stochastic": False,
        "eta": None,
    }
    assert rows["ddpm"]["stochastic"] is True
    assert (rows["ddim"]["stochastic"], rows["ddim"]["eta"]) == (False, 0.0)
    assert main(["samplers", "--schedules", "--json"]) == 0
    kinds = {row["name"]: row["kind"] for row in json.loads(capsys.readouterr().out)}
    assert (kinds["karras"], kinds["zsnr"]) == ("spacing", "table")


def test_models_are_listed(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == {
        path.name
        for path in (Path(mezzotint.__file__).parent / "models").iterdir()
        if (path / "model_index.json").is_file()
    }


def test_inspect_prints_the_first_of_many():
    names = [str(number) for number in range(1200)]
    told = {"unused_keys": names, "missing_keys": [], "size": [64, 32], "refusal": None}
    assert lines(told) == [
        "unused keys           0, 1, 2, 3, 4, 5, 6, 7 and 1,192 more",
        "size                  64, 32",
    ]
    metadata = {f"ss_{number}": "x" for number in range(9)}
    assert lines({"metadata": metadata})[-2:] == [
        "  ss_7                  x",
        "  and                   1 more (--json has all)",
    ]


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


def test_a_long_prompt_is_read_whole(here: Path, capsys: pytest.CaptureFixture[str]):
    said = told(capsys, "generate", "a " * 75 + "b b b", "--model", "tiny", "--steps", "1")
    assert said["warnings"] == []


def test_a_picture_knows_its_model_from_anywhere(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    said = told(capsys, "generate", "a cube", "--model", "tiny", "--seed", "5")
    assert said["request"]["model"] == str(here / "tiny")
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert main(["reproduce", "../out.png"]) == 0
    (here / "tiny").rename(here / "moved")
    assert main(["reproduce", "../out.png"]) == 2
    assert f"'{here / 'tiny'}', which is not here: give --model." in capsys.readouterr().err
    assert main(["reproduce", "../out.png", "--model", "../moved"]) == 0


def rewrite(path: Path, **changes: object) -> None:
    """The same picture with another record."""
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as opened:
        opened.load()
        info = PngInfo()
        info.add_itxt("mezzotint", json.dumps(json.loads(opened.info["mezzotint"]) | changes))
        opened.save(path, pnginfo=info)


def test_a_picture_is_drawn_again_as_it_was_drawn(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    """On the CPU and in its precision, though the machine has an accelerator by now."""
    import torch

    told(capsys, "generate", "a cube", "--model", "tiny", "--seed", "5", "--device", "cpu", "--dtype", "bfloat16")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("meta"))
    said = told(capsys, "reproduce", "out.png")
    assert said["same"] is True
    assert said["changed"] == {}
    assert main(["reproduce", "out.png", "--dtype", "float32"]) == 1
    out = capsys.readouterr().out
    assert "of 768 values, by up to" in out
    assert out.endswith("of 255; dtype was bfloat16 and is float32\n")


def test_a_device_that_is_not_here_is_told_of(here: Path, capsys: pytest.CaptureFixture[str]):
    told(capsys, "generate", "a cube", "--model", "tiny", "--seed", "5", "--device", "cpu")
    rewrite(here / "out.png", device="cuda:99", hardware="another", as_stored=True, torch="0.1")
    said = told(capsys, "reproduce", "out.png")
    assert {"device", "hardware", "as_stored", "torch"} <= set(said["changed"])
    assert said["changed"]["device"]["then"] == "cuda:99"


def test_another_tokenizer_or_schedule_is_another_model(here: Path, tiny_folder: Path, capsys):
    shutil.copytree(tiny_folder, here / "mine")
    told(capsys, "generate", "a cube", "--model", "mine", "--seed", "5")
    scheduler = here / "mine" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"beta_end": 0.02}))
    assert main(["reproduce", "out.png"]) == 1
    assert "the model's files are not what it was drawn with" in capsys.readouterr().out


def test_a_picture_without_any_reason_to_differ(here: Path, capsys: pytest.CaptureFixture[str]):
    told(capsys, "generate", "a cube", "--model", "tiny", "--seed", "5")
    rewrite(
        here / "out.png", request=json.loads(Image.open(here / "out.png").info["mezzotint"])["request"] | {"seed": 6}
    )
    assert main(["reproduce", "out.png"]) == 1
    assert "versions, device and dtype are those it was drawn with" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["samplers"], ["models", "--json"], ["paint"]])
def test_a_reader_that_has_gone_is_no_error(arguments: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([PROGRAM, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    if arguments == ["paint"]:
        assert (run.returncode, run.stderr.count("\n")) == (2, 1)  # It had nothing to say on stdout.
    else:
        assert (run.returncode, run.stderr) == (141, "")
