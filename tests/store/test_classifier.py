"""The classifier beside a model: written and read, checked when it is read, and nothing to whoever does not ask."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as read_tensors

from mezzotint.denoise.classifier import Classifier, init_for_training
from mezzotint.denoise.classifier_config import ClassifierConfig
from mezzotint.store.checksum import Checksums
from mezzotint.store.classifier import StoredClassifier, classifier_files
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.store.header import read_header
from mezzotint.store.hub import chosen
from mezzotint.store.inspect import inspect
from mezzotint.store.layout import all_model_files
from mezzotint.store.single_file import load_file, save_file
from mezzotint.store.weights import write_tensors
from mezzotint.types import UserError

CONFIG = ClassifierConfig(
    widths=(8,), blocks=(1,), heads=2, norm_num_groups=4, shapes=(("sphere", "ball"),), colours=(("red",), ("blue",))
)
WEIGHTS = "classifier/model.safetensors"


def a_classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(CONFIG)
        init_for_training(classifier, torch.full((2, 3, 4), -1.5))
    return classifier.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tiny_parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a classifier; nobody may change it."""
    path = tmp_path_factory.mktemp("with") / "tiny"
    save_folder(replace(tiny_parts, classifier=StoredClassifier(a_classifier)), path)
    return path


def test_what_is_saved_is_loaded(folder: Path):
    parts = load_folder(folder)
    assert parts.classifier is not None
    loaded, expected = parts.classifier(), a_classifier().half().float()
    assert loaded.config == CONFIG
    assert loaded is parts.classifier("cpu")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_it_is_saved_once_more_as_it_was(folder: Path, tmp_path: Path):
    save_folder(load_folder(folder, dtype=None), tmp_path / "copy")
    for file in classifier_files(folder):
        assert (tmp_path / "copy" / file.relative_to(folder)).read_bytes() == file.read_bytes()


def test_a_model_without_one_has_none(tiny_folder: Path):
    assert load_folder(tiny_folder).classifier is None
    assert not (tiny_folder / "classifier").exists()


def test_pictures_do_not_depend_on_it_until_they_ask(folder: Path, tiny_folder: Path):
    """Neither the files that are summed for every picture nor the model's own sum tell of it."""
    assert Checksums(folder).whole == Checksums(tiny_folder).whole
    assert not any("classifier" in str(file.relative_to(folder)) for file in all_model_files(folder))
    assert [file.name for file in classifier_files(folder)] == ["config.json", "model.safetensors"]


def test_it_is_read_when_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[Path] = []

    def load(path: Path) -> Classifier:
        read.append(path)
        return a_classifier()

    monkeypatch.setattr("mezzotint.store.classifier.load_classifier", load)
    parts = load_folder(folder)
    assert read == []
    assert parts.classifier is not None
    parts.classifier()
    parts.classifier()
    assert read == [folder / "classifier"]


def test_its_gradient_is_there_though_it_was_loaded_in_inference_mode(folder: Path):
    parts = load_folder(folder)
    assert parts.classifier is not None
    with torch.inference_mode():
        classifier = parts.classifier()
    x = torch.ones(1, 4, 2, 2, requires_grad=True)
    classifier(x, torch.ones(1)).sum().backward()
    assert x.grad is not None


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_damage_is_told_when_it_is_read(copy: Path):
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-3] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    parts = load_folder(copy)
    assert parts.classifier is not None
    with pytest.raises(UserError, match=r"classifier.model\.safetensors is damaged"):
        parts.classifier()


def test_weights_that_are_missing(copy: Path):
    (copy / WEIGHTS).unlink()
    parts = load_folder(copy)
    assert parts.classifier is not None
    with pytest.raises(UserError, match=r"classifier.model\.safetensors is damaged"):
        parts.classifier()
    facts = json.loads((copy / "mezzotint.json").read_text())
    (copy / "mezzotint.json").write_text(json.dumps({**facts, "sha256": {}}))
    parts = load_folder(copy)
    assert parts.classifier is not None
    with pytest.raises(UserError, match="lacks the tensor"):
        parts.classifier()


@pytest.mark.parametrize("change", [{"widths": "wide"}, {"shapes": 3}, {"colour": []}, {"heads": 1.5}])
def test_a_config_that_is_damaged(copy: Path, change: dict[str, object]):
    path = copy / "classifier" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    parts = load_folder(copy)
    assert parts.classifier is not None
    with pytest.raises(UserError, match=r"config\.json|classifier"):
        parts.classifier()


def test_a_folder_of_that_name_may_be_somebody_else_s(copy: Path):
    (copy / "classifier" / "config.json").write_text(json.dumps({"_class_name": "ImageClassifier"}))
    assert load_folder(copy).classifier is None


def test_the_hub_gives_it_with_the_model(folder: Path):
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert {"classifier/config.json", WEIGHTS} <= set(chosen(files))


def test_a_single_file_keeps_it(folder: Path, tmp_path: Path):
    save_file(load_folder(folder, dtype=None), tmp_path / "model.safetensors")
    parts = load_file(tmp_path / "model.safetensors", dtype=None)
    save_folder(parts, tmp_path / "again")
    for file in classifier_files(folder):
        assert (tmp_path / "again" / file.relative_to(folder)).read_bytes() == file.read_bytes()
    told = inspect(tmp_path / "model.safetensors")
    assert told["parts"]["classifier"]["dtype"] == "float16"
    assert not any("classifier" in key for key in told["unused_keys"])
    assert read_header(tmp_path / "model.safetensors").metadata.keys() >= {"mezzotint.classifier"}
    save_file(replace(parts, classifier=None), tmp_path / "without.safetensors")
    assert load_file(tmp_path / "without.safetensors").classifier is None


@pytest.mark.parametrize("name", ["mezzotint.classifier.conv_in.weight", None])
def test_what_is_damaged_in_a_single_file(folder: Path, tmp_path: Path, name: str | None):
    path = tmp_path / "model.safetensors"
    save_file(load_folder(folder), path)
    tensors, metadata = read_tensors(path), dict(read_header(path).metadata)
    if name is None:
        metadata["mezzotint.classifier"] = '{"widths": "wide"}'
        write_tensors(tensors, path, metadata)
        with pytest.raises(UserError, match="The classifier is of the class None"):
            load_file(path)
        return
    del tensors[name]
    write_tensors(tensors, path, metadata)
    parts = load_file(path)  # It is not read until it is asked for.
    assert parts.classifier is not None
    with pytest.raises(UserError, match=r"model\.safetensors lacks the tensor .*conv_in\.weight"):
        parts.classifier()
