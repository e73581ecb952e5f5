"""Linear multistep samplers: they remember the slopes epsilon = (x - x0) / sigma of earlier steps. Imports no torch.

Each integrates dx/dsigma = epsilon over a step with weights c_j for the newest slope and those before it,

    x' = x + c_0 * epsilon_0 + c_1 * epsilon_1 + ...,    c_0 + c_1 + ... = sigma' - sigma

Since x = x0 + sigma * epsilon_0, that is x0 + (sigma + c_0) * epsilon_0 + c_1 * epsilon_1 + ..., which loses no digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.samplers.base import Noise, Query, Walk, last_of_few, too_long

if TYPE_CHECKING:
    from torch import Tensor

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of one to four slopes in steps of one length, the newest first."""


def advance(x0: Tensor, sigma: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The next x from the newest estimate and slopes, the newest first."""
    x = x0 + (sigma + weights[0]) * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        x = x + weight * slope
    return x


def plms(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Pseudo linear multistep (Liu et al. 2022, arXiv 2202.09778, equations 9 and 12) without Runge-Kutta steps.

    Equation 9, the paper's transfer part, is DDIM's step; 12 mixes slopes by the weights of Adams and Bashforth as if
    all steps had one length, which in sigma they have not: so the order is 2. As in Stable Diffusion, the first step is
    made twice, by its own slope and then by the mean of that and the slope at its end, which is `heun`'s step.
    """
    slopes: list[Tensor] = []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        remaining = sigma_next / sigma
        x0 = yield Query(x, sigma, step, remaining)
        if sigma_next == sigma:
            continue
        slopes = [(x - x0) / sigma, *slopes[:3]]
        if len(slopes) == 1:
            x = x0 + sigma_next * slopes[0]
            if not too_long(sigma, sigma_next):
                x0_next = yield Query(x, sigma_next, step, remaining)
                x = x + (sigma / sigma_next - 1) / 2 * (x0_next - x0)
            continue
        weights = [(sigma_next - sigma) * weight for weight in ADAMS_BASHFORTH[len(slopes) - 1]]
        x = advance(x0, sigma, weights, slopes)
    return x


def lms(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Linear multistep of up to four slopes (Adams and Bashforth for uneven steps; Crowson's, in k-diffusion).

    c_j is the integral over the step of the Lagrange polynomial that is 1 at the j-th of the latest sigmas and 0 at the
    others. It is of third degree at most, so Gauss's quadrature of two points gives it exactly.
    """
    slopes: list[Tensor] = []
    nodes: list[float] = []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        if sigma_next == sigma:
            continue
        slopes, nodes = [(x - x0) / sigma, *slopes[:3]], [sigma, *nodes[:3]]
        x = advance(x0, sigma, [_lagrange(nodes, j, sigma, sigma_next) for j in range(len(nodes))], slopes)
    return x


def _lagrange(nodes: Sequence[float], j: int, start: float, end: float) -> float:
    """The integral from start to end of the polynomial that is 1 at nodes[j] and 0 at the other nodes, at most 4."""
    middle, half = (start + end) / 2, (end - start) / 2
    others = [node for k, node in enumerate(nodes) if k != j]
    points = (middle - half / math.sqrt(3), middle + half / math.sqrt(3))
    return half * sum(math.prod((tau - node) / (nodes[j] - node) for node in others) for tau in points)


def deis(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """DEIS of second order in log rho (Zhang and Chen 2023, arXiv 2204.13902, equations 15 and 16, table 2).

    The two latest slopes are a line in log sigma, integrated over the step. The first step and a step to sigma 0 have
    one slope only, and so has the last of a walk of fewer than FEW steps.
    """
    before: tuple[float, Tensor] | None = None
    steps = len(sigmas) - 1
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        if sigma_next == sigma:
            continue
        slope = (x - x0) / sigma
        if before is None or sigma_next == 0 or last_of_few(step, steps):
            x = x0 + sigma_next * slope
        else:
            # The integral of (log t - log sigma) / (log b - log sigma) dt, b the sigma before, from sigma to sigma'.
            sigma_before, slope_before = before
            area = sigma_next * (math.log(sigma_next / sigma) - 1) + sigma
            weight = area / math.log(sigma_before / sigma)
            x = advance(x0, sigma, [sigma_next - sigma - weight, weight], [slope, slope_before])
        before = sigma, slope
    return x
