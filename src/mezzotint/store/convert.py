"""A model from one layout to another, as it is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from mezzotint.store.folder import save_folder
from mezzotint.store.load import load_parts
from mezzotint.store.single_file import save_file
from mezzotint.types import UserError

Layout = Literal["diffusers", "single-file"]
ELSEWHERE = ("inpaint", "depth")
"""The hints for which other programs know models that read them."""


def convert(
    source: Path,
    target: Path,
    to: Layout,
    *,
    dtype: torch.dtype | None = None,
    ema: bool = False,
    reads: str = "",
) -> list[Path]:
    """Write the model at `source` as a diffusers folder or as a single file; returns the files that were written.

    Weights keep their dtype, unless `dtype` is given, and every bit. `reads` is the name of a hint that the model has
    learned: what is written is a model that reads it always, as other programs know them. Raises UserError as
    `load_parts`, `save_folder` and `save_file`; what was at `target` then stays.
    """
    parts = load_parts(source, dtype=None, ema=ema)
    if reads != "":
        if parts.hints is None:
            raise UserError(f"The model has learned no hints, so it cannot read {reads}: leave reads out.")
        if reads not in ELSEWHERE:
            raise UserError(f"Other programs know no model that reads {reads}: choose {' or '.join(ELSEWHERE)}.")
        parts = replace(parts, unet=parts.hints.unet(parts.unet, reads), hints=None)
    if to == "single-file":
        save_file(parts, target, dtype=dtype)
        return [target]
    save_folder(parts, target, dtype=dtype)
    return sorted(path for path in target.rglob("*") if path.is_file())
