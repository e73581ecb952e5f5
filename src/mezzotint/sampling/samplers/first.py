"""Samplers of first order: one estimate a step, and nothing remembered. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.samplers.base import Noise, Query, Walk, split

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.noise.schedule import NoiseSchedule


def euler(x: Tensor, sigmas: Sequence[float], noise: Noise) -> Walk:
    """Euler's method on dx/dsigma = (x - x0) / sigma (Karras et al. 2022, arXiv 2206.00364, algorithm 1, lines 4-5)."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        x = x0 + (sigma_next / sigma) * (x - x0)
    return x


def ddim(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 0.0) -> Walk:
    """DDIM (Song et al. 2021, arXiv 2010.02502, equation 12).

    In the paper's variance-preserving letters, with abar = 1 / (1 + sigma^2) and y = sqrt(abar) * x,

        y' = sqrt(abar') * x0 + sqrt(1 - abar' - s^2) * epsilon + s * n,
        epsilon = (y - sqrt(abar) * x0) / sqrt(1 - abar),    s from equation 16

    Divided by sqrt(abar') this is x' = x0 + sigma_down * epsilon + sigma_up * n with epsilon = (x - x0) / sigma. With
    eta = 0 that is Euler's method in sigma, exactly, and with eta = 1 it is `ddpm`.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        epsilon = (x - x0) / sigma
        x = x0 + sigma_down * epsilon
        if sigma_up > 0:
            x = x + sigma_up * noise()
    return x


def ddpm(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2 and equations 6 and 7, the smaller variance).

    Between any two levels, with alpha = abar / abar', the posterior of y' given y and x0 has

        mean      (sqrt(abar') * (1 - alpha) * x0 + sqrt(alpha) * (1 - abar') * y) / (1 - abar)
        variance  (1 - abar') / (1 - abar) * (1 - alpha)

    Divided by sqrt(abar'), the mean is x0 + (sigma' / sigma)^2 * (x - x0) and the variance sigma'^2 * (1 - (sigma' /
    sigma)^2). With another eta it is `ddim` with that eta.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        sigma_down, sigma_up = split(sigma, sigma_next, eta)
        x = x0 + (sigma_down / sigma) * (x - x0)
        if sigma_up > 0:
            x = x + sigma_up * noise()
    return x


def euler_ancestral(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """Euler's step down to sigma_down, then fresh noise up to sigma' (k-diffusion's name for it; no paper of its own).

    In sigmas there is one ancestral step of first order, so this is `ddpm` by another name: Crowson's sigma_down and
    sigma_up are equation 7 of Ho et al. 2020.
    """
    return (yield from ddpm(x, sigmas, noise, eta))


def lcm(x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 1.0) -> Walk:
    """Multistep sampling of a latent consistency model (Luo et al. 2023, arXiv 2310.04378, algorithm 3).

    The estimate is taken for the picture and noised anew: x' = x0 + sigma' * n. With a smaller eta a part of the old
    noise stays, x' = x0 + sigma' * (sqrt(1 - eta^2) * epsilon + eta * n).
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        kept = sigma_next * math.sqrt(1 - eta**2)
        x = x0 + (kept / sigma) * (x - x0)
        if eta * sigma_next > 0:
            x = x + eta * sigma_next * noise()
    return x


def tcd(
    x: Tensor, sigmas: Sequence[float], noise: Noise, eta: float = 0.3, schedule: NoiseSchedule | None = None
) -> Walk:
    """Strategic stochastic sampling of trajectory consistency distillation (Zheng et al. 2024, arXiv 2402.19159,
    algorithm 4), the paper's gamma being eta.

    A step goes down past timestep t' to s = (1 - gamma) * t', rounded down, then noise takes it up to t':
    x' = x0 + sigma_s * epsilon + sqrt(sigma'^2 - sigma_s^2) * n. Timesteps are those of `schedule`; none is the table
    of Stable Diffusion, which the published models of this kind share. No noise is added in the last step.
    """
    from mezzotint.noise.parameterisation import Prediction
    from mezzotint.noise.schedule import NoiseSchedule

    if schedule is None:
        schedule = NoiseSchedule(rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON)
    steps = len(sigmas) - 1
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = yield Query(x, sigma, step, sigma_next / sigma)
        sigma_s = sigma_next
        if eta > 0 and step < steps - 1:
            # The least bit up, so that a whole timestep that came from a sigma is not rounded to the one below.
            timestep = math.floor((1 - eta) * schedule.timestep(sigma_next) + 1e-6)
            sigma_s = min(sigma_next, schedule.sigma(float(timestep)))
        x = x0 + (sigma_s / sigma) * (x - x0)
        if sigma_s < sigma_next:
            x = x + math.sqrt(sigma_next**2 - sigma_s**2) * noise()
    return x
