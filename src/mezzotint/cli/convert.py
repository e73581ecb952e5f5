"""`mezzotint convert`: a model from one layout to another, or a LoRA from one naming to another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mezzotint.cli.flags import parse
from mezzotint.store.beside import check_writable
from mezzotint.store.extras import lora_files, lora_header
from mezzotint.store.header import read_header
from mezzotint.store.layout import is_model_folder, model_headers
from mezzotint.store.lora.facts import is_lora
from mezzotint.store.models import resolve
from mezzotint.store.paths import full_path
from mezzotint.types import UserError

ABOUT = (
    "Write a model in another layout, or a LoRA in another naming. Weights stay as they are stored, to the bit, unless "
    "--dtype says otherwise."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to convert, to what."""

    source: str
    """A diffusers folder, a checkpoint file, a shipped model's name, or OWNER/NAME on the hub; or a LoRA file."""
    target: Path
    """The folder or file to write."""
    to: Literal["diffusers", "single-file", "kohya", "peft"]
    """diffusers: a folder that diffusers loads; single-file: one .safetensors file, as other programs load it;
    kohya, peft: a LoRA as kohya's scripts or as peft write it, a .safetensors file."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Cast a model's weights; 16 bits halve the file."""
    ema: bool = False
    """Take the averages of a file's U-Net (model_ema.) in place of its plain weights."""
    reads: str = ""
    """A hint that the model has learned, inpaint or depth: what is written reads it always, as models for inpainting
    and from depth do elsewhere."""
    overwrite: bool = False
    """Replace the model that is at the target, when the new one is whole."""
    json: bool = False
    """Print one JSON object: target, layout, bytes."""


def run(argv: Sequence[str]) -> int:
    """Convert. What can be told from headers and names is told before torch is imported."""
    options = parse(Options, "convert", argv, ABOUT, "source", "target")
    target = Path(full_path(options.target))
    written = convert_lora(options, target) if options.to in ("kohya", "peft") else convert_model(options, target)
    size = sum(file.stat().st_size for file in written)
    if options.json:
        print(json.dumps({"target": str(target), "layout": options.to, "bytes": size}))
    else:
        print(f"{target}: {size / 2**20:,.1f} MiB")
    return 0


def convert_lora(options: Options, target: Path) -> list[Path]:
    """Write a LoRA; returns its file."""
    path = lora_files(str(full_path(options.source)))[0]
    lora_header(str(path))
    if options.dtype is not None or options.ema or options.reads:
        raise UserError("A LoRA stays as it is stored: leave out --dtype, --ema and --reads.")
    check(path, target, options)
    from mezzotint.store.lora.convert import convert_lora as convert

    convert(path, target, options.to)
    return [target]


def convert_model(options: Options, target: Path) -> list[Path]:
    """Write a model; returns its files."""
    path = resolve(options.source)
    check(path, target, options)
    if path.is_file() and is_lora(read_header(path).tensors):
        raise UserError(f"{path} is a LoRA, not a model: use --to kohya or --to peft.")
    model_headers(path)
    from mezzotint.store.convert import convert
    from mezzotint.store.device import choose_dtype

    layout = "diffusers" if options.to == "diffusers" else "single-file"
    return convert(path, target, layout, dtype=choose_dtype(options.dtype), ema=options.ema, reads=options.reads)


def check(path: Path, target: Path, options: Options) -> None:
    """Raise UserError for a target that does not fit the layout, or that something else has already."""
    if target.exists() and target.resolve() == path.resolve():
        raise UserError(f"{target} is the model itself: give another place to write to.")
    if options.to != "diffusers":
        if target.suffix != ".safetensors":
            raise UserError(f"{target} does not end in .safetensors, as what is written does: give such a name.")
        check_writable(target)
        check_free(target, options)
        return
    if target.is_file():
        raise UserError(f"{target} is a file: give the name of a folder.")
    if target.is_dir() and any(target.iterdir()) and not is_model_folder(target):
        raise UserError(f"The folder {target} holds something else than a model: give a new one.")
    check_writable(target / "model_index.json" if target.is_dir() else target)
    check_free(target, options)


def check_free(target: Path, options: Options) -> None:
    """Raise UserError where there is something that is not to be overwritten."""
    if target.exists() and not options.overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already: choose another name, or --overwrite it.")
