"""`mezzotint convert`: a model from one layout to another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mezzotint.cli.flags import parse
from mezzotint.store.beside import check_writable
from mezzotint.store.layout import is_model_folder, model_headers
from mezzotint.store.models import resolve
from mezzotint.types import UserError

ABOUT = "Write a model in another layout. Weights stay as they are stored, to the bit, unless --dtype says otherwise."


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to convert, to what."""

    source: str
    """A diffusers folder, a checkpoint file, a shipped model's name, or OWNER/NAME on the hub."""
    target: Path
    """The folder or file to write. An older model there is replaced when the new one is whole."""
    to: Literal["diffusers", "single-file"]
    """diffusers: a folder that diffusers loads; single-file: one .safetensors file, as other programs load it."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Cast the weights; 16 bits halve the file."""
    ema: bool = False
    """Take the averages of a file's U-Net (model_ema.) in place of its plain weights."""
    json: bool = False
    """Print one JSON object: target, layout, bytes."""


def run(argv: Sequence[str]) -> int:
    """Convert. What can be told from headers and names is told before torch is imported."""
    options = parse(Options, "convert", argv, ABOUT, "source", "target")
    path, target = resolve(options.source), options.target.expanduser()
    check(path, target, options)
    model_headers(path)
    from mezzotint.store.convert import convert
    from mezzotint.store.device import choose_dtype

    written = convert(path, target, options.to, dtype=choose_dtype(options.dtype), ema=options.ema)
    size = sum(file.stat().st_size for file in written)
    if options.json:
        print(json.dumps({"target": str(target), "layout": options.to, "bytes": size}))
    else:
        print(f"{target}: {size / 2**20:,.1f} MiB")
    return 0


def check(path: Path, target: Path, options: Options) -> None:
    """Raise UserError for a target that does not fit the layout, or that something else has already."""
    if target.exists() and target.resolve() == path.resolve():
        raise UserError(f"{target} is the model itself: give another place to write to.")
    if options.to == "single-file":
        if target.suffix != ".safetensors":
            raise UserError(f"{target} does not end in .safetensors, as what is written does: give such a name.")
        check_writable(target)
        return
    if target.is_file():
        raise UserError(f"{target} is a file: give the name of a folder.")
    if target.is_dir() and any(target.iterdir()) and not is_model_folder(target):
        raise UserError(f"The folder {target} holds something else than a model: give a new one.")
    check_writable(target / "model_index.json" if target.is_dir() else target)
