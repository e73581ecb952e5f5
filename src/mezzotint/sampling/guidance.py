"""Guidance: which conditioning rows a picture wants denoised at a sigma, and how their estimates become one.

Rows are named: "cond" is the prompt's, "uncond" the negative prompt's (the empty text, where there is none). Whoever
drives the denoiser asks for the rows, evaluates them side by side, and hands the estimates back by name. Being linear
in x0, guidance of clean estimates is guidance of eps or v. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.sampling.samplers import Query


class Guidance(Protocol):
    """Anything that steers; one guidance may hold another and change what it asks or answers."""

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The names of the rows to evaluate at sigma, at least one."""
        ...

    def combine(self, estimates: Mapping[str, Tensor], query: Query) -> Tensor:
        """One estimate [1 C h w] of query.x from those of exactly the rows that were asked for, [1 C h w] each."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance with a negative prompt (Ho and Salimans 2022, arXiv 2207.12598, equation 6).

    estimate = uncond + scale * (cond - uncond), the paper's w being scale - 1. Scale 1 needs the prompt's row alone,
    and scale 0 the negative prompt's, so those ask for one row and cost half.
    """

    scale: float

    def rows(self, sigma: float) -> tuple[str, ...]:
        """One row where the scale makes the other moot, else both."""
        if self.scale == 1.0:
            return ("cond",)
        if self.scale == 0.0:
            return ("uncond",)
        return ("uncond", "cond")

    def combine(self, estimates: Mapping[str, Tensor], query: Query) -> Tensor:
        """Away from uncond through cond."""
        if len(estimates) == 1:
            return next(iter(estimates.values()))
        uncond, cond = estimates["uncond"], estimates["cond"]
        return uncond + self.scale * (cond - uncond)
