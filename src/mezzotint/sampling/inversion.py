"""DDIM inversion: a latent, walked up to the noise that draws it again. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.sampling.samplers.base import Query, Walk

if TYPE_CHECKING:
    from torch import Tensor


ROUNDS = 5
"""Corrections a step where nothing is said."""


def ascend(x: Tensor, sigmas: Sequence[float], *, rounds: int = ROUNDS) -> Walk:
    """From sigmas[-1], which x [B ...] has, up to sigmas[0]: DDIM's walk over `sigmas` backwards, as a coroutine.

    A step of the walk, from x' at sigma' down to x at sigma, is the equation

        x = D(x', sigma') + r * (x' - D(x', sigma')),    r = sigma / sigma'

    The published inversion (Song et al. 2021, arXiv 2010.02502, section 4.3) puts D(x, sigma) in the place of D(x',
    sigma') and solves for x' at once: right in the limit of short steps. Each of `rounds` then corrects x' by what the
    equation still lacks, divided by its slope, which for data of unit variance is r + (1 - r) / (1 + sigma'^2): a
    fixed-point iteration (Pan et al. 2023, arXiv 2309.04907), each row sped up by what its last correction did
    (Anderson 1965, of depth 1). Where it converges the return is exact up to rounding; the longer the steps and the
    sharper the choices of the denoiser, the more rounds it takes. From sigma 0 there is no epsilon to go up by, so that
    step begins at x and has a round at least.

    Queries carry the numbers of the walk's steps, which descend, and ask at levels of the walk.
    """
    steps = len(sigmas) - 1
    for place, (sigma, above) in enumerate(pairwise(reversed(sigmas))):
        step, r = steps - 1 - place, sigma / above
        start = x
        if sigma > 0:
            x0 = yield Query(x, sigma, step, r)
            x = x0 + (above / sigma) * (x - x0)
        slope = r + (1 - r) / (1 + above**2)
        before: tuple[Tensor, Tensor] | None = None
        for _ in range(max(rounds, 0 if sigma > 0 else 1)):
            x0 = yield Query(x, above, step, r)
            lack = (start - (x0 + r * (x - x0))) / slope
            after = x + lack
            if before is not None:
                change = lack - before[1]
                after = after - _share(lack, change) * (x - before[0] + change)
            x, before = after, (x, lack)
    return x


def _share(lack: Tensor, change: Tensor) -> Tensor:
    """How much of `change` best explains `lack`, by least squares, for each row: [B 1 ...]."""
    rows = change.reshape(len(change), -1).float()
    product = (lack.reshape(len(lack), -1).float() * rows).sum(1)
    share = product / (rows * rows).sum(1).clamp(min=1e-30)
    return share.reshape(-1, *(1,) * (lack.ndim - 1)).to(lack)
