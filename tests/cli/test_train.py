"""`mezzotint train`: from nothing to a model that draws, and every way to ask for what cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

import mezzotint
from mezzotint.cli import main
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.training import stages
from mezzotint.training.fit import read_log

TINY = ("scenes=12", *(f"{stage}.fit.images=16" for stage in ("vae", "clip", "unet", "decoder")))
"""Less still than the recipe `debug`."""


def train(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["train", *arguments, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], said: str) -> None:
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mezzotint: ")
    assert said in err
    assert err.count("\n") == 1


def test_the_debug_recipe_from_nothing_to_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    said = train(capsys, "all", "debug", "--out", str(run))
    assert said["folder"] == str(run)
    assert said["model"] == str(run / "model")
    assert float(said["seconds"]) > 0
    pipe = mezzotint.load(run / "model", device="cpu")
    image = pipe("a red sphere to the left of a blue cube", seed=7)
    assert image.size == (32, 32)
    assert (
        image.tobytes()
        == mezzotint.load(run / "model", device="cpu")("a red sphere to the left of a blue cube", seed=7).tobytes()
    )
    assert pipe.request("").steps == 2  # How the recipe says it is best drawn with.
    card = (run / "model" / "README.md").read_text()
    assert "debug" in card
    assert "64 scenes of the still life" in card
    assert json.loads((run / "model" / "mezzotint.json").read_text())["recipe"]["scenes"] == 64
    for stage in stages.STAGES:
        assert [line["seen"] for line in read_log(run / stage)][-1] == 32
    assert {path.name for path in (run / "unet" / "samples").iterdir()} >= {"00000008.png", "00000032.png"}
    assert (run / "vae" / "samples" / "reconstructions.png").exists()

    # What is finished is not done again, and a stage alone goes on from the others.
    weights = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    train(capsys, "all", "debug", "--out", str(run), "--resume")
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == weights
    assert_refused(capsys, ["decoder", "debug", "images=16", "--out", str(run)], "begun before")
    assert_refused(capsys, ["decoder", "debug", "images=16", "--out", str(run), "--resume"], "other settings")
    shutil.rmtree(run / "decoder")
    said = train(capsys, "decoder", "debug", "images=16", "--out", str(run))
    assert said["model"] == str(run / "decoder")
    assert json.loads((run / "recipe.json").read_text())["decoder"]["fit"]["images"] == 16
    assert_refused(capsys, ["unet", "debug", "lr=1", "--out", str(run), "--resume"], "other settings")
    assert_refused(capsys, ["all", "still-life-64", "--out", str(run)], "another recipe")


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40 + number, 36), colour).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(f"a {colour} wall\nall {colour}")
    train(capsys, "all", "debug", *TINY, "--data", str(data), "--out", str(run))
    assert not (run / "data").exists()  # No still life was rendered.
    assert mezzotint.load(run / "model", device="cpu")("a red wall", seed=1).size == (32, 32)
    card = (run / "model" / "README.md").read_text()
    assert "a folder of captioned pictures" in card
    assert "sphere" not in card
    assert "synthetic" not in card


def test_text_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["vae", "debug", "scenes=8", "images=8", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'run' / 'vae'}: trained in ")
    assert "vae 8/8" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "stage"),
        (["unit", "debug"], "'unit'"),
        (["vae", "debugg"], "no recipe 'debugg'"),
        (["vae", "debug", "images=none"], "must be a value such as 32"),
        (["vae", "debug", "colour=red"], "no setting 'colour'"),
        (["vae", "debug", "images"], "key=value"),
        (["all", "debug", "size=30"], "multiple of 8"),
        (["vae", "debug", "--device", "toaster"], "toaster"),
        (["vae", "debug", "--data", "nowhere"], "no folder"),
        (["vae", "debug", "--data", "empty"], "no picture with a caption"),
        (["unet", "debug"], "no trained vae"),
        (["decoder", "debug"], "no trained vae"),
        (["vae", "debug", "--out", "file"], "cannot be written"),
        (["vae", "debug", "--out", "file/run"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert_refused(capsys, arguments, said)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "file"}
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_picture_that_is_broken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.png").write_bytes(b"none")
    (tmp_path / "a.txt").write_text("a")
    assert_refused(
        capsys, ["vae", "debug", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu"], "a.png"
    )


def test_a_learning_line_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from mezzotint.cli.train import _Line
    from mezzotint.training.fit import Progress

    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with _Line() as line:
        for seen in (8, 16, 24):
            line.tell("vae", Progress(seen, 24, seen / 10, {"loss": 0.5}))
    shown = capsys.readouterr().err
    assert "vae" in shown
    assert "24/24" in shown


def test_a_model_is_fine_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_parts: Parts):
    """Its U-Net goes on from where it was; its text tower and autoencoder stay to the last bit."""
    save_folder(tiny_parts, tmp_path / "before")
    said = train(
        capsys, "all", "debug", "scenes=12", "size=16", "clip.patch=8", "vae.crop=16", "decoder.crop=16",
        "unet.fit.images=8", "unet.fit.lr=1e-5", "--start", str(tmp_path / "before"), "--out", str(tmp_path / "run"),
    )  # fmt: skip
    before, after = load_folder(tmp_path / "before"), load_folder(said["model"])
    for part in ("text_encoder", "vae"):
        old, new = (getattr(parts, part).state_dict() for parts in (before, after))
        assert all(torch.equal(old[name].half(), new[name].half()) for name in old)
    old, new = before.unet.state_dict(), after.unet.state_dict()
    assert max(float((old[name] - new[name]).abs().max()) for name in old) < 1e-2
    assert any(not torch.equal(old[name].half(), new[name].half()) for name in old)
    assert_refused(
        capsys, ["clip", "debug", "--start", str(tmp_path / "before"), "--out", str(tmp_path / "other")], "image tower"
    )
