"""Samplers: the walk from noise to latent, each a coroutine that reads like its paper. Imports no torch.

A sampler asks for a clean estimate by yielding a Query and is sent the estimate; it never calls the network, so whoever
drives it decides about batches, progress, previews and cancelling (see `loop`).

    x        [B ...] any shape and floating dtype, x = x0 + sigma * n throughout
    sigmas   descending floats, the first that of x, the last 0 (or any sigma to stop at)
    noise    gives a fresh tensor of x's shape and unit variance; only stochastic samplers call it

Every update is written as clean estimate plus what noise remains, x0 + (sigma' / sigma) * (x - x0), never as x plus a
slope times a step: from a sigma of 4096, where a zero-terminal-SNR walk begins, the latter loses all of x0's digits
in fp32. Ratios of sigmas are Python floats, so nothing overflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from mezzotint.types import UserError

if TYPE_CHECKING:
    from torch import Tensor


class Query(NamedTuple):
    """What a sampler asks: the clean estimate of x, which has noise of deviation sigma."""

    x: Tensor
    sigma: float
    step: int
    """Which step of the walk asks, from 0; a step of heun asks twice."""
    remaining: float
    """The share of its noise that this step leaves, sigma' / sigma."""


Walk = Generator[Query, "Tensor", "Tensor"]
"""A sampler at work: yields queries, is sent clean estimates, returns the latent."""

Noise = Callable[[], "Tensor"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A row of the table of samplers."""

    walk: Callable[[Tensor, Sequence[float], Noise], Walk]
    """The coroutine."""
    order: int
    """Of its global error in the step size."""
    stochastic: bool
    """Whether it adds noise on the way."""
    evaluations: int
    """Queries per step, except that no step to sigma 0 asks more than once."""
    about: str
    """One line for a person choosing."""


def euler(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Euler's method on dx/dsigma = (x - x0) / sigma (Karras et al. 2022, arXiv 2206.00364, algorithm 1, lines 4-5)."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        x = x0 + (sigma_next / sigma) * (x - x0)
    return x


def ddim(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """DDIM with eta = 0 (Song et al. 2021, arXiv 2010.02502, equation 12).

    In the paper's variance-preserving letters, with abar = 1 / (1 + sigma^2) and y = sqrt(abar) * x,

        y' = sqrt(abar') * x0 + sqrt(1 - abar') * epsilon,    epsilon = (y - sqrt(abar) * x0) / sqrt(1 - abar)

    Divided by sqrt(abar') this is x' = x0 + sigma' * epsilon with epsilon = (x - x0) / sigma: Euler's method in sigma,
    exactly. The name is kept because people ask for it. With eta = 1 it is `euler_ancestral`.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        epsilon = (x - x0) / sigma
        x = x0 + sigma_next * epsilon
    return x


TRAPEZOID_LIMIT = 32.0
"""The largest sigma / sigma' at which `heun` averages slopes."""


def heun(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Heun's method (Karras et al. 2022, arXiv 2206.00364, algorithm 1): Euler's step, then the average of two slopes.

    With d = (x - x0) / sigma and d' = (x' - x0') / sigma' at Euler's x', line 8 adds (sigma' - sigma) * (d' - d) / 2
    to x', and d' - d = (x0 - x0') / sigma'. The factor (sigma / sigma' - 1) / 2 of the difference of estimates grows
    without bound as sigma' shrinks: no average is taken at sigma' = 0, as in the paper, nor where one step shrinks
    sigma more than TRAPEZOID_LIMIT times, as the step away from a terminal sigma of 4096 does.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        x = x0 + (sigma_next / sigma) * (x - x0)
        if sigma_next * TRAPEZOID_LIMIT >= sigma:
            x0_next = yield Query(x, sigma_next, step, sigma_next / sigma)
            x = x + (sigma / sigma_next - 1) / 2 * (x0_next - x0)
    return x


def dpmpp_2m(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2), divided by alpha so that it speaks of x.

    lambda = -log(sigma), h = lambda' - lambda, r = (previous h) / h; d0, the paper's D, extrapolates the two latest
    estimates to the middle of the step. The first step has no previous estimate and in the step to sigma 0 h is
    infinite: both are of order 1.
    """
    x0_before: Tensor | None = None
    h_before = 0.0
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        h = math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if x0_before is None or math.isinf(h):
            d0 = x0
        else:
            r = h_before / h
            d0 = x0 + (x0 - x0_before) / (2 * r)
        x = d0 + (sigma_next / sigma) * (x - d0)
        x0_before, h_before = x0, h
    return x


def euler_ancestral(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Ancestral sampling: a step down to sigma_down, then fresh noise up to sigma'.

    The posterior of Ho et al. 2020 (arXiv 2006.11239, equations 6 and 7), in sigmas: sigma_down = sigma'^2 / sigma and
    sigma_up^2 = sigma'^2 - sigma_down^2; also DDIM with eta = 1 (Song et al. 2021, arXiv 2010.02502, equation 16).
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        sigma_down = sigma_next**2 / sigma
        x = x0 + (sigma_down / sigma) * (x - x0)
        if sigma_next > 0:
            x = x + math.sqrt(sigma_next**2 - sigma_down**2) * noise()
    return x


SAMPLERS: dict[str, Sampler] = {
    "euler": Sampler(walk=euler, order=1, stochastic=False, evaluations=1, about="the plain walk"),
    "heun": Sampler(walk=heun, order=2, stochastic=False, evaluations=2, about="two evaluations a step"),
    "ddim": Sampler(walk=ddim, order=1, stochastic=False, evaluations=1, about="euler by the name people know"),
    "dpmpp-2m": Sampler(walk=dpmpp_2m, order=2, stochastic=False, evaluations=1, about="good in few steps"),
    "euler-ancestral": Sampler(walk=euler_ancestral, order=1, stochastic=True, evaluations=1, about="with fresh noise"),
}
"""Every sampler by the name that a request carries."""


def sampler_named(name: str) -> Sampler:
    """The sampler of that name. Raises UserError listing the names."""
    if name not in SAMPLERS:
        raise UserError(f'There is no sampler "{name}": choose one of {", ".join(SAMPLERS)}.')
    return SAMPLERS[name]
