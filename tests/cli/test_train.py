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
    for stage in stages.ALL:
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
    assert_refused(capsys, ["decoder", "debug", "--data", str(tmp_path), "--out", str(run), "--resume"], "still life")
    assert_refused(capsys, ["all", "debug", "size=64", "--out", str(run), "--resume"], "size 32")
    assert_refused(capsys, ["vae", "debug", "scenes=9", "--out", str(run), "--resume"], "other settings")

    # The model may be called and drawn with otherwise; how it was trained is what the run records.
    train(
        capsys, "assemble", "debug", "name=mine", "defaults={'steps': 3}", "hinted={'guidance': 2.0}", "--out", str(run)
    )
    facts = json.loads((run / "model" / "mezzotint.json").read_text())
    assert (facts["name"], facts["recipe"]["name"]) == ("mine", "debug")
    assert (facts["defaults"], facts["hinted"]) == ({"steps": 3}, {})  # It has no hints.
    assert (run / "model" / "README.md").read_text().startswith("# mine\n")
    assert_refused(
        capsys, ["assemble", "debug", "scenes=9", "--out", str(run)], "change name, defaults and hinted alone"
    )
    train(capsys, "assemble", "debug", "--out", str(run))
    assert json.loads((run / "model" / "mezzotint.json").read_text())["name"] == "debug"


def test_what_a_run_was_begun_with_it_goes_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Settings and pictures are recorded, so that no stage learns from others because they were not given again."""
    data, other, run = tmp_path / "data", tmp_path / "other", tmp_path / "run"
    for folder in (data, other):
        folder.mkdir()
        for number, colour in enumerate(("red", "green", "blue", "white")):
            Image.new("RGB", (20, 16), colour).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"a {colour} wall")
    monkeypatch.chdir(tmp_path)
    small = ("size=16", "vae.crop=16", "decoder.crop=16", "clip.patch=8", "name=small", "defaults={'steps': 1}")
    train(capsys, "vae", "debug", *TINY, *small, "--data", "data", "--out", "run")
    told = json.loads((run / "recipe.json").read_text())
    assert (told["recipe"], told["name"], told["size"], told["data"]) == ("debug", "small", 16, str(data))
    train(capsys, "clip", "debug", "--out", "run")
    assert_refused(capsys, ["unet", "debug", "--data", "other", "--out", "run"], f"learns from {data}")
    wide = ("clip.width=64", "unet.network.cross_attention_dim=64")
    assert_refused(capsys, ["unet", "debug", *wide, "--out", "run"], "the text encoder's are 32 wide")
    assert not (run / "unet").exists()
    train(capsys, "unet", "debug", "--data", str(data), "--out", "run")
    assert not (run / "data").exists()  # No still life was rendered.
    assert json.loads((run / "clip" / "config.json").read_text())["vision_config"]["image_size"] == 16
    after = json.loads((run / "recipe.json").read_text())
    assert {**after, "start": None} == {**told, "start": None}
    assert after["start"] == {"vae": None, "clip": None, "unet": None}

    train(capsys, "assemble", "debug", "--out", "run")
    facts = json.loads((run / "model" / "mezzotint.json").read_text())
    assert (facts["name"], facts["sizes"], facts["defaults"]) == ("small", [[16, 16]], {"steps": 1})
    assert facts["recipe"]["data"] == "data"  # Not where it lies on this machine.
    assert "a folder of captioned pictures" in (run / "model" / "README.md").read_text()
    data.rename(tmp_path / "moved")
    assert_refused(capsys, ["unet", "debug", "--out", "run", "--resume"], "put it back")


def test_a_tokenizer_stays_with_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The towers of a checkpoint know words by number; without one the words are found anew."""
    arguments = ("clip", "debug", "scenes=8", "images=16", "--out", str(tmp_path / "run"))
    train(capsys, *arguments)
    vocabulary = tmp_path / "run" / "clip" / "tokenizer" / "vocab.json"
    before = vocabulary.read_text()
    monkeypatch.setattr(stages, "_corpus", lambda _: ["other words for other things"] * 9)
    train(capsys, *arguments, "--resume")
    assert vocabulary.read_text() == before
    (tmp_path / "run" / "clip" / "checkpoint.pt").unlink()
    train(capsys, *arguments, "--resume")
    assert vocabulary.read_text() != before


def test_a_false_start_binds_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Where nothing was learned yet, the next try may be another."""
    run = tmp_path / "run"
    (tmp_path / "a.png").write_bytes(b"none")
    (tmp_path / "a.txt").write_text("a")
    assert_refused(capsys, ["vae", "debug", "--data", str(tmp_path), "--out", str(run)], "a.png")
    train(capsys, "vae", "debug", "scenes=8", "images=8", "--out", str(run))
    assert json.loads((run / "recipe.json").read_text())["data"] is None


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
        (["all", "debug", "clip.width=48"], "cross_attention_dim and clip.width equal"),
        (["all", "debug", "vae.network.latent_channels=8"], "latent_channels"),
        (["all", "debug", "clip.patch=12"], "must divide size"),
        (["all", "debug", "defaults={'stepz': 3}"], "stepz"),
        (["assemble", "debug"], "no trained unet"),
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
    # What it began from is recorded: it goes on from that, and from nothing else.
    run = tmp_path / "run"
    assert json.loads((run / "recipe.json").read_text())["start"] == {"unet": str(tmp_path / "before")}
    assert json.loads((run / "model" / "mezzotint.json").read_text())["recipe"]["start"] == {"unet": "before"}
    weights = (run / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (run / "unet" / "config.json").unlink()
    train(capsys, "all", "debug", "--out", str(run), "--resume")
    assert (run / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    train(capsys, "assemble", "debug", "--out", str(run))
    assert_refused(
        capsys, ["all", "debug", "--start", str(run / "model"), "--out", str(run), "--resume"], "was begun from"
    )
    assert not (tmp_path / "other").exists()
