"""Seed -> sigmas and noise: the schedule, the four numbers of each parameterisation, one generator per picture.

Importing this imports no torch, so that the names of the schedules cost nothing to list.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mezzotint.noise.generator import draw_noise, generator
from mezzotint.noise.spacing import SPACINGS, TABLES, Spacing

if TYPE_CHECKING:
    from mezzotint.noise.parameterisation import Prediction, Scalings, scalings, target
    from mezzotint.noise.schedule import NoiseSchedule

__all__ = [
    "SPACINGS",
    "TABLES",
    "NoiseSchedule",
    "Prediction",
    "Scalings",
    "Spacing",
    "draw_noise",
    "generator",
    "scalings",
    "target",
]

HOMES = {
    "NoiseSchedule": "schedule",
    "Prediction": "parameterisation",
    "Scalings": "parameterisation",
    "scalings": "parameterisation",
    "target": "parameterisation",
}
"""The modules that import torch, by the names that they hold."""


def __getattr__(name: str) -> Any:
    """What imports torch, imported when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
