"""Where weights come from: both kinds of file by their first bytes, mapped and not copied, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mezzotint.store.source import open_source
from mezzotint.types import UserError

PAGE = 4096


def write(path: Path, kind: str, tensors: dict[str, torch.Tensor]) -> Path:
    if kind == "safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = ["safetensors", "zip", "stream"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model"])
def test_a_file_is_what_its_first_bytes_say(tmp_path: Path, kind: str, name: str):
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(4).to(torch.bfloat16), "c": torch.tensor(2)}
    source = open_source(write(tmp_path / name, kind, tensors))
    assert source.path == tmp_path / name
    assert source.entries.keys() == tensors.keys()
    assert (source.entries["b"].dtype, source.entries["b"].shape) == ("bfloat16", (4,))
    assert all(torch.equal(source.tensor(key), tensor) for key, tensor in tensors.items())
    assert source.metadata == ({"format": "pt"} if kind == "safetensors" else {})


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_a_tensor_is_the_mapped_file_and_the_file_cannot_be_changed_through_it(tmp_path: Path, kind: str):
    path = write(tmp_path / "model", kind, {"a": torch.zeros(3 * PAGE)})
    before = path.read_bytes()
    source = open_source(path)
    tensor = source.tensor("a")
    assert source.tensor("a").data_ptr() == tensor.data_ptr()
    tensor += 1
    assert path.read_bytes() == before
    assert torch.equal(source.tensor("a"), torch.ones(3 * PAGE))
    del source
    assert torch.equal(tensor, torch.ones(3 * PAGE))  # The mapping lives as long as a tensor of it.


def test_released_pages_are_read_again_from_the_file(tmp_path: Path):
    source = open_source(write(tmp_path / "model", "safetensors", {"a": torch.ones(4 * PAGE), "b": torch.ones(3)}))
    source.tensor("a").zero_()
    source.tensor("b").zero_()
    source.release("a")
    assert source.tensor("a").sum() > 2 * PAGE  # All whole pages of it.
    source.release("b")
    assert torch.equal(source.tensor("b"), torch.zeros(3))  # It has no page of its own.


def test_numbers_that_stand_askew_are_copied(tmp_path: Path):
    """As they do in most streams, behind a pickle of any length."""
    for length in range(8):
        path = write(tmp_path / f"{length}.pt", "stream", {"x" * length: torch.arange(6.0)})
        source = open_source(path)
        tensor = source.tensor("x" * length)
        assert tensor.data_ptr() % 4 == 0
        assert torch.equal(tensor, torch.arange(6.0))
        if source.entries["x" * length].begin % 4 != 0:
            tensor.zero_()
            assert torch.equal(torch.empty(6).copy_(source.view("x" * length)), torch.arange(6.0))


def test_a_file_that_became_shorter_is_told(tmp_path: Path):
    source = open_source(write(tmp_path / "model", "zip", {"a": torch.zeros(PAGE)}))
    source.path.write_bytes(source.path.read_bytes()[:PAGE])
    with pytest.raises(UserError, match="shorter"):
        source.tensor("a")
    source = open_source(write(tmp_path / "other", "zip", {"a": torch.zeros(PAGE)}))
    source.path.unlink()
    with pytest.raises(UserError, match="No such file"):
        source.tensor("a")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.write_text("some text"), lambda path: None])
def test_what_is_no_file_of_weights_is_one_sentence(tmp_path: Path, make):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=r"x (cannot be read|is neither)") as error:
        open_source(tmp_path / "x")
    assert str(error.value).endswith(".")
