"""The walk from noise to latent: samplers, guidance, and the one loop that drives any number of them.

`sample` is for people who have a denoiser of their own and only want the samplers. Importing this package imports no
torch, so that the names of the samplers cost nothing to list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.guidance import ClassifierFree, Guidance
from mezzotint.sampling.samplers import SAMPLERS, Query, Sampler, sampler_named
from mezzotint.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SAMPLERS", "ClassifierFree", "Guidance", "Query", "Sampler", "sample", "sampler_named"]


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Sequence[float],
    *,
    sampler: str = "dpmpp-2m",
    seed: int | Sequence[int] = 0,
) -> Tensor:
    """Walk x [B ...] from sigmas[0] to sigmas[-1] with a denoiser of your own.

    denoise(x [B ...], sigma [B]) -> clean estimate [B ...], whatever the dtype, device and shape of x. The start is
    yours to make: `sigmas[0] * noise`, or a latent plus it. `seed` is each row's, or the first row's where it is one
    number and the rest count up; it matters to stochastic samplers alone, whose rows continue the streams that
    `noise.draw_noise(seeds, x.shape[1:])` begins, so that noise drawn with the same seed is not met twice.

    Raises UserError for an unknown sampler, sigmas that do not descend to 0 or more, or seeds that are not B.
    """
    import torch

    from mezzotint.noise.generator import generator

    chosen = sampler_named(sampler)
    levels = [float(sigma) for sigma in sigmas]
    if not levels or min(levels) < 0 or any(after >= before for before, after in pairwise(levels)):
        raise UserError("The sigmas must be one or more numbers that descend and do not fall below 0.")
    seeds = [seed + row for row in range(len(x))] if isinstance(seed, int) else list(seed)
    if len(seeds) != len(x):
        raise UserError(f"There are {len(seeds)} seeds for {len(x)} rows: give one seed, or one a row.")
    streams = [generator(row) for row in seeds]

    def noise() -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=stream) for stream in streams]).to(x)

    if chosen.stochastic:
        noise()  # Where x came from.
    walk = chosen.walk(x, levels, noise)
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    try:
        query = next(walk)
        while True:
            sigma = torch.full((len(x),), query.sigma, dtype=precision, device=x.device)
            query = walk.send(denoise(query.x, sigma))
    except StopIteration as end:
        return end.value
