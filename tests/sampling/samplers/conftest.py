"""Data whose exact denoiser and exact walk are known: a Gaussian, and a mixture of two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Data:
    """Numbers, each drawn by itself from a mixture of Gaussians."""

    name: str
    shares: tuple[float, ...]
    centres: tuple[float, ...]
    width: float
    """The deviation of each Gaussian."""

    @property
    def mean(self) -> float:
        return sum(share * centre for share, centre in zip(self.shares, self.centres, strict=True))

    @property
    def variance(self) -> float:
        squares = sum(share * centre**2 for share, centre in zip(self.shares, self.centres, strict=True))
        return self.width**2 + squares - self.mean**2

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] of x [B ...] at sigma [B], worked out in float64, in x's dtype."""
        sigma, y = sigma.reshape(-1, *(1,) * (x.ndim - 1)).double(), x.double()
        variance = self.width**2 + sigma**2
        pairs = zip(self.shares, self.centres, strict=True)
        likely = torch.stack([math.log(share) - (y - centre) ** 2 / (2 * variance) for share, centre in pairs])
        estimates = torch.stack([(self.width**2 * y + sigma**2 * centre) / variance for centre in self.centres])
        return (likely.softmax(0) * estimates).sum(0).to(x.dtype)

    def below(self, x: Tensor, sigma: float) -> Tensor:
        """The share of the data, noised to sigma, that lies below x."""
        deviation = math.hypot(self.width, sigma)
        pairs = zip(self.shares, self.centres, strict=True)
        return sum(
            (share * torch.special.ndtr((x - centre) / deviation) for share, centre in pairs), torch.zeros_like(x)
        )

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Where the probability flow takes x: its quantile is kept, found by bisection."""
        goal = self.below(x, sigma)
        far = 10 * (1 + sigma_next)
        low, high = torch.full_like(x, -far), torch.full_like(x, far)
        for _ in range(60):
            middle = (low + high) / 2
            short = self.below(middle, sigma_next) < goal
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (low + high) / 2


GAUSSIAN = Data("gaussian", (1.0,), (0.3,), 0.5)
MIXTURE = Data("mixture", (0.3, 0.7), (-1.0, 0.8), 0.4)


@pytest.fixture
def gaussian() -> Data:
    """The Gaussian."""
    return GAUSSIAN


@pytest.fixture(params=[GAUSSIAN, MIXTURE], ids=lambda data: data.name)
def data(request: pytest.FixtureRequest) -> Data:
    """The Gaussian, and the mixture."""
    return request.param


@pytest.fixture
def geometric() -> Callable[[float, float, int], list[float]]:
    """Sigmas from the first to the last in `steps` steps, even in the logarithm."""
    return lambda first, last, steps: [first * (last / first) ** (i / steps) for i in range(steps + 1)]
