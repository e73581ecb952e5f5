"""One generator per picture, on the CPU, so that a seed means the same alone, in a batch and on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def generator(seed: int) -> Generator:
    """A CPU generator at the start of the stream `seed` (0 to 2^63 - 1)."""
    return Generator(device="cpu").manual_seed(seed)


def draw_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Unit-variance noise [B *shape], fp32 on the CPU, whose row i depends on seeds[i] alone."""
    return torch.stack([torch.randn(tuple(shape), generator=generator(seed)) for seed in seeds])
