"""One generator per picture, on the CPU, so that a seed means the same alone, in a batch and on any device.

torch is imported when noise is first drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor


def generator(seed: int) -> Generator:
    """A CPU generator at the start of the stream `seed` (0 to 2^63 - 1)."""
    import torch

    return torch.Generator(device="cpu").manual_seed(seed)


def draw_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Unit-variance noise [B *shape], fp32 on the CPU, whose row i depends on seeds[i] alone."""
    import torch

    return torch.stack([torch.randn(tuple(shape), generator=generator(seed)) for seed in seeds])
