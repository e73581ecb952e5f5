"""Guidance: which conditioning rows a picture wants denoised at a sigma, and how their estimates become one.

A row has a name. "cond", "cond-1", "cond-2", ... are the prompts' (several where AND joins them), "uncond" is the
negative prompt's (the empty text, where there is none). "perturbed", "perturbed-1", ... ask a worse network what these
ask the model, and "weak", "weak-1", ... another model (see `source`). Whoever drives the denoiser asks for the rows,
evaluates them side by side, and hands the estimates back by name.

Everything is said of clean estimates x0. What is linear in them is the same said of eps or v; what is not says so.
This file has plain guidance and what may stand in its place; `around` has what is put around it, `guides` the table of
what a request may ask for. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.sampling.samplers import Query

Estimates = Mapping[str, "Tensor"]
"""Clean estimates [1 C h w] by the names of their rows."""

OFF = (0.0, 1.0)
"""The scales at which nothing is steered: the negative prompt's own estimate, and the prompt's own."""


class Guidance(Protocol):
    """Anything that steers; one guidance may hold another and change what it asks or answers.

    A guidance may remember what it has seen of a picture, so every picture has one of its own.
    """

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The names of the rows to evaluate at sigma, at least one."""
        ...

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """One estimate [1 C h w] of query.x from those of the rows that it asked for, which may stand among others."""
        ...


class Source(NamedTuple):
    """Whose estimate a row is, and of what."""

    network: str
    """"" is the model's own, "perturbed" its U-Net with self-attention taken away, "weak" another model."""
    told: str
    """What it is told: "uncond", "cond", "cond-1", ..."""


def source(row: str) -> Source:
    """Whose a row is: cond-1 is ("", "cond-1"), weak is ("weak", "cond"), weak-uncond is ("weak", "uncond")."""
    network, dash, rest = row.partition("-")
    if network not in ("perturbed", "weak"):
        return Source("", row)
    return Source(network, rest if rest == "uncond" else f"cond{dash}{rest}")


def worse(network: str, row: str) -> str:
    """The row that asks a worse network what `row` asks the model; `source` goes back."""
    return f"{network}-uncond" if row == "uncond" else row.replace("cond", network, 1)


def union(*rows: Iterable[str]) -> tuple[str, ...]:
    """Every row once, in order."""
    return tuple(dict.fromkeys(row for some in rows for row in some))


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance with a negative prompt (Ho and Salimans 2022, arXiv 2207.12598, equation 6).

    estimate = uncond + scale * sum_i w_i (cond_i - uncond), the paper's w being scale - 1. Several prompts are
    composable diffusion's conjunction (Liu et al. 2022, arXiv 2206.01714, algorithm 1), whose weights are scale * w_i.

    A row whose estimate does not matter is not asked for: with one prompt of weight 1, scale 1 asks for the prompt's
    row alone and scale 0 for the negative prompt's, so those cost half.
    """

    scale: float
    weights: tuple[float, ...] = (1.0,)
    """One for each prompt."""

    @property
    def unguided(self) -> ClassifierFree:
        """What draws where nothing steers: the prompts' own estimate, or at scale 0 the negative prompt's."""
        return ClassifierFree(0.0 if self.scale == 0.0 else 1.0, self.weights)

    @property
    def told(self) -> dict[str, float]:
        """The rows that are steered towards, with their weights; at scale 0 there is the negative prompt alone."""
        if self.scale == 0.0:
            return {"uncond": 1.0}
        names = ["cond", *(f"cond-{number}" for number in range(1, len(self.weights)))]
        return {name: weight for name, weight in zip(names, self.weights, strict=True) if weight != 0.0}

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The prompts, and the negative prompt before them unless its share is 0."""
        told = self.told
        moot = math.isclose(self.scale * math.fsum(told.values()), 1.0)
        return union(told) if moot and told else union(["uncond"], told)

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """Away from uncond through cond."""
        rows = self.rows(query.sigma)
        if len(rows) == 1:
            return estimates[rows[0]]
        if "uncond" in rows:
            uncond = estimates["uncond"]
            return uncond + self.scale * weighted({row: estimates[row] - uncond for row in self.told}, self.told)
        return self.scale * weighted(estimates, self.told)


