"""`mezzotint evaluate`: the table, the JSON, the album, the judge, and every way to ask for what cannot be."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mezzotint.cli import main
from mezzotint.conditioning.hints import channels
from mezzotint.conditioning.sight import Seen, Sight
from mezzotint.denoise.adapter import adapted, learned
from mezzotint.evaluate import judge as module
from mezzotint.evaluate.conditioners import KINDS
from mezzotint.evaluate.judge import Found, Judge
from mezzotint.evaluate.prompts import CATEGORIES
from mezzotint.pipeline import Picture, Pipeline
from mezzotint.store.hints import save_hints
from mezzotint.store.layout import HINTS
from mezzotint.types import Request

MEASURED = {"shape": 0.99, "colour": 0.98, "found": 0.97}


class Generous(Judge):
    """Always sees one red ball."""

    def find(self, pixels: object) -> list[list[Found]]:
        return [[Found("sphere", "red", "large", 0.5, 0.5, 0.9)]]


class Blind(Sight):
    """Sees a solid everywhere, the nearer the lower."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def see(self, pixels: torch.Tensor) -> Seen:
        near = torch.linspace(0, 1, pixels.shape[2])[None, None, :, None].expand_as(pixels[:, :1])
        return Seen(near, torch.ones_like(near))


@pytest.fixture
def here(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    monkeypatch.setattr(module, "load_judge", lambda: (Generous(), MEASURED))
    monkeypatch.setattr("mezzotint.store.sight.load_sight", Blind)
    monkeypatch.setattr("mezzotint.evaluate.cases.BLOCK", 6)
    return tmp_path


@pytest.fixture
def hinted(here: Path, tiny_parts: Any) -> str:
    """The tiny model, which can be given a depth map and a silhouette but has learned nothing of them."""
    return hints_for(here, tiny_parts, ("depth", "silhouette"))


def hints_for(here: Path, tiny_parts: Any, names: tuple[str, ...]) -> str:
    shutil.copytree(here / "tiny", here / "hinted")
    unet = copy.deepcopy(tiny_parts.unet)
    with torch.random.fork_rng():
        wide = adapted(unet, sum(map(channels, names)), 1)
    save_hints(names, learned(wide), here / "hinted" / HINTS)
    return "hinted"


QUICK = ["evaluate", "obedience", "--model", "tiny", "--device", "cpu", "--steps", "1", "-n", "3"]


def test_json_is_one_object(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*QUICK, "--guidance", "1", "--seed", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["categories"]) == set(CATEGORIES)
    for score in said["categories"].values():
        assert score["n"] == 3
        assert 0 <= score["low"] <= score["score"] <= score["high"] <= 1
    assert said["judge"] == MEASURED
    assert said["categories"]["two_object"]["score"] == 0
    assert 0 <= said["overall"] < 1
    assert (said["model"], said["seed"], said["request"]) == ("tiny", 2, {"steps": 1, "guidance": 1.0})
    assert [path.name for path in here.iterdir()] == ["tiny"]


def test_a_table_and_an_album(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*QUICK, "--categories", "single_object", "held_out", "--out", "album"]) == 0
    out = capsys.readouterr().out
    assert "single_object" in out
    assert "two_object" not in out
    assert "judge on real scenes: shape 99.0%, colour 98.0%, found 97.0%" in out
    assert {path.name for path in (here / "album").iterdir()} == {
        f"{name}.{end}" for name in ("single_object", "held_out") for end in ("png", "jsonl")
    }
    verdicts = [json.loads(line) for line in (here / "album" / "single_object.jsonl").read_text().splitlines()]
    assert len(verdicts) == 3
    assert all(verdict["obeyed"] == ("sphere" in verdict["prompt"]) for verdict in verdicts)
    assert [verdict["obeyed"] for verdict in verdicts] == sorted(verdict["obeyed"] for verdict in verdicts)
    assert verdicts[0]["found"][0]["colour"] == "red"
    assert Image.open(here / "album" / "single_object.png").size == (2 * 16 + 4, 2 * 16 + 4)


