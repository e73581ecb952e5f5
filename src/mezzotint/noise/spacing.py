"""What a request's `schedule` says: where the steps of a walk are, and which table of noise the model is taken to know.

A schedule is names joined by +, such as "karras", "zsnr+trailing" or "cosine+linspace"; the empty text is the model's
own of both. There are two kinds of names. A *spacing* says which n sigmas of the model's range a walk of n steps visits
before it ends at 0. A *table* takes the place of the betas that the model's schedule has.

A table may begin in noise that hides all of the picture: at sigma 4096 where the terminal SNR is zero, at 20 000 in the
cosine table. Spacings that divide the range of sigma, or of its logarithm, would spend half of their steps there, where
no step changes the estimate. Beyond VAST they therefore divide the range from TOP down, and put the table's last sigma
in the place of TOP, so that such a walk begins in pure noise and makes one long first step.

Importing this imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from mezzotint.types import UserError

if TYPE_CHECKING:
    from mezzotint.noise.schedule import NoiseSchedule

VAST = 1000.0
"""A table that ends at a larger sigma than this ends in noise alone."""
TOP = 16.0
"""Where spacings of sigma begin in such a table; Stable Diffusion's own ends at 14.6."""

RHO = 7.0
"""The exponent of Karras et al. 2022, section D.1."""
BETA = 0.6
"""Both parameters of the beta distribution of Lee et al. 2024."""

AYS = {
    "ays": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays-sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
}
"""Eleven sigmas of ten steps, optimised for Stable Diffusion 1.5 and SDXL (Sabour et al. 2024, arXiv 2404.14507)."""


@dataclass(frozen=True)
class Spacing:
    """What a schedule's names ask for."""

    spacing: str = ""
    """One of SPACINGS; empty is the model's own."""
    betas: str = ""
    """"linear", "scaled-linear" or "cosine"; empty is the model's own."""
    zsnr: bool = False
    """Whether the table is rescaled to zero terminal SNR; one that is so already stays so."""

    @classmethod
    def parse(cls, text: str) -> Spacing:
        """What names joined by + ask for, in any order; the empty text asks for nothing.

        Raises UserError for a name that is none, and for two of one kind.
        """
        names = [name.strip() for name in text.split("+")] if text.strip() != "" else []
        for name in names:
            if name not in SPACINGS and name not in TABLES:
                choices = ", ".join([*SPACINGS, *TABLES])
                raise UserError(f'There is no schedule "{name}": join names by + out of {choices}.')
        spacings = [name for name in names if name in SPACINGS]
        betas = [name for name in names if name in TABLES and name != "zsnr"]
        counts = {"one spacing": len(spacings), "one table of betas": len(betas), "zsnr once": names.count("zsnr")}
        for most, count in counts.items():
            if count > 1:
                raise UserError(f'The schedule "{text}" names too much: give {most} at most.')
        return cls("".join(spacings), "".join(betas), "zsnr" in names)

    def table(self, schedule: NoiseSchedule) -> NoiseSchedule:
        """The schedule with the table that is asked for: what the denoiser is to be told of.

        What the network predicts stays, and so do beta_start and beta_end; the schedule itself where no table is asked
        for. Raises UserError where a network that predicts epsilon would have to draw from zero terminal SNR.
        """
        if self.betas != "":
            schedule = replace(schedule, beta_schedule=SHAPES[self.betas], trained_betas=None)
        return replace(schedule, rescale_betas_zero_snr=True) if self.zsnr else schedule

    def walk(self, schedule: NoiseSchedule, steps: int, *, ddim: bool = False) -> list[float]:
        """The sigmas of a walk of `steps` over the table of `schedule`: steps + 1 of them, descending, the last 0.

        `schedule` is the model's own; its table is `self.table(schedule)`. `ddim` is as in `NoiseSchedule.walk`, save
        that only the three spacings that it knows end elsewhere than 0. Raises UserError as that, and as `table`.
        """
        table = self.table(schedule)
        if self.spacing in ("", "leading", "linspace", "trailing"):
            own = table if self.spacing == "" else replace(table, timestep_spacing=self.spacing)
            return own.walk(steps, ddim=ddim)
        table.check_steps(steps)
        first, *rest = _RULES[self.spacing](table, steps)
        sigmas = [table.first_sigma(first, ddim=ddim), *rest, 0.0]
        assert len(sigmas) == steps + 1
        assert all(after < before for before, after in pairwise(sigmas))
        return sigmas


