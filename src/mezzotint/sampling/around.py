"""Guidance around guidance: each holds an inner one and changes where it acts or what it answers. Imports no torch.

`plain` is the prompts' own estimate, `ClassifierFree.unguided`: what an inner guidance that is off would answer. A
guidance that only reins in an inner one does nothing, and asks for no row more, where the inner one asks for a single
row: nothing steers there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mezzotint.sampling.guidance import OFF, ClassifierFree, Estimates, Guidance, union, weighted, worse

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.sampling.samplers import Query


@dataclass(frozen=True)
class Interval:
    """Guidance for low < sigma <= high alone (Kynkäänniemi et al. 2024, arXiv 2404.07724, section 3).

    Elsewhere the plain estimate answers, which with one prompt is one row. What an inner guidance remembers stays as it
    is there.
    """

    inner: Guidance
    plain: ClassifierFree
    low: float
    high: float

    def at(self, sigma: float) -> Guidance:
        """Who answers."""
        return self.inner if self.low < sigma <= self.high else self.plain

    def rows(self, sigma: float) -> tuple[str, ...]:
        """Those of whoever answers."""
        return self.at(sigma).rows(sigma)

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """What whoever answers makes of them."""
        return self.at(query.sigma).combine(estimates, query)


@dataclass(frozen=True)
class Reined:
    """An inner guidance whose answer is compared with the plain estimate and reined in."""

    inner: Guidance
    plain: ClassifierFree

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The inner guidance's, and where it steers those of the plain estimate."""
        inner = self.inner.rows(sigma)
        return inner if len(inner) == 1 else union(inner, self.plain.rows(sigma))

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """The inner guidance's answer as it is where nothing steers, else reined in."""
        guided = self.inner.combine(estimates, query)
        if len(self.inner.rows(query.sigma)) == 1:
            return guided
        return self.rein(guided, self.plain.combine(estimates, query), query)

    def rein(self, guided: Tensor, plain: Tensor, query: Query) -> Tensor:
        """A guided estimate [1 C h w] brought nearer to the plain one [1 C h w] in some way."""
        return guided


@dataclass(frozen=True)
class Rescale(Reined):
    """The guided prediction at the deviation of the plain one (Lin et al. 2023, arXiv 2305.08891, section 3.4).

    F <- share * F * std(F_plain) / std(F) + (1 - share) * F, the deviations over all values of a picture. F is the
    network's own output, as in the paper and in diffusers' `rescale_noise_cfg`, and this is not the same for eps, v and
    x0: only where x0 is predicted is it said of x0 itself. From x0 = c_skip x + c_out F it follows that c_out * F is
    x0 - c_skip x, and c_out cancels out of the ratio, so what the prediction decides is c_skip.
    """

    share: float
    """The paper's phi, 0 to 1."""
    prediction: str
    """What the network predicts, a value of `noise.parameterisation.Prediction`."""

    def rein(self, guided: Tensor, plain: Tensor, query: Query) -> Tensor:
        """As above; where the guided output has no deviation it stays."""
        from mezzotint.noise.parameterisation import Prediction, scalings

        skipped = float(scalings(Prediction(self.prediction), query.sigma).c_skip) * query.x
        output, dims = guided - skipped, tuple(range(1, guided.ndim))
        # Both deviations lack the same factor that makes them unbiased.
        have = output.std(dims, correction=0, keepdim=True)
        want = (plain - skipped).std(dims, correction=0, keepdim=True)
        ratio = want / have.where(have > 0, 1.0)
        return guided + (self.share * (ratio - 1.0)).where(have > 0, 0.0) * output


