"""`mezzotint samplers`: the walks from noise to picture."""

from __future__ import annotations

from collections.abc import Sequence

from mezzotint.cli.flags import make_parser
from mezzotint.sampling.samplers import SAMPLERS


def run(argv: Sequence[str]) -> int:
    """Print one line a sampler."""
    make_parser("samplers", "List the walks from noise to picture, for `--sampler`.").parse_args(argv)
    for name, sampler in SAMPLERS.items():
        print(f"{name:<18}{sampler.about}")
    return 0
