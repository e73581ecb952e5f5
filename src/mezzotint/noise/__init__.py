"""Seed -> sigmas and noise: the schedule, the four numbers of each parameterisation, one generator per picture."""

from __future__ import annotations

from mezzotint.noise.generator import draw_noise, generator
from mezzotint.noise.parameterisation import Prediction, Scalings, scalings, target
from mezzotint.noise.schedule import NoiseSchedule

__all__ = ["NoiseSchedule", "Prediction", "Scalings", "draw_noise", "generator", "scalings", "target"]
