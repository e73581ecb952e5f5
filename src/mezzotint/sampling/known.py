"""Walks that begin in a picture, and pictures of which a part is known. Imports no torch.

Image to image (Meng et al. 2021, SDEdit, arXiv 2108.01073, algorithm 1): the latent z of a picture is taken to a sigma
of the walk, x = z + sigma * n, and the sampler walks from there. Inpainting with any model holds what is known in every
estimate (Lugmayr et al. 2022, RePaint, arXiv 2201.09865, equation 8, said of x0): with m 1 where it repaints,

    D_hat(x, sigma) = m * D(x, sigma) + (1 - m) * z

so that what a sampler adds to its estimate, noise of the level it is at, lies on the known part too, and no other
noise is drawn for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.sampling.guidance import Guidance
    from mezzotint.sampling.samplers import Query


def begun(sigmas: Sequence[float], strength: float) -> tuple[float, ...]:
    """The last of a walk's steps, a share `strength` of them rounded down but at least one; none at strength 0.

    That is the number of steps that diffusers takes.
    """
    steps = len(sigmas) - 1
    taken = 0 if strength == 0.0 else max(1, math.floor(strength * steps + 1e-9))
    return tuple(sigmas[steps - taken :])


@dataclass(frozen=True)
class Known:
    """Another guidance's estimate where it repaints, and the known latent elsewhere."""

    inner: Guidance
    known: Sequence[tuple[Tensor, Tensor]]
    """z [1 C h w] and m [1 1 h w], 0 to 1, for latents of every size that the walk has."""

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The rows that the inner guidance asks for."""
        return self.inner.rows(sigma)

    def combine(self, estimates: Mapping[str, Tensor], query: Query) -> Tensor:
        """As above; exactly z where m is 0."""
        x0 = self.inner.combine(estimates, query)
        latent, repaint = next(pair for pair in self.known if pair[0].shape == x0.shape)
        return latent.to(x0).lerp(x0, repaint.to(x0))
