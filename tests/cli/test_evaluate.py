"""`mezzotint evaluate`: the table, the JSON, the album, the judge, and every way to ask for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mezzotint.cli import main
from mezzotint.evaluate import judge as module
from mezzotint.evaluate.judge import Found, Judge
from mezzotint.evaluate.prompts import CATEGORIES

MEASURED = {"shape": 0.99, "colour": 0.98, "found": 0.97}


class Generous(Judge):
    """Always sees one red ball."""

    def find(self, pixels: object) -> list[list[Found]]:
        return [[Found("sphere", "red", "large", 0.5, 0.5, 0.9)]]


@pytest.fixture
def here(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    monkeypatch.setattr(module, "load_judge", lambda: (Generous(), MEASURED))
    return tmp_path


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


def test_what_is_ours_alone_has_no_overall_score(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*QUICK, "--categories", "held_out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"] is None


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
        (["obedience", "--model", "tiny", "--sampler", "eular", "--out", "new/album"], "eular"),
        (["obedience", "--model", "tiny", "--steps", "1001", "--out", "new/album"], "steps"),
        (["obedience", "--images", "9"], "--images is for judge"),
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

    monkeypatch.setattr("mezzotint.evaluate.obedience.obedience", stop)
    assert main([*QUICK, "--out", "new/album"]) == 130
    assert {path.name for path in here.iterdir()} == {"tiny"}
