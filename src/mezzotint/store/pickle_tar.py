"""The tar files of PyTorch 0.1: pickles of storages and tensors with their bytes, then a pickle that names them.

Imports no torch. Three members, each a row of pickles and bytes:

- `storages`: how many; for each its key, location and type, a count of eight bytes and the numbers; then views of them;
- `tensors`: how many; for each its key, its storage's key and its type, the number of axes in four bytes and four bytes
  of nothing, then in eight bytes each the sides, the strides and the offset;
- `pickle`: the value, in which a persistent id is the key of a tensor or storage.
"""

from __future__ import annotations

import mmap
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from struct import Struct
from typing import IO, Any, cast

from mezzotint.store.header import MAX_AXES
from mezzotint.store.pickle_header import (
    COUNT,
    WIDTHS,
    Contents,
    Storage,
    View,
    record_key,
    storage_dtype,
    tensor_machine,
)
from mezzotint.types import UserError

AXES = Struct("<i4x")
"""How many axes a tensor has, in eight bytes of which four are used."""


def tarred(path: Path, file: IO[bytes]) -> Contents:
    """What a tar file holds. Raises UserError for one that PyTorch did not write, else as `Machine.run`."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            begins = {member.name: member.offset_data for member in archive if member.isreg()}
    except tarfile.TarError as error:
        raise ValueError from error
    if not {"storages", "tensors", "pickle"} <= begins.keys():
        raise UserError(f"{path} is a tar file that PyTorch did not write: give the file of weights itself.")
    storages: dict[str | int, Storage] = {}
    things: dict[str | int, Storage | View] = {}
    places: dict[str | int, tuple[int, int]] = {}

    def stored(told: Any) -> Any:
        if isinstance(told, tuple):  # A class, with its source text.
            return cast("tuple[Any, ...]", told)[0]
        return things[int(told)]

    machine = tensor_machine(stored)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stream = cast("IO[bytes]", data)
        data.seek(begins["storages"])
        for _ in range(machine.run(stream)):
            key, _, kind = machine.run(stream)
            storages[record_key(key)] = storage = Storage(key, storage_dtype(kind))
            (count,) = COUNT.unpack(data.read(COUNT.size))
            places[key] = (data.tell(), data.tell() + count * WIDTHS[storage.dtype])
            data.seek(places[key][1])  # ValueError beyond the end of the file.
        for key, root, skipped, _ in machine.run(stream):
            storages[record_key(key)] = replace(storages[record_key(root)], skipped=skipped)
        things |= storages
        data.seek(begins["tensors"])
        for _ in range(machine.run(stream)):
            key, root, _ = machine.run(stream)
            (axes,) = AXES.unpack(data.read(AXES.size))
            if not 0 <= axes <= MAX_AXES:
                raise ValueError
            numbers = struct.unpack(f"<{2 * axes + 1}Q", data.read(8 * (2 * axes + 1)))
            storage = storages[record_key(root)]
            things[record_key(key)] = View(storage, storage.dtype, numbers[-1], numbers[:axes], numbers[axes:-1])
        data.seek(begins["pickle"])
        return Contents(machine.run(stream), places.__getitem__)
