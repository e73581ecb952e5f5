"""The walk from noise to latent: samplers, guidance, and the one loop that drives any number of them.

`sample` and `invert` are for people who have a denoiser of their own and only want the samplers. Importing this package
imports no torch, so that the names of the samplers cost nothing to list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.guidance import ClassifierFree, Guidance
from mezzotint.sampling.inversion import ROUNDS, ascend
from mezzotint.sampling.samplers import SAMPLERS, Query, Sampler, Walk, sampler_named
from mezzotint.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.noise.schedule import NoiseSchedule

__all__ = [
    "SAMPLERS",
    "ClassifierFree",
    "Guidance",
    "Query",
    "Sampler",
    "ascend",
    "drive",
    "invert",
    "sample",
    "sampler_named",
]

Denoise = Callable[["Tensor", "Tensor"], "Tensor"]
"""denoise(x [B ...], sigma [B]) -> clean estimate [B ...], whatever the dtype, device and shape of x."""


def sample(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    sampler: str = "dpmpp-2m",
    seed: int | Sequence[int] = 0,
    eta: float | None = None,
    schedule: NoiseSchedule | None = None,
) -> Tensor:
    """Walk x [B ...] from sigmas[0] to sigmas[-1] with a denoiser of your own.

    denoise(x [B ...], sigma [B]) -> clean estimate [B ...], whatever the dtype, device and shape of x. The start is
    yours to make: `sigmas[0] * noise`, or a latent plus it. `seed` is each row's, or the first row's where it is one
    number and the rest count up; it matters to stochastic samplers alone, whose rows continue the streams that
    `noise.draw_noise(seeds, x.shape[1:])` begins, so that noise drawn with the same seed is not met twice. `eta` is the
    share of fresh noise, none the sampler's own; `schedule` is the table that your model knows, which tcd alone reads.

    What `denoise` returns is taken in x's dtype, and so is the latent that comes out. Raises UserError for an unknown
    sampler, an eta that it does not take, sigmas that are not finite or do not descend to 0 or more (one above 0 may be
    repeated: that step asks and stays), an x without rows, or seeds that are not B.
    """
    import torch

    from mezzotint.noise.generator import generator

    chosen = sampler_named(sampler)
    levels = _levels(sigmas)
    if x.ndim == 0 or len(x) == 0:
        raise UserError(f"The x to walk has shape {list(x.shape)}; it must be [B ...] with B of 1 or more.")
    seeds = [int(row) for row in seed] if isinstance(seed, Iterable) else [int(seed) + row for row in range(len(x))]
    if len(seeds) != len(x):
        raise UserError(f"There are {len(seeds)} seeds for {len(x)} rows: give one seed, or one a row.")
    streams = [generator(row) for row in seeds]

    def noise() -> Tensor:
        return torch.stack([torch.randn(x.shape[1:], generator=stream) for stream in streams]).to(x)

    if chosen.eta is not None:
        noise()  # Where x came from.
    return drive(chosen.begin(x, levels, noise, eta, schedule), denoise)


def invert(denoise: Denoise, x0: Tensor, sigmas: Sequence[float], *, rounds: int = ROUNDS) -> Tensor:
    """The noise x [B ...] at sigmas[0] from which a deterministic walk of first order draws x0 [B ...] again.

    `sigmas` are those of that walk, descending: `sample(denoise, x, sigmas, sampler="ddim")` is x0 again, the nearer
    the more `rounds` of correction a step, each of one evaluation; see `inversion.ascend`. Raises UserError for sigmas
    that do not descend to 0 or more, or negative rounds.
    """
    if rounds < 0:
        raise UserError(f"The number of rounds is {rounds}; it must be 0 or more.")
    return drive(ascend(x0, _levels(sigmas), rounds=rounds), denoise)


def drive(walk: Walk, denoise: Denoise) -> Tensor:
    """What a walk returns when a denoiser answers all that it asks, in the dtype of its x."""
    import torch

    try:
        query = next(walk)
        while True:
            x = query.x
            precision = torch.float64 if x.dtype == torch.float64 else torch.float32
            sigma = torch.full((len(x),), query.sigma, dtype=precision, device=x.device)
            query = walk.send(denoise(x, sigma).to(x.dtype))
    except StopIteration as end:
        return end.value


def _levels(sigmas: Sequence[float]) -> list[float]:
    """The sigmas as floats, checked."""
    levels = [float(sigma) for sigma in sigmas]
    falling = all(after < before or after == before > 0 for before, after in pairwise(levels))
    if not levels or not falling or levels[-1] < 0 or not math.isfinite(levels[0]):
        raise UserError("The sigmas must be one or more finite numbers that descend and do not fall below 0.")
    return levels