def _ramp(steps: int) -> list[float]:
    """From 0 to 1 in `steps` numbers; 0 alone where there is one."""
    return [step / max(1, steps - 1) for step in range(steps)]


def _from_the_top(table: NoiseSchedule, sigmas: Callable[[float, float], Sequence[float]]) -> list[float]:
    """What `sigmas` makes of the ends of the table; from TOP in a vast table, whose end then takes the place of TOP."""
    low, high = table.sigma_min, table.sigma_max
    vast = high > VAST
    made = list(sigmas(TOP if vast else high, low))
    # The ends exactly, not as they come out of powers and logarithms.
    made[-1] = low
    made[0] = high
    return made


def _karras(table: NoiseSchedule, steps: int) -> list[float]:
    """Even in sigma^(1/7) (Karras et al. 2022, arXiv 2206.00364, equation 5)."""

    def sigmas(high: float, low: float) -> list[float]:
        start, end = high ** (1 / RHO), low ** (1 / RHO)
        return [(start + ramp * (end - start)) ** RHO for ramp in _ramp(steps)]

    return _from_the_top(table, sigmas)


def _exponential(table: NoiseSchedule, steps: int) -> list[float]:
    """Even in log sigma."""
    return _from_the_top(table, lambda high, low: [high * (low / high) ** ramp for ramp in _ramp(steps)])


def _ays(name: str) -> Callable[[NoiseSchedule, int], list[float]]:
    """Align your steps: a published list of eleven sigmas, its logarithms interpolated to steps + 1.

    The logarithms are then stretched so that the list's ends are the table's. The last is dropped, for 0 stands there.
    """

    def ays(table: NoiseSchedule, steps: int) -> list[float]:
        logs = [math.log(sigma) for sigma in AYS[name]]

        def sigmas(high: float, low: float) -> list[float]:
            stretch = math.log(high / low) / (logs[0] - logs[-1])
            places = [step / steps * (len(logs) - 1) for step in range(steps + 1)]
            return [low * math.exp((_between(logs, place) - logs[-1]) * stretch) for place in places]

        return _from_the_top(table, sigmas)[:-1]

    return ays


def _between(values: Sequence[float], place: float) -> float:
    """The value at a fractional place, linear between neighbours."""
    left = min(int(place), len(values) - 2)
    return values[left] + (place - left) * (values[left + 1] - values[left])


def _kl_optimal(table: NoiseSchedule, steps: int) -> list[float]:
    """Even in arctan sigma (Sabour et al. 2024, arXiv 2404.14507, appendix: optimal where the data are a Gaussian).

    The arctangent ends at pi / 2, so a vast table costs this spacing nothing.
    """
    start, end = math.atan(table.sigma_max), math.atan(table.sigma_min)
    sigmas = [math.tan(start + ramp * (end - start)) for ramp in _ramp(steps)]
    return [table.sigma_max, *sigmas[1:]]


def _sgm_uniform(table: NoiseSchedule, steps: int) -> list[float]:
    """Timesteps even from the last down to the first, which is left out, fractions and all (Stability's SGM)."""
    last = table.num_train_timesteps - 1
    return [table.sigma_max, *(table.sigma(last * (1 - step / steps)) for step in range(1, steps))]


