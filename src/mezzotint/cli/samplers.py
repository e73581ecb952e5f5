"""`mezzotint samplers`: the walks from noise to picture, and where their steps may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mezzotint.cli.flags import parse
from mezzotint.noise.spacing import SPACINGS, TABLES
from mezzotint.sampling.samplers import SAMPLERS

ABOUT = "List the walks from noise to picture, for `--sampler`, and what `--schedule` takes."


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to list, and how."""

    schedules: bool = False
    """List the names for --schedule alone."""
    json: bool = False
    """Print a JSON list: name, order, evaluations, stochastic, eta, about; of schedules name, kind, about."""


def run(argv: Sequence[str]) -> int:
    """Print two tables, or a JSON list of one."""
    options = parse(Options, "samplers", argv, ABOUT)
    if options.json:
        print(json.dumps(schedules() if options.schedules else samplers()))
        return 0
    if not options.schedules:
        print(f"{'sampler':<20}{'order':>5}  {'evaluations':>11}  {'eta':>4}")
        for row in samplers():
            eta = "" if row["eta"] is None else f"{row['eta']:g}"
            print(f"{row['name']:<20}{row['order']:>5}  {row['evaluations']:>11}  {eta:>4}  {row['about']}")
        print("\neta is the share of fresh noise; without a number a sampler adds none.\n")
    print("schedule: one spacing of steps, and in its place or with it one table of noise, joined by +")
    for row in schedules():
        print(f"{row['name']:<20}{row['kind']:<9}{row['about']}")
    return 0


def samplers() -> list[dict[str, object]]:
    """A row a sampler."""
    return [
        {
            "name": sampler.name,
            "order": sampler.order,
            "evaluations": sampler.evaluations,
            "stochastic": sampler.stochastic,
            "eta": sampler.eta,
            "about": sampler.about,
        }
        for sampler in SAMPLERS.values()
    ]


def schedules() -> list[dict[str, object]]:
    """A row a name."""
    return [
        {"name": name, "kind": kind, "about": about}
        for kind, table in (("spacing", SPACINGS), ("table", TABLES))
        for name, about in table.items()
    ]
