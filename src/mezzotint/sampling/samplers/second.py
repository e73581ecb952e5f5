"""Samplers that look twice in a step: Heun's method, DPM-Solver-2, and restarts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.samplers.base import Noise, Query, Walk, split, too_long

if TYPE_CHECKING:
    from torch import Tensor

RESTART_FROM, RESTART_TO = 0.1, 2.0
"""The interval of `restart`: a walk that has come down to the first goes up again to the second."""


def heun(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1): Euler's step, then the average of two slopes.

    With d = (x - x0) / sigma and d' = (x' - x0') / sigma' at Euler's x', line 8 adds (sigma' - sigma) * (d' - d) / 2
    to x', and d' - d = (x0 - x0') / sigma'. No average is taken at sigma' = 0, as in the paper, nor where the step is
    `too_long`.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = yield from heun_step(x, sigma, sigma_next, step)
    return x


def heun_step(x: Tensor, sigma: float, sigma_next: float, step: int) -> Walk:
    """One step of `heun`, as a walk."""
    remaining = sigma_next / sigma
    x0 = yield Query(x, sigma, step, remaining)
    x = x0 + remaining * (x - x0)
    if not too_long(sigma, sigma_next):
        x0_next = yield Query(x, sigma_next, step, remaining)
        x = x + (sigma / sigma_next - 1) / 2 * (x0_next - x0)
    return x


def dpm2(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927, algorithm 1) as Karras et al. 2022 write it, a midpoint method.

    The slope is that at the geometric middle of the step, see `midpoint_step`.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = yield from midpoint_step(x, sigma, sigma_next, step, sigma_next / sigma)
    return x


def dpm2_ancestral(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """`dpm2` down to sigma_down, then fresh noise up to sigma' (k-diffusion's; no paper of its own)."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        x = yield from midpoint_step(x, sigma, sigma_down, step, sigma_next / sigma)
        if sigma_up > 0:
            x = x + sigma_up * noise()
    return x


def midpoint_step(x: Tensor, sigma: float, sigma_next: float, step: int, remaining: float) -> Walk:
    """From sigma to sigma' by the slope d = (xm - xm0) / sigma_m at the middle, sigma_m = sqrt(sigma * sigma').

    xm is Euler's, so d = (x - x0) / sigma + (x0 - xm0) / sigma_m, and x' = x + (sigma' - sigma) * d. Euler's step where
    the step is `too_long`.
    """
    x0 = yield Query(x, sigma, step, remaining)
    epsilon = (x - x0) / sigma
    if too_long(sigma, sigma_next):
        return x0 + sigma_next * epsilon
    sigma_m = math.sqrt(sigma * sigma_next)
    xm0 = yield Query(x0 + sigma_m * epsilon, sigma_m, step, remaining)
    return x0 + sigma_next * epsilon + (sigma - sigma_next) / sigma_m * (xm0 - x0)


def restart(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """Restart sampling (Xu et al. 2023, arXiv 2306.14878, algorithm 1) around `heun`, with one restart, K = 1.

    The step that comes to the level nearest RESTART_FROM goes on: noise of variance up^2 - sigma'^2 takes x' up to the
    level nearest RESTART_TO, and the walk's own levels bring it down once more. All that is this step's, so the sigmas
    of a request are what they are for any sampler. With a smaller eta the noise has eta^2 of that variance, and the way
    back begins lower. A walk without levels near both has no restart.
    """
    low, high = _interval(sigmas) if len(sigmas) > 1 else (0, 0)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = yield from heun_step(x, sigma, sigma_next, step)
        if step + 1 == low and eta > 0:
            fresh = eta**2 * (sigmas[high] ** 2 - sigma_next**2)
            top = math.sqrt(sigma_next**2 + fresh)
            x = x + math.sqrt(fresh) * noise()
            for before, after in pairwise([top, *(level for level in sigmas[high + 1 : low + 1] if level < top)]):
                x = yield from heun_step(x, before, after, step)
    return x


def _interval(sigmas: Sequence[float]) -> tuple[int, int]:
    """The places of the levels between which `restart` goes: (low, high), or (0, 0) for none."""
    places = [place for place, sigma in enumerate(sigmas) if sigma > 0]
    low, high = (
        min(places, key=lambda place: abs(math.log(sigmas[place] / level))) for level in (RESTART_FROM, RESTART_TO)
    )
    there = sigmas[low] < RESTART_TO / 2 <= sigmas[high] < RESTART_TO * 2
    return (low, high) if there else (0, 0)
