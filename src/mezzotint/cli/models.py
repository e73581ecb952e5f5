"""`mezzotint models`: the models that come with the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mezzotint.cli.flags import parse
from mezzotint.store.models import shipped_models

ABOUT = "List the models that come with the package."


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to list them."""

    json: bool = False
    """Print a JSON list: name, about, sizes, defaults, hinted, bytes, folder."""


def run(argv: Sequence[str]) -> int:
    """Print one line a model, or a JSON list."""
    options = parse(Options, "models", argv, ABOUT)
    models = shipped_models()
    if options.json:
        rows = [
            {
                "name": model.name,
                "about": model.facts.about,
                "sizes": [list(size) for size in model.facts.sizes],
                "defaults": model.facts.defaults,
                "hinted": model.facts.hinted,
                "bytes": model.bytes,
                "folder": str(model.folder),
            }
            for model in models
        ]
        print(json.dumps(rows))
        return 0
    for model in models:
        sizes = ", ".join(f"{width}x{height}" for width, height in model.facts.sizes)
        print(f"{model.name:<16}{sizes:<12}{model.bytes / 2**20:6.1f} MiB  {model.facts.about}")
    if not models:
        print("No model comes with this package.")
    return 0
