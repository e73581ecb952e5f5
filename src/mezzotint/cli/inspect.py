"""`mezzotint inspect`: what a model file or folder holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.cli.flags import parse
from mezzotint.store.evidence import OWN
from mezzotint.store.inspect import inspect
from mezzotint.store.paths import expanded
from mezzotint.types import UserError

ABOUT = "Say what a model file or folder holds, from its headers alone."
SHOWN = 8
"""The most values of a list, or entries of metadata, that are printed as text; JSON has all."""
OWN_NAMES = ("metadata", "vectors", "parts", "layers")
"""The groups whose names are a file's own."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at."""

    path: Path
    """A model, or one network of it: a file (.safetensors, .ckpt, .pt, .bin) or a diffusers folder; a LoRA; learned
    words (.safetensors, .pt, .bin, .png); or a shipped model's name."""
    json: bool = False
    """Print one JSON object."""


def run(argv: Sequence[str]) -> int:
    """Print what is there."""
    options = parse(Options, "inspect", argv, ABOUT, "path")
    told = inspect(located(options.path))
    print(json.dumps(told) if options.json else "\n".join(lines(told)))
    return 0


def located(path: Path) -> Path:
    """The path itself where something is, else the folder of the shipped model of that name."""
    if expanded(path).exists():
        return path
    from mezzotint.store.models import resolve

    try:
        return resolve(path)
    except UserError as error:
        raise UserError(f"There is no file, folder or shipped model {str(path)!r}: check the name.") from error


def lines(told: dict[str, Any], indent: str = "", *, own_names: bool = False) -> list[str]:
    """The facts as lines of text, a nested one indented under its name; `own_names` are shown as they are."""
    shown: list[str] = []
    for name, value in told.items():
        label = name if own_names else name.replace("_", " ")
        head = f"{indent}{label:<21} "
        if isinstance(value, dict):
            if value:
                inner = first(value) if name == "metadata" else value
                shown += [head.rstrip(), *lines(inner, indent + "  ", own_names=name in OWN_NAMES)]
        elif isinstance(value, list):
            if value:
                shown.append(f"{head}{listed(value)}")
        elif isinstance(value, int) and not isinstance(value, bool):
            shown.append(f"{head}{value:,}")
        elif value is not None:
            shown.append(f"{head}{value}")
    return shown


def first(values: dict[str, Any]) -> dict[str, Any]:
    """The first of many entries by name, and how many more there are; our own say nothing that is not told already."""
    names = sorted(name for name in values if not name.startswith(OWN))[:SHOWN]
    left = len(values) - len(names)
    return {name: values[name] for name in names} | ({"and": f"{left:,} more (--json has all)"} if left > 0 else {})


def listed(values: list[Any]) -> str:
    """The values in one line: all, or the first few and how many more there are."""
    first = ", ".join(str(value) for value in values[:SHOWN])
    return first if len(values) <= SHOWN else f"{first} and {len(values) - SHOWN:,} more"
