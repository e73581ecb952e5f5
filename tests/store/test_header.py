"""Headers of safetensors files: what is read, and how damage shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mezzotint.store.header import read_header
from mezzotint.types import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "c": torch.tensor(1)}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def rewrite(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_what_a_header_tells(file: Path):
    header = read_header(file)
    assert {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()} == {
        "a": ("float32", (2, 3)),
        "b": ("bfloat16", (5,)),
        "c": ("int64", ()),
    }
    assert header.metadata == {"format": "pt"}
    assert header.parameters == 12
    assert header.dtypes == ["float32", "bfloat16", "int64"]
    entry = header.tensors["a"]
    assert file.read_bytes()[entry.begin : entry.end] == torch.arange(6.0).numpy().tobytes()


@pytest.mark.parametrize("kept", [0, 3, 8, 50, -1])
def test_a_file_that_ends_early_is_told(file: Path, kept: int):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"some\.safetensors"):
        read_header(file)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{not json", b""),
        ([1, 2], b""),
        ({"a": 7}, b""),
        ({"a": {"dtype": "F32"}}, b""),
        ({"a": F32 | {"dtype": "F33"}}, bytes(8)),
        ({"a": F32 | {"shape": [3]}}, bytes(8)),
        ({"a": F32 | {"data_offsets": [0, "x"]}}, bytes(8)),
        ({"a": F32, "b": F32}, bytes(8)),
        ({"a": F32 | {"data_offsets": [4, 12]}}, bytes(12)),
        ({"a": F32}, bytes(9)),
        ({"__metadata__": 3, "a": F32 | {"shape": "no"}}, bytes(8)),
    ],
)
def test_a_header_that_does_not_fit_its_data_is_told(tmp_path: Path, header: object, data: bytes):
    path = tmp_path / "odd.safetensors"
    rewrite(path, header, data)
    with pytest.raises(UserError, match=r"odd\.safetensors"):
        read_header(path)


def test_metadata_that_is_null_is_none(tmp_path: Path):
    rewrite(tmp_path / "odd.safetensors", {"__metadata__": None, "a": F32}, bytes(8))
    assert read_header(tmp_path / "odd.safetensors").metadata == {}
    assert list(load_file(tmp_path / "odd.safetensors")) == ["a"]  # As the library has it.


@pytest.mark.parametrize("header", [[1, 2], "words", 3, -1.5, None, True])
def test_a_header_that_is_no_object_is_damaged_and_not_of_another_kind(tmp_path: Path, header: object):
    rewrite(tmp_path / "odd.safetensors", header, bytes(8))
    with pytest.raises(UserError, match="header is damaged"):
        read_header(tmp_path / "odd.safetensors")


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
