"""A model from disk, whatever its layout."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from mezzotint.store.checksum import Checksums
from mezzotint.store.folder import load_folder
from mezzotint.store.parts import Parts
from mezzotint.store.single_file import load_file
from mezzotint.store.weights import Unread


def load_parts(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    checksums: Checksums | None = None,
    ema: bool = False,
    unread: Unread | None = None,
) -> Parts:
    """The parts of the model in a diffusers folder or in one file. Arguments and errors as `load_folder`, `load_file`.

    A folder has no averages beside its weights, so there `ema` changes nothing. `unread` is as in `build`.
    """
    if path.is_file():
        return load_file(path, device, dtype, ema=ema, unread=unread)
    return load_folder(path, device, dtype, checksums, unread=unread)


@contextmanager
def uncollected() -> Generator[None]:
    """Put off looking for garbage: hundreds of thousands of things are made while a model loads, and all are kept."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
