"""DPM-Solver++ and its kin: they integrate the estimate x0 exactly against lambda = -log(sigma). Imports no torch.

Divided by alpha, so that they speak of x, all rest on one formula: over a step of length h = lambda' - lambda, if the
estimate were d all along, x' = d + exp(-h) * (x - d), where exp(-h) = sigma' / sigma (Lu et al. 2022, arXiv 2211.01095,
equation 9). Higher orders put an extrapolated or a middle estimate in d's place. The step to sigma 0 has an infinite h,
and is x' = x0 in all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.samplers.base import Noise, Query, Walk, last_of_few, split

if TYPE_CHECKING:
    from torch import Tensor


def dpmpp_2m(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    r = (previous h) / h; d0, the paper's D, extrapolates the two latest estimates to the middle of the step. The first
    step has no previous estimate and the step to sigma 0 no middle: both are of order 1.
    """
    x0_before: Tensor | None = None
    h_before = 0.0
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        if sigma_next == sigma:
            continue
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if x0_before is None or math.isinf(h):
            d0 = x0
        else:
            r = h_before / h
            d0 = x0 + (x0 - x0_before) / (2 * r)
        x = d0 + (sigma_next / sigma) * (x - d0)
        x0_before, h_before = x0, h
    return x


def dpmpp_2s_ancestral(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, algorithm 1, r = 1/2) down to sigma_down, then fresh noise.

    The estimate at the geometric middle of the step stands for the whole of it.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        remaining = sigma_next / sigma
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        d = x0 = yield Query(x, sigma, step, remaining)
        if sigma_down > 0:
            sigma_m = math.sqrt(sigma * sigma_down)
            d = yield Query(x0 + (sigma_m / sigma) * (x - x0), sigma_m, step, remaining)
        x = d + (sigma_down / sigma) * (x - d)
        if sigma_up > 0:
            x = x + sigma_up * noise()
    return x


def dpmpp_sde(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """DPM-Solver++ (SDE), r = 1/2 (Crowson's, in k-diffusion, after Lu et al. 2022, section 5): `dpmpp_2s_ancestral`
    with the middle at sqrt(sigma * sigma') and reached by an ancestral step too.

    The noise of the whole step and that of its first part are of one Brownian path in sigma, so they are correlated by
    sqrt((sigma - sigma_m) / (sigma - sigma')). Of two fresh draws the first is the part's, and both make the whole's:
    the law that k-diffusion has from a Brownian tree, which it keeps so that a seed means one path in any steps.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        remaining = sigma_next / sigma
        x0 = yield Query(x, sigma, step, remaining)
        if sigma_next == 0:
            return x0
        sigma_m = math.sqrt(sigma * sigma_next)
        down, up = split(sigma, sigma_m, eta)
        middle = x0 + (down / sigma) * (x - x0)
        first = None
        if up > 0:
            first = noise()
            middle = middle + up * first
        d = yield Query(middle, sigma_m, step, remaining)
        down, up = split(sigma, sigma_next, eta)
        x = d + (down / sigma) * (x - d)
        if first is not None:
            part = (sigma - sigma_m) / (sigma - sigma_next)
            x = x + up * math.sqrt(part) * first + up * math.sqrt(1 - part) * noise()
    return x


def dpmpp_2m_sde(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """SDE-DPM-Solver++(2M), midpoint (Lu et al. 2022, arXiv 2211.01095, appendix D; eta is Crowson's).

    d0 as in `dpmpp_2m`; x' = d0 + exp(-h - eta h) * (x - d0) + sigma' * sqrt(1 - exp(-2 eta h)) * n. With eta = 0 it is
    `dpmpp_2m`.
    """
    x0_before: Tensor | None = None
    h_before = 0.0
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        if sigma_next == 0:
            return x0
        if sigma_next == sigma:
            continue
        h = math.log(sigma / sigma_next)
        d0 = x0 if x0_before is None else x0 + (x0 - x0_before) * (h / (2 * h_before))
        x = d0 + math.exp(-h - eta * h) * (x - d0)
        if eta > 0:
            x = x + sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        x0_before, h_before = x0, h
    return x


def dpmpp_3m_sde(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """SDE-DPM-Solver++(3M) (Crowson's, in k-diffusion, after Lu et al. 2022, appendix B and D).

    With H = (1 + eta) * h, the first and second differences D1, D2 of the three latest estimates in units of h, and the
    functions phi_2(H) = (exp(-H) - 1) / H + 1 and phi_3(H) = phi_2(H) / H - 1/2,

        x' = x0 + exp(-H) * (x - x0) + phi_2 * D1 - phi_3 * D2 + sigma' * sqrt(1 - exp(-2 eta h)) * n

    The first step has no differences and the second the first alone.
    """
    past: list[tuple[Tensor, float]] = []
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        if sigma_next == 0:
            return x0
        if sigma_next == sigma:
            continue
        h = math.log(sigma / sigma_next)
        grown = (1 + eta) * h
        x = x0 + math.exp(-grown) * (x - x0)
        phi_2 = math.expm1(-grown) / grown + 1
        if len(past) == 1:
            ((x0_1, h_1),) = past
            x = x + (phi_2 * h / h_1) * (x0 - x0_1)
        elif len(past) == 2:
            (x0_1, h_1), (x0_2, h_2) = past
            r_0, r_1 = h_1 / h, h_2 / h
            first, earlier = (x0 - x0_1) / r_0, (x0_1 - x0_2) / r_1
            d2 = (first - earlier) / (r_0 + r_1)
            d1 = first + r_0 * d2
            x = x + phi_2 * d1 - (phi_2 / grown - 0.5) * d2
        if eta > 0:
            x = x + sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise()
        past = [(x0, h), *past[:1]]
    return x


def unipc(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """UniPC-2 with B(h) = exp(-h) - 1, predicting x0 (Zhao et al. 2023, arXiv 2302.04867, algorithms 1, 2 and 5).

    The predictor is the step of `dpmpp_2m`. The estimate at its end corrects it, before it serves the next step: with
    D1 and Dt the differences of the earlier and of the new estimate from that at the step's start, weighed as in the
    paper's equation 12 so that it is of third order. The first step is predicted and corrected with one order less, the
    last cannot be corrected, and is predicted with order 1 in walks of fewer than FEW steps.
    """
    steps = len(sigmas) - 1
    start = x
    ratio, d1, weights = 1.0, None, (0.0, 0.5)
    x0_before: Tensor | None = None
    h_before = 0.0
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        if x0_before is not None:
            change = weights[1] * (x0 - x0_before)
            if d1 is not None:
                change = change + weights[0] * d1
            x = x0_before + ratio * (start - x0_before) + (1 - ratio) * change
        if sigma_next == sigma:
            continue
        start, ratio = x, sigma_next / sigma
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if x0_before is None or sigma_next == 0 or last_of_few(step, steps):
            d, d1, weights = x0, None, (0.0, 0.5)
        else:
            r = -h_before / h
            d1 = (x0_before - x0) / r
            d, weights = x0 + d1 / 2, _corrector(h, r)
        x = d + ratio * (x - d)
        x0_before, h_before = x0, h
    return x


def _corrector(h: float, r: float) -> tuple[float, float]:
    """The weights of D1 and Dt: the solution of w_1 + w_t = b_1 and r * w_1 + w_t = b_2 (UniPC's equation 12)."""
    grown = math.expm1(-h)
    phi_2 = grown / -h - 1
    b_1, b_2 = phi_2 / grown, 2 * (phi_2 / -h - 0.5) / grown
    weight = (b_1 - b_2) / (1 - r)
    return weight, b_1 - weight
