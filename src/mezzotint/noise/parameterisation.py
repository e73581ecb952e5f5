"""What a network predicts, as the numbers that turn its output into a clean estimate.

Everywhere x = x0 + sigma * n, with n of unit variance. A network F becomes a denoiser by Karras et al. 2022
(arXiv 2206.00364), equation 7:

    D(x, sigma) = c_skip * x + c_out * F(c_in * x, c_noise)

The fourth number, c_noise, is the timestep at sigma and belongs to the schedule. With alpha = 1 / sqrt(1 + sigma^2),
c_in = alpha brings x to the variance-preserving form alpha * x0 + alpha * sigma * n that eps-, v- and x0-networks read.
A flow network reads the straight line (1 - s) * x0 + s * n, with s = sigma / (1 + sigma), hence c_in = 1 - s.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Prediction(StrEnum):
    """What the network's output means, by the names of diffusers' `prediction_type`."""

    EPSILON = "epsilon"
    """The noise n (Ho et al. 2020, arXiv 2006.11239)."""
    V = "v_prediction"
    """The velocity alpha * n - alpha * sigma * x0 (Salimans and Ho 2022, arXiv 2202.00512, section 4)."""
    SAMPLE = "sample"
    """The clean latent x0."""
    FLOW = "flow"
    """The direction n - x0 of the straight line (Lipman et al. 2022, arXiv 2210.02747; Liu et al. 2022, 2209.03003)."""


class Scalings(NamedTuple):
    """c_skip, c_out and c_in at each sigma, in sigma's shape and dtype."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def scalings(prediction: Prediction, sigma: Tensor | float) -> Scalings:
    """The numbers of `prediction` at sigma, any shape; a float is read as a float64 scalar."""
    sigma = sigma if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64)
    alpha = (1 + sigma**2).rsqrt()
    if prediction is Prediction.EPSILON:
        return Scalings(torch.ones_like(sigma), -sigma, alpha)
    if prediction is Prediction.V:
        return Scalings(alpha**2, -sigma * alpha, alpha)
    if prediction is Prediction.SAMPLE:
        return Scalings(torch.zeros_like(sigma), torch.ones_like(sigma), alpha)
    one_less_s = 1 / (1 + sigma)
    return Scalings(one_less_s, -sigma * one_less_s, one_less_s)


def target(prediction: Prediction, x0: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
    """What the network should have said: c_skip * (x0 + sigma * n) + c_out * target == x0.

    x0 and n are [B ...], sigma is [B]. Written out rather than solved for, because 1 / c_out is infinite at sigma = 0.
    """
    sigma = sigma.to(x0.dtype).reshape(-1, *(1,) * (x0.ndim - 1))
    if prediction is Prediction.EPSILON:
        return n
    if prediction is Prediction.V:
        alpha = (1 + sigma**2).rsqrt()
        return alpha * n - alpha * sigma * x0
    if prediction is Prediction.SAMPLE:
        return x0
    return n - x0
