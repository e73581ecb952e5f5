"""Classifier guidance: a network that looks for things in the noisy latent says where to go to have more of them.

Dhariwal and Nichol 2021 (arXiv 2105.05233, algorithm 2) move the noise estimate, with y what is wanted and s the scale,

    eps_hat = eps - s * sqrt(1 - abar) * d/dx_t log p(y | x_t),    x_t = sqrt(abar) * x0 + sqrt(1 - abar) * n

Here x = x_t / sqrt(abar) = x0 + sigma * n, and x0 = x - sigma * eps. By the chain rule the same step is

    x0_hat = x0 + s * sigma^2 * d/dx log p(y | x)

which at s = 1 is Tweedie's formula of the conditional distribution: exactly E[x0 | x, y]. The classifier reads
c_in * x, c_in = 1 / sqrt(1 + sigma^2), of unit variance, so d/dx is c_in times its gradient. The factor
sigma^2 * c_in grows like sigma, while what an x of unit variance tells of y falls like 1 / sigma; our classifier has
that in its form (see `denoise.classifier`), so the step is finite at a sigma of 4096 too. For any other, and for large
scales, no step is longer than LIMIT allows. Imports torch only where a step is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mezzotint.denoise.classifier_config import Target
from mezzotint.types import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mezzotint.denoise.classifier import Classifier
    from mezzotint.sampling.guidance import Guidance
    from mezzotint.sampling.samplers import Query

SCALE = 30.0
"""How strongly a target steers that does not say: see the table in docs/how-to/steer-with-a-classifier.md."""
MOST = 100.0
"""The largest scale, either way."""
LIMIT = 2.0
"""The longest step, root mean square, for each unit of what is not known of x0 yet.

For an x0 of unit variance that is the deviation of x0 given x, sigma / sqrt(1 + sigma^2)."""


class Answers(Protocol):
    """What is asked of a classifier."""

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor:
        """The log p [B S K 1+N] of numbers of solids, for c_in * x [B C h w] at sigmas [B]."""
        ...


@dataclass(frozen=True)
class Classify:
    """Another guidance's estimate, moved to where a classifier sees the targets: x0 + sigma^2 * sum s * d/dx log p.

    The targets are taken to be independent given x, so their logarithms add up.
    """

    inner: Guidance
    classifier: Answers
    targets: tuple[tuple[Target, float], ...]
    """What shall be seen, and how strongly; a scale below 0 steers away."""
    limit: float = LIMIT

    def rows(self, sigma: float) -> tuple[str, ...]:
        """The rows that the inner guidance asks for."""
        return self.inner.rows(sigma)

    def combine(self, estimates: Mapping[str, Tensor], query: Query) -> Tensor:
        """The inner guidance's estimate, moved."""
        x0 = self.inner.combine(estimates, query)
        return x0 + self._step(query.x, query.sigma).to(x0)

    def _step(self, x: Tensor, sigma: float) -> Tensor:
        """The step s * sigma^2 * d/dx log p of x [1 C h w], no longer than the limit."""
        import torch

        from mezzotint.denoise.classifier import log_likelihood

        known = 1 / math.hypot(1.0, sigma)  # c_in, and the share of c_in * x that is x0
        # Samplers are driven in inference mode, whose tensors have no gradient: this is a new one.
        with torch.inference_mode(False), torch.enable_grad():
            seen = (known * x.float()).clone().requires_grad_(True)
            answers = self.classifier(seen, torch.tensor([sigma], device=x.device))
            wanted = torch.stack([scale * log_likelihood(answers, target).sum() for target, scale in self.targets])
            (gradient,) = torch.autograd.grad(wanted.sum(), seen)
        step = (sigma * sigma * known) * gradient.float()
        length, longest = step.square().mean().sqrt(), self.limit * sigma * known
        return step * (longest / length).clamp(max=1)


def parse(text: str) -> tuple[str, float]:
    """The words and the scale of "WORDS:SCALE"; without a scale it is SCALE.

    Raises UserError for a scale that is no number from -MOST to MOST, or where there are no words.
    """
    words, colon, number = text.rpartition(":")
    if colon == "":
        words, number = text, str(SCALE)
    try:
        scale = float(number)
    except ValueError:
        scale = math.nan
    if words.strip() == "" or not -MOST <= scale <= MOST:
        raise UserError(
            f"{text!r} says neither what to look for nor how strongly: give WORDS:SCALE such as "
            f'"red sphere:{SCALE:g}", with a scale from {-MOST:g} to {MOST:g}.'
        )
    return " ".join(words.split()), scale


def guided(
    inner: Guidance,
    classifier: Callable[[torch.device], Classifier] | None,
    told: Sequence[str],
    device: torch.device,
) -> Guidance:
    """The guidance with a request's `classify` around it, or itself where that is empty.

    `classifier` loads the model's own, to the device, when something is asked of it. Raises UserError where the model
    has none, or does not know the words.
    """
    if len(told) == 0:
        return inner
    asked = [parse(text) for text in told]
    if classifier is None:
        raise UserError(
            f"This model has no classifier to look for {asked[0][0]!r}: train one with 'mezzotint train classifier', "
            "or leave classify out."
        )
    network = classifier(device)
    return Classify(inner, network, tuple((network.config.target(words), scale) for words, scale in asked))
