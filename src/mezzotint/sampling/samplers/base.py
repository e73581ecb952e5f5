"""What a sampler is: a coroutine that asks for clean estimates, and a row of the table. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mezzotint.noise.spacing import VAST
from mezzotint.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.noise.schedule import NoiseSchedule


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
"""Gives a fresh tensor of x's shape and unit variance at every call."""

FEW = 15
"""`deis` and `unipc` end with a step of first order in walks of fewer steps than this, as diffusers documents it."""
TOO_LONG = 32.0
"""The largest sigma / sigma' of a step from a terminal sigma at which slopes in sigma are worth averaging."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A row of the table of samplers."""

    name: str
    """What a request calls it."""
    walk: Callable[..., Walk]
    """The coroutine: walk(x, sigmas, noise), and eta=... where it can add noise. `begin` checks before it calls."""
    order: int
    """Of its global error in the step size, as measured (docs/reference/samplers.md), without noise."""
    evaluations: int = 1
    """Queries a step, except that a step to sigma 0 asks once; what `about` names comes on top."""
    eta: float | None = None
    """The share of fresh noise when nothing is said, 1 as in its paper; none where it cannot add any."""
    most_eta: float = math.inf
    """The largest share that makes sense."""
    in_timesteps: bool = False
    """Whether it reckons in timesteps: its coroutine then takes schedule=... too."""
    about: str
    """One line for a person choosing."""

    @property
    def stochastic(self) -> bool:
        """Whether it adds noise on the way when nothing is said."""
        return self.eta is not None and self.eta > 0

    def begin(
        self,
        x: Tensor,
        sigmas: Sequence[float],
        noise: Noise,
        eta: float | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> Walk:
        """A walk of x [B ...] from sigmas[0], which x has, down to sigmas[-1].

        `eta` is the share of fresh noise, none the sampler's own. `schedule` is the model's table, for those that
        reckon in timesteps; none is Stable Diffusion's. Raises UserError for an eta that is out of range, or given to a
        sampler that adds no noise.
        """
        self.check(eta)
        more: dict[str, Any] = {} if eta is None else {"eta": eta}
        if self.in_timesteps:
            more["schedule"] = schedule
        return self.walk(x, sigmas, noise, **more)

    def check(self, eta: float | None) -> None:
        """Raise UserError for an eta that `begin` would refuse."""
        if eta is None:
            return
        if self.eta is None:
            raise UserError(f"The sampler {self.name} adds no noise, so it takes no eta: leave eta out.")
        if not 0 <= eta <= self.most_eta or math.isinf(eta):
            most = "0 or more" if math.isinf(self.most_eta) else f"from 0 to {self.most_eta:g}"
            raise UserError(f"The eta is {eta:g}; for the sampler {self.name} it must be {most}.")


def split(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Where an ancestral step goes down to, and how much fresh noise takes it up again: (sigma_down, sigma_up).

    sigma_up = eta * sigma' * sqrt(1 - (sigma' / sigma)^2), at most sigma', and sigma_down^2 + sigma_up^2 = sigma'^2:
    the posterior of Ho et al. 2020 (arXiv 2006.11239, equation 7) at eta = 1, equation 16 of Song et al. 2021 (arXiv
    2010.02502) at any other.
    """
    shrink = sigma_next / sigma
    if eta == 1:
        return sigma_next * shrink, sigma_next * math.sqrt(1 - shrink**2)
    up = min(1.0, eta * math.sqrt(1 - shrink**2))
    return sigma_next * math.sqrt(1 - up**2), sigma_next * up


def too_long(sigma: float, sigma_next: float) -> bool:
    """Whether a step is too long for a method that is of second order in sigma, so that Euler's is taken.

    Such methods weigh the difference of two estimates by a number that grows with sigma / sigma' without bound: it is
    infinite at sigma' = 0, and the step away from a terminal sigma of 4096 is as bad. Other long steps are as in the
    papers.
    """
    return sigma_next == 0 or (sigma > VAST and sigma > TOO_LONG * sigma_next)


def last_of_few(step: int, steps: int) -> bool:
    """Whether a step is the last of a walk of fewer than FEW."""
    return step == steps - 1 and steps < FEW