def test_guides_stand_in_for_the_models_own(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    drawn: list[Request] = []
    draw = Pipeline.draw

    def watched(pipe: Pipeline, requests: list[Request]) -> Iterator[Picture]:
        drawn.extend(requests)
        return draw(pipe, requests)

    monkeypatch.setattr(Pipeline, "draw", watched)
    guides = ["--guide", "interval:1:20", "--guide", "rescale:0.5"]
    assert main([*QUICK, *guides, "--categories", "held_out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["request"] == {"steps": 1, "guide": ["interval:1:20", "rescale:0.5"]}
    assert {request.guide for request in drawn} == {("interval:1:20", "rescale:0.5")}
    assert main([*QUICK, "--guide", "nonsense"]) == 2
    assert 'There is no guide "nonsense"' in capsys.readouterr().err


def test_what_is_ours_alone_has_no_overall_score(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*QUICK, "--categories", "held_out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] is None


SCORE = {"score", "low", "high", "n"}


def test_conditioners_in_json(here: Path, hinted: str, capsys: pytest.CaptureFixture[str]):
    quick = [*QUICK[:3], hinted, *QUICK[4:]]
    assert main([*quick, "--seed", "2", "--conditioner", "silhouette", "inpaint", "depth", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["model"], said["seed"], said["request"], said["left_out"]) == (hinted, 2, {"steps": 1}, {})
    assert said["judge"] == MEASURED
    assert list(said["conditioners"]) == ["silhouette", "inpaint", "depth"]
    scores = {name: told["scores"] for name, told in said["conditioners"].items()}
    assert {name: list(each) for name, each in scores.items()} == {
        "silhouette": ["overlap", "colours", "shapes"],
        "inpaint": ["asked", "kept", "seam", "fade"],
        "depth": ["rank", "text"],
    }
    assert all(told["n"] == 3 for told in said["conditioners"].values())
    for name, each in scores.items():
        assert all(set(score) == SCORE | ({"real"} if name != "inpaint" else set()) for score in each.values())
    assert scores["inpaint"]["kept"]["score"] == 1.0
    assert scores["depth"]["rank"]["score"] == scores["depth"]["rank"]["real"] > 0.5  # By a sight that sees no picture.
    assert {path.name for path in here.iterdir()} == {"tiny", hinted}


def test_image_to_image_has_a_curve(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*QUICK[:-1], "2", "--conditioner", "image", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["conditioners"]["image"]
    assert set(told) == {"n", "scores", "curve", "monotone"}
    assert set(told["monotone"]) == set(told["curve"]) == {"change", "obeyed"}
    assert set(told["scores"]) == {"drift", "drift uncorrected"}
    assert all(set(score) == SCORE for curve in told["curve"].values() for score in curve.values())


def test_all_is_what_the_model_reads(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    kinds = {name: kind for name, kind in KINDS.items() if name != "image"}
    monkeypatch.setattr("mezzotint.evaluate.conditioners.KINDS", kinds)
    assert main([*QUICK, "--conditioner", "all", "--out", "album"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:4]] == [["inpaint", name] for name in ("asked", "kept", "seam", "fade")]
    assert any(line.startswith("depth ") and "left out: This model reads no depth" in line for line in out)
    assert any(line.startswith("silhouette ") and "left out: " in line for line in out)
    assert out[-1].startswith("judge on real scenes")
    assert {path.name for path in (here / "album").iterdir()} == {"inpaint.png", "inpaint.jsonl"}
    # A scene, its mask and what was drawn, three times.
    assert Image.open(here / "album" / "inpaint.png").size == (3 * 20 - 4, 3 * 20 - 4)
    lines = [json.loads(line) for line in (here / "album" / "inpaint.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [{"prompt", "seed", "figures", "found"}] * 3
    worth = [line["figures"]["asked"] for line in lines]
    assert worth == sorted(worth)


def test_a_hint_of_ones_own_is_measured_too(
    here: Path, tiny_parts: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    kinds = {name: kind for name, kind in KINDS.items() if name == "depth"}
    monkeypatch.setattr("mezzotint.evaluate.conditioners.KINDS", kinds)
    hints_for(here, tiny_parts, ("depth", "edges"))
    assert main([*QUICK[:3], "hinted", *QUICK[4:], "--conditioner", "all", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: set(told["scores"]) for name, told in said["conditioners"].items()} == {
        "depth": {"rank", "text"},
        "edges": {"match", "text"},
    }
    assert list(said["left_out"]) == ["silhouette"]


def test_a_judge_is_trained_and_measured(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    measure = module.accuracy
    monkeypatch.setattr(module, "accuracy", lambda judge: measure(judge, 6))
    assert main(["evaluate", "judge", "--images", "32", "--out", "mine/judge", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["folder"] == "mine/judge"
    assert set(said["accuracy"]) == {*module.ATTRIBUTES, "found", "scene"}
    kept = json.loads((here / "mine" / "judge" / "config.json").read_text())
    assert kept["accuracy"] == said["accuracy"]
    monkeypatch.undo()
    judge, measured = module.load_judge(here / "mine" / "judge")
    assert isinstance(judge, Judge)
    assert measured == said["accuracy"]
    assert {path.name for path in (here / "mine").iterdir()} == {"judge"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what"),
        (["honesty"], "'honesty'"),
        (["obedience", "-n", "0"], "number of pictures is 0"),
        (["obedience", "-n", "many"], "whole number"),
        (["obedience", "--categories", "singing"], "no category 'singing'"),
        (["obedience", "--model", "nowhere"], "nowhere"),
        (["obedience", "--model", "tiny", "--steps", "0"], "steps"),
        (["obedience", "--model", "tiny", "--guidance", "-1"], "guidance"),
        (["obedience", "--model", "tiny", "--sampler", "eular"], "eular"),
        (["obedience", "--model", "tiny", "--schedule", "kerras"], "kerras"),
        (["obedience", "--model", "tiny", "--sampler", "eular", "--out", "new/album"], "eular"),
        (["obedience", "--model", "tiny", "--steps", "1001", "--out", "new/album"], "steps"),
        (["obedience", "--images", "9"], "--images is for judge"),
        (["obedience", "--model", "tiny", "--conditioner", "depth", "--out", "new/album"], "reads no depth"),
        (["obedience", "--model", "tiny", "--conditioner", "inpaint", "silhouette"], "reads no silhouette"),
        (["obedience", "--model", "tiny", "--conditioner", "sound"], "no conditioner 'sound'"),
        (["obedience", "--model", "tiny", "--conditioner", "inpaint", "--steps", "0"], "steps"),
        (["obedience", "--conditioner", "inpaint", "--categories", "colors"], "--categories or --conditioner"),
        (["vae", "--conditioner", "inpaint"], "--conditioner is for obedience"),
        (["obedience", "--seed", "-1"], "seed is -1"),
        (["vae", "--model", "tiny", "--sampler", "euler"], "--sampler is for obedience"),
        (["vae", "--out", "album"], "--out is for obedience and judge"),
        (["judge", "--sampler", "euler"], "--sampler is for obedience"),
        (["judge", "-n", "200"], "--n is for obedience and vae"),
        (["judge", "--seed", "0"], "--seed is for obedience and vae"),
        (["judge", "--device", "cpu"], "--device is for obedience and vae"),
        (["judge", "--categories", "counting"], "--categories is for obedience"),
        (["obedience", "--model", "tiny", "--device", "toaster"], "toaster"),
        (["obedience", "--model", "tiny", "--out", "file"], "file"),
        (["judge", "--images", "0"], "number of scenes is 0"),
        (["judge", "--out", "file"], "file"),
        (["judge", "--out", "file/judge"], "file"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
):
    (here / "file").touch()
    assert main(["evaluate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mezzotint: ")
    assert said in err
    assert err.count("\n") == 1
    assert {path.name for path in here.iterdir()} == {"tiny", "file"}


def test_no_judge_is_told_of(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(module.load_judge, "__defaults__", (here / "none",))
    assert main(QUICK) == 2
    assert "train one with 'mezzotint evaluate judge'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_progress_is_shown_on_stderr_in_any_case(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch, flags):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main([*QUICK, "--categories", "counting", *flags]) == 0
    out, err = capsys.readouterr()
    assert "counting 3 of 3" in err
    assert "counting 3 of 3" not in out
    assert main(["evaluate", "vae", "--model", "tiny", "--device", "cpu", "-n", "2", *flags]) == 0
    assert "scene 2 of 2" in capsys.readouterr().err


def test_where_nobody_watches_a_line_comes_now_and_then(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr("mezzotint.cli.evaluate.EVERY", 0.0)
    assert main([*QUICK, "--categories", "counting", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "counting 1 of 3\ncounting 2 of 3\ncounting 3 of 3\n"
    assert set(json.loads(out)["categories"]) == {"counting"}


def test_stopping_leaves_no_empty_folder(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mezzotint.evaluate.obedience.judge_pictures", stop)
    assert main([*QUICK, "--out", "new/album"]) == 130
    assert {path.name for path in here.iterdir()} == {"tiny"}
