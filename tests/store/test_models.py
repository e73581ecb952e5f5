"""Shipped models, what a name stands for, and what a model says of itself."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from mezzotint.store.beside import check_writable, file_beside, folder_beside
from mezzotint.store.facts import Facts, read_facts
from mezzotint.store.image_prompt import image_prompts_beside
from mezzotint.store.models import SHIPPED, full_name, resolve, shipped_models
from mezzotint.types import UserError


def test_a_name_stands_for_a_shipped_folder_first(tiny_folder: Path, monkeypatch):
    root = tiny_folder.parent
    assert [model.name for model in shipped_models(root)] == ["tiny"]
    assert shipped_models(root)[0].bytes > 100_000
    monkeypatch.chdir(root.parent)
    assert resolve("tiny", root) == tiny_folder
    assert resolve(tiny_folder, Path("nowhere")) == tiny_folder
    assert resolve(str(tiny_folder) + "/", root) == tiny_folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tinny", "one of these: tiny"),
        ("", "one of these: tiny"),
        ("..", "no model_index.json"),
        ("tiny/unet", "one of these: tiny"),
        (".", "no model_index.json"),
    ],
)
def test_a_missing_model_is_told_with_those_there_are(tiny_folder: Path, tmp_path: Path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(UserError, match=said):
        resolve(name, tiny_folder.parent)


def test_every_shipped_model_has_its_card_and_its_sums():
    for model in shipped_models():
        assert (model.folder / "README.md").is_file()
        assert model.facts.name == model.name
        assert model.facts.sha256
        assert model.bytes <= 40 * 2**20
    beside = image_prompts_beside(SHIPPED / "still-life")
    files = {file.relative_to(beside).as_posix(): file for file in beside.rglob("*.safetensors")}
    assert (beside / "README.md").is_file()
    assert read_facts(beside).name == beside.name
    assert read_facts(beside).sha256 == {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def test_a_request_takes_what_is_given_then_what_the_model_says(tiny_folder: Path):
    facts = read_facts(tiny_folder)
    assert facts.request(prompt="x").steps == 3
    assert facts.request(prompt="x", steps=7).steps == 7
    assert facts.request(prompt="x").sampler == "dpmpp-2m"


@pytest.mark.parametrize("name", ["prompt", "seed", "model", "colour"])
def test_a_model_may_not_settle_everything(name: str):
    with pytest.raises(UserError, match=name):
        Facts(defaults={name: 1})
    with pytest.raises(UserError, match=name):
        Facts(hinted={name: 1})


def test_nothing_half_written_takes_the_name(tmp_path: Path):
    (tmp_path / "a").write_text("old")

    def half(path: Path) -> None:
        with file_beside(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path: Path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(UserError, match="is a file"), folder_beside(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("name", ["", "none/a.png", "file/a.png", "x" * 300 + ".png"])
def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        check_writable(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_can_be_written_leaves_no_trace(tmp_path: Path):
    check_writable(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_named_in_full_unless_it_is_shipped(tiny_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    assert full_name("tiny", tiny_folder.parent) == "tiny"
    assert full_name("tiny", tmp_path) == full_name(Path("tiny"), tmp_path) == str(tiny_folder)
    monkeypatch.setenv("HOME", str(tiny_folder.parent))
    assert full_name("~/tiny", tmp_path) == str(tiny_folder)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-of-this-name/model", "a\0b"])
def test_names_that_no_folder_can_have(name: str):
    with pytest.raises(UserError, match="There is no model"):
        resolve(name)