def _simple(table: NoiseSchedule, steps: int) -> list[float]:
    """Every T/n-th timestep from the last, rounded up (ComfyUI's)."""
    count = table.num_train_timesteps
    return [float(table.sigmas[count - 1 - int(step * count / steps)]) for step in range(steps)]


def _beta(table: NoiseSchedule, steps: int) -> list[float]:
    """Timesteps at the quantiles of a beta distribution, dense at both ends (Lee et al. 2024, arXiv 2407.12173).

    As ComfyUI rounds them: quantiles of 1, 1 - 1/n, ... times the last timestep. Where two round to one, `distinct`.
    """
    last = table.num_train_timesteps - 1
    timesteps = [round(last * quantile(1 - step / steps)) for step in range(steps)]
    return [float(table.sigmas[t]) for t in distinct(timesteps)]


def distinct(timesteps: Sequence[int]) -> list[int]:
    """Timesteps that do not ascend, made to descend: each is the nearest to its own that leaves room for those after.

    The later of two equal ones goes one down, and near 0, where there is no room left, the earlier goes up.
    """
    count, made = len(timesteps), list[int]()
    for place, timestep in enumerate(timesteps):
        below = timestep if not made else min(timestep, made[-1] - 1)
        made.append(max(below, count - 1 - place))
    return made


def quantile(share: float) -> float:
    """The x below which a `share` of the beta distribution with both parameters BETA lies.

    The distribution function is x^a / a + (1 - a) * x^(a+1) / (a + 1) + ..., a binomial series that halves x's terms
    where x is at most 1/2, and the rest is its mirror image; bisection inverts it.
    """
    if share > 0.5:
        return 1 - quantile(1 - share)
    low, high, whole = 0.0, 0.5, 2 * _incomplete_beta(0.5)
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if _incomplete_beta(middle) < share * whole else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float) -> float:
    """The integral of (t * (1 - t))^(BETA - 1) from 0 to x, at most 1/2."""
    term, total, k = 1.0, 0.0, 0
    while term > 1e-17:
        total += term / (BETA + k)
        k += 1
        term *= (k - BETA) / k * x
    return total * x**BETA


SHAPES = {"linear": "linear", "scaled-linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
"""The `beta_schedule` of each table of betas."""

_RULES: dict[str, Callable[[NoiseSchedule, int], list[float]]] = {
    "karras": _karras,
    "exponential": _exponential,
    "sgm-uniform": _sgm_uniform,
    "simple": _simple,
    "beta": _beta,
    "ays": _ays("ays"),
    "ays-sdxl": _ays("ays-sdxl"),
    "kl-optimal": _kl_optimal,
}
"""The n sigmas that each spacing, other than the model's own three, visits before 0."""

SPACINGS: dict[str, str] = {
    "leading": "every T/n-th timestep from the first, as Stable Diffusion was published",
    "linspace": "timesteps even from the first to the last, both included",
    "trailing": "every T/n-th timestep from the last, for zero terminal SNR",
    "karras": "even in sigma^(1/7): many small sigmas",
    "exponential": "even in log sigma: still more small sigmas",
    "sgm-uniform": "timesteps even from the last, not rounded",
    "simple": "every T/n-th timestep from the last, rounded up",
    "beta": "timesteps dense at both ends",
    "ays": "align your steps, as optimised for Stable Diffusion 1.5; for about 10 steps",
    "ays-sdxl": "align your steps, as optimised for SDXL; for about 10 steps",
    "kl-optimal": "even in arctan sigma",
}
"""Every spacing by name, with one line for a person choosing."""

TABLES: dict[str, str] = {
    "linear": "betas even from beta_start to beta_end",
    "scaled-linear": "roots of betas even, as in Stable Diffusion",
    "cosine": "alpha bar a squared cosine",
    "zsnr": "rescaled to zero terminal SNR; joins any of these",
}
"""Every word for another table of betas than the model's, with one line for a person choosing."""
