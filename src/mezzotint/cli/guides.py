"""`mezzotint guides`: what else steers a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mezzotint.cli.flags import parse
from mezzotint.sampling.guides import GUIDES

ABOUT = "List the guides: what else steers a picture, for `--guide NAME` or `--guide NAME:VALUE:VALUE`."


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to list them."""

    json: bool = False
    """Print a JSON list: name, about, paper, parameters (name, default, low, high, about), whether a model is named
    first, whether it must come first, the guides that it makes no sense with."""


def run(argv: Sequence[str]) -> int:
    """Print a line for each guide and one for each of its parameters, or a JSON list."""
    options = parse(Options, "guides", argv, ABOUT)
    if options.json:
        rows = [
            {
                "name": name,
                "about": guide.about,
                "paper": guide.paper,
                "parameters": [asdict(parameter) for parameter in guide.parameters],
                "model": guide.model,
                "innermost": guide.innermost,
                "without": list(guide.without),
            }
            for name, guide in GUIDES.items()
        ]
        print(json.dumps(rows))
        return 0
    for name, guide in GUIDES.items():
        print(f"{name:<12}{guide.about} ({guide.paper})")
        if guide.model:
            print(f"{'':<12}{'model':<12}a model's name, folder or file, which must be given")
        for one in guide.parameters:
            print(f"{'':<12}{one.name:<12}{one.default:g}, from {one.low:g} to {one.high:g}: {one.about}")
    return 0
