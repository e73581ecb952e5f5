"""The header of a file of tensors: what it holds and where, read without the tensors' bytes. Imports no torch.

A file is told by its first bytes, never by its name. Here is safetensors: eight bytes N, little-endian; N bytes of
JSON, one entry a tensor; then the tensors' bytes, back to back. `pickle_header` is for the files that PyTorch pickles.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

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
ITEM_BYTES = {DTYPE_NAMES[name]: size for name, size in BYTES.items()}
"""Bytes of one number, by torch's name of its dtype."""
MAX_HEADER = 100_000_000
"""Bytes of JSON beyond which a file is taken for something else, as the safetensors library does."""
MAX_AXES, MAX_COUNT = 32, 2**48
"""Axes and numbers that no tensor reaches: beyond them lie only damage, and products that take long."""
MAX_SHOWN = 120
"""Characters of a name out of a file that stand in a sentence."""
OTHER_JSON = b'["-0123456789tfn'
"""The first bytes of JSON that is no object, as a damaged header may be."""
PICKLE = 0x80
"""The first byte of a pickle of protocol 2 or later."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file: its dtype by torch's name, its shape, and the bytes [begin, end) of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    strides: tuple[int, ...] | None = None
    """Numbers from one to the next along each axis; none is row after row, without gaps."""

    @property
    def count(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's tensors by name, and the text that was stored with them."""

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
    """The header of a safetensors file, or of a file that PyTorch pickled, of which no code is run.

    Raises UserError where there is no such file, where it is of another kind or is damaged, where its tensors do not
    lie in it, which is how a download that broke off shows, and where a pickle wants to call what no weights need.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
            size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    length = int.from_bytes(head[:8], "little")
    if head[8:] == b"{":
        safetensors = not (head[0] == PICKLE and length > MAX_HEADER)
    else:
        safetensors = head[8:] != b"" and head[8:] in OTHER_JSON and 8 + length <= size
    if safetensors:
        return _safetensors_header(path)
    from mezzotint.store.pickle_header import read_pickle_header

    return read_pickle_header(path)


def _safetensors_header(path: Path) -> Header:
    """The header of a safetensors file, whose tensors must fill it exactly. Raises UserError as `read_header`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER:
                raise UserError(f"{path} is not a safetensors file, or its beginning is damaged: get it again.")
            if 8 + length > size:
                raise UserError(f"{path} ends within its header, after {size} bytes: get it again.")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        values: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_once)
        told = values.pop("__metadata__", None)
        metadata = {} if told is None else {str(key): str(value) for key, value in told.items()}
        entries = {name: _entry(path, name, value, 8 + length) for name, value in values.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a safetensors file, or its header is damaged: get it again.") from error
    _check_filled(path, entries, 8 + length, size)
    return Header(path, entries, metadata)


def shown(name: str) -> str:
    """A name out of a file as it may stand in a sentence: on one line, printable, and not too long."""
    return printable(name[:MAX_SHOWN]) + "..." * (len(name) > MAX_SHOWN)


def printable(text: str) -> str:
    """The same with a question mark for every letter that cannot be printed or would end the line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@contextmanager
def naming(path: Path) -> Generator[None]:
    """Let every UserError of the block name the file, in one printable line."""
    try:
        yield
    except UserError as error:
        sentence = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise UserError(printable(sentence)) from error


def are_places(numbers: Any) -> bool:
    """Whether it is a list of numbers that can be places in a file, or steps from one to the next."""
    if not isinstance(numbers, (list, tuple)):
        return False
    numbers = cast("list[Any]", numbers)
    return len(numbers) <= MAX_AXES and all(type(number) is int and 0 <= number < MAX_COUNT for number in numbers)


def is_shape(sides: Any) -> bool:
    """Whether it is a list of numbers that can be the sides of a tensor."""
    return are_places(sides) and prod(side for side in sides if side > 0) < MAX_COUNT


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose names stands twice. Raises ValueError."""
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError
    return values


def _entry(path: Path, name: str, value: dict[str, Any], data: int) -> TensorEntry:
    kind, shape = value["dtype"], value["shape"]
    if kind not in DTYPE_NAMES:
        raise UserError(f"{path} has tensor {shown(name)} of dtype {shown(str(kind))}, which cannot be read here.")
    if not is_shape(shape) or not are_places(value["data_offsets"]):
        raise ValueError
    begin, end = value["data_offsets"]
    if end - begin != prod(shape) * BYTES[kind]:
        raise UserError(
            f"{path} gives tensor {shown(name)} {end - begin} bytes, which its shape {shape} does not fill."
        )
    return TensorEntry(DTYPE_NAMES[kind], tuple(shape), data + begin, data + end)


def _check_filled(path: Path, entries: dict[str, TensorEntry], data: int, size: int) -> None:
    """Raise UserError unless the tensors lie back to back up to the end of the file."""
    place = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise UserError(f"{path} has a gap or an overlap before tensor {shown(name)}: get it again.")
        place = entry.end
    if place != size:
        raise UserError(f"{path} has {size} bytes where its header tells of {place}: get it again.")