@dataclass(frozen=True)
class Threshold(Reined):
    """Dynamic thresholding (Saharia et al. 2022, Imagen, arXiv 2205.11487, section 2.3), adapted to latents.

    Imagen's x0 are pixels in [-1, 1]. With s the share's percentile of |x0| in a picture, x0 is clamped to [-s, s] and
    divided by s where s exceeds 1. Latents have no such bounds: in the place of 1 stands b, the largest |x0| of the
    plain estimate, so that guidance makes no value larger than the prompt's own estimate has, and where s exceeds b

        x0 <- clamp(x0, -s, s) * b / s
    """

    share: float
    """Of a picture's values that lie within s, 0.5 to 1."""

    def rein(self, guided: Tensor, plain: Tensor, query: Query) -> Tensor:
        """As above."""
        spread = [1] * (guided.ndim - 1)
        s = guided.abs().flatten(1).quantile(self.share, dim=1).unflatten(0, (-1, *spread))
        b = plain.abs().flatten(1).amax(dim=1).unflatten(0, (-1, *spread))
        beyond = s > b
        clamped = guided.clamp(min=-s, max=s) * (b / s.where(beyond, 1.0))
        return clamped.where(beyond, guided)


@dataclass(frozen=True)
class AwayFrom:
    """Away from the estimates of a worse network: the inner estimate + strength * sum_i w_i (cond_i - worse_i).

    Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377, section 4) has network "perturbed", the U-Net of
    `denoise.perturbed`, and the paper's s as its strength. Autoguidance (Karras et al. 2024, arXiv
    2406.02507, equation 3) is worse + w (cond - worse) with a smaller or less trained model, network "weak": strength
    w - 1 around the plain estimate. Around classifier-free guidance both add to it. At guidance scale 0 both are asked
    about the negative prompt.
    """

    inner: Guidance
    plain: ClassifierFree
    network: str
    strength: float

    @property
    def worse(self) -> dict[str, str]:
        """The worse row of every row that is steered towards."""
        return {row: worse(self.network, row) for row in self.plain.told}

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The inner guidance's, what is steered towards, and the worse of each."""
        inner = self.inner.rows(sigma)
        return inner if self.strength == 0.0 else union(inner, self.worse, self.worse.values())

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """As above."""
        inner = self.inner.combine(estimates, query)
        if self.strength == 0.0 or not self.worse:
            return inner
        better = {row: estimates[row] - estimates[its] for row, its in self.worse.items()}
        return inner + self.strength * weighted(better, self.plain.told)


@dataclass(frozen=True)
class TowardsSpatial:
    """The second scale of a model that is told what lies beside the latent too: a picture to change (Brooks et al.
    2023, InstructPix2Pix, arXiv 2211.09800, equation 3), or hints.

    With b, u and c the estimates told nothing, told what lies there, and told that and the words, the paper's

        b + s_I (u - b) + s_T (c - u)

    is classifier-free guidance at s_T, where uncond is told what lies there too, and (s_I - 1)(u - b) around it. Where
    both scales are the same, u cancels out of it and is not asked for.
    """

    inner: Guidance
    scale: float
    """s_I, 1 is off."""

    @property
    def joint(self) -> ClassifierFree | None:
        """The guidance from nothing to all that is told at once, where both scales are the same."""
        inner = self.inner
        if isinstance(inner, ClassifierFree) and math.isclose(inner.scale * math.fsum(inner.told.values()), self.scale):
            return inner if self.scale not in OFF else None
        return None

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The inner guidance's, and the negative prompt's with what lies there and, as "blank", without it."""
        if self.joint is not None:
            return union(["blank"], self.joint.told)
        inner = self.inner.rows(sigma)
        return inner if self.scale == 1.0 else union(inner, ["uncond", "blank"])

    def combine(self, estimates: Estimates, query: Query) -> Tensor:
        """As above."""
        if self.joint is not None:
            return self.joint.combine({**estimates, "uncond": estimates["blank"]}, query)
        inner = self.inner.combine(estimates, query)
        if self.scale == 1.0:
            return inner
        return inner + (self.scale - 1.0) * (estimates["uncond"] - estimates["blank"])
