"""The header of a safetensors file: what tensors it holds and where, read without their bytes. Imports no torch.

The layout is eight bytes N, little-endian; N bytes of JSON, one entry a tensor; then the tensors' bytes, back to back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mezzotint.types import UserError

DTYPE_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_HEADER = 100_000_000
"""Bytes of JSON beyond which a file is taken for something else, as the safetensors library does."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: its dtype by torch's name, its shape, and the bytes [begin, end) of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def count(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A safetensors file's tensors by name, and the text that was stored with them."""

    path: Path
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(entry.count for entry in self.tensors.values())

    @property
    def dtypes(self) -> list[str]:
        """The tensors' dtypes, the one with the most numbers first."""
        counts: dict[str, int] = {}
        for entry in self.tensors.values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.count
        return sorted(counts, key=lambda dtype: -counts[dtype])


def read_header(path: Path) -> Header:
    """The header of a safetensors file.

    Raises UserError where there is no such file, where it is of another kind, or where its tensors do not fill it
    exactly, which is how a download that broke off shows.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > MAX_HEADER:
                raise UserError(f"{path} is not a safetensors file, or its beginning is damaged: get it again.")
            if 8 + length > size:
                raise UserError(f"{path} ends within its header, after {size} bytes: get it again.")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        values: dict[str, Any] = json.loads(text)
        metadata = {str(key): str(value) for key, value in values.pop("__metadata__", {}).items()}
        entries = {name: _entry(path, name, value, 8 + length) for name, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a safetensors file, or its header is damaged: get it again.") from error
    _check_filled(path, entries, 8 + length, size)
    return Header(path, entries, metadata)


def _entry(path: Path, name: str, value: dict[str, Any], data: int) -> TensorEntry:
    kind = value["dtype"]
    if kind not in DTYPE_NAMES:
        raise UserError(f"{path} has tensor {name} of dtype {kind}, which cannot be read here.")
    shape = tuple(int(side) for side in value["shape"])
    begin, end = value["data_offsets"]
    if end - begin != prod(shape) * BYTES[kind] or begin < 0 or any(side < 0 for side in shape):
        raise UserError(f"{path} gives tensor {name} {end - begin} bytes, which its shape {list(shape)} does not fill.")
    return TensorEntry(DTYPE_NAMES[kind], shape, data + begin, data + end)


def _check_filled(path: Path, entries: dict[str, TensorEntry], data: int, size: int) -> None:
    """Raise UserError unless the tensors lie back to back up to the end of the file."""
    place = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise UserError(f"{path} has a gap or an overlap before tensor {name}: get it again.")
        place = entry.end
    if place != size:
        raise UserError(f"{path} has {size} bytes where its header tells of {place}: get it again.")
