"""A model from disk, whatever its layout."""

from __future__ import annotations

from pathlib import Path

import torch

from mezzotint.store.checksum import Checksums
from mezzotint.store.folder import load_folder
from mezzotint.store.parts import Parts
from mezzotint.store.single_file import load_file


def load_parts(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    checksums: Checksums | None = None,
    ema: bool = False,
) -> Parts:
    """The parts of the model in a diffusers folder or in one file. Arguments and errors as `load_folder`, `load_file`.

    A folder has no averages beside its weights, so there `ema` changes nothing.
    """
    if path.is_file():
        return load_file(path, device, dtype, ema=ema)
    return load_folder(path, device, dtype, checksums)