def weighted(values: Estimates, weights: Mapping[str, float]) -> Tensor:
    """The sum of weight * value over the names of `weights`, of which there is at least one."""
    (first, share), *others = weights.items()
    total = values[first] if share == 1.0 else share * values[first]
    for name, weight in others:
        total = total + weight * values[name]
    return total


@dataclass(frozen=True)
class PlusPlus:
    """CFG++ in the place of plain guidance (Chung et al. 2024, arXiv 2406.08070, algorithm 2).

    The paper guides the estimate, u + strength * (c - u), and renoises with the unguided noise:
    x' = x0_guided + r * (x - u), where u and c are the estimates of uncond and cond and r = sigma' / sigma. Euler's
    method and DDIM go to x' = e + r * (x - e) from an estimate e, and both agree for

        e = u + strength / (1 - r) * (c - u)

    So it is plain guidance whose scale is the step's own: small where a step is long, large where it is short. Only in
    those two samplers is it the paper's update; others are given the same e. Where plain guidance is off, this is too.
    """

    base: ClassifierFree
    """Plain guidance: its prompts are taken, and its scale only to see whether guidance is off."""
    strength: float
    """The paper's lambda, 0 to 1."""

    def rows(self, sigma: float) -> tuple[str, ...]:
        """All of them, because how much is left of uncond is for the query to say; at strength 0 uncond alone."""
        if self.base.scale in OFF:
            return self.base.rows(sigma)
        return ("uncond",) if self.strength == 0.0 else union(["uncond"], self.base.told)

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """Plain guidance at the step's scale. A step that leaves all noise goes nowhere and is guided by strength."""
        if self.base.scale in OFF:
            return self.base.combine(estimates, query)
        scale = self.strength if query.remaining == 1.0 else self.strength / (1.0 - query.remaining)
        return ClassifierFree(scale, self.base.weights).combine(estimates, query)


@dataclass
class Projected:
    """Adaptive projected guidance in the place of plain guidance (Sadat et al. 2024, arXiv 2410.02416, section 4).

    With c and u the estimates of cond and uncond, the difference d = c - u is changed three times:

        d <- d + momentum * (d before)          its beta; reverse momentum where negative
        d <- d * min(1, threshold / |d|)        its r; at 0 there is no threshold
        d <- d_orthogonal + eta * d_parallel    the parts orthogonal and parallel to c

    and the estimate is c + (scale - 1) * d. Parallel parts are what makes pictures too saturated. It remembers d, so
    a picture has one of its own. At momentum 0, threshold 0 and eta 1 it is plain guidance, and where plain guidance is
    off, this is too. The lengths are those of all of a latent's values: a threshold of 15 is that of 4 x 128 x 128.
    """

    base: ClassifierFree
    eta: float
    threshold: float
    momentum: float
    _before: Tensor | None = field(default=None, init=False, repr=False)

    def rows(self, sigma: float) -> tuple[str, ...]:
        """All of them."""
        if self.base.scale in OFF:
            return self.base.rows(sigma)
        return union(["uncond"], self.base.told)

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """The prompts' estimate and the changed difference; a sampler's second look at a step is remembered as well,
        and what was seen at another size is forgotten.
        """
        if self.base.scale in OFF:
            return self.base.combine(estimates, query)
        cond = self.base.unguided.combine(estimates, query)
        dims = tuple(range(1, cond.ndim))
        difference = cond - estimates["uncond"]
        if self.momentum != 0.0:
            if self._before is not None and self._before.shape == difference.shape:
                difference = difference + self.momentum * self._before
            self._before = difference
        if self.threshold > 0.0:
            length = difference.square().sum(dims, keepdim=True).sqrt()
            difference = difference * (self.threshold / length).clamp(max=1.0)
        if self.eta != 1.0:
            square = cond.square().sum(dims, keepdim=True)
            share = (difference * cond).sum(dims, keepdim=True) / square.where(square > 0, 1.0)
            difference = difference + (self.eta - 1.0) * share * cond
        return cond + (self.base.scale - 1.0) * difference
