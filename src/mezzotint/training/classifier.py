"""A classifier learns from noisy latents which solids their scenes have (Dhariwal and Nichol 2021, section 4)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.classifier import Classifier
from mezzotint.denoise.classifier_config import ClassifierConfig
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.training.cells import Cells
from mezzotint.training.data import StillLife
from mezzotint.training.latents import LatentCache
from mezzotint.training.unet import level_shares, low_and_high, spread_levels
from mezzotint.vae.codec import Codec
from mezzotint.world.scene import Scenes


class _Named(nn.Module):
    """The classifier, and heads that name what stands in every cell, which are left behind after training.

    A scene's list of solids does not say where they stand; this does, and features that know it are learned sooner.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        config = classifier.config
        self.cells = Cells(config.widths[-1], len(config.shapes), len(config.colours))


def trained(network: nn.Module) -> Classifier:
    """The classifier of a task's network."""
    assert isinstance(network, _Named)
    return network.classifier


def counts(scenes: Scenes, config: ClassifierConfig) -> Tensor:
    """How many solids of every kind scenes have, [B S K] int64.

    Place 0 is any shape, or any colour, so that [0, 0] is how many there are in all.
    """
    here = scenes.present.long()
    shapes = F.one_hot(scenes.shape + 1, 1 + len(config.shapes)) * here[..., None]
    colours = F.one_hot(scenes.colour + 1, 1 + len(config.colours))
    shapes[..., 0], colours[..., 0] = here, 1
    return torch.einsum("bis,bik->bsk", shapes, colours)


def prior_of(pictures: StillLife, config: ClassifierConfig) -> tuple[Tensor, Tensor]:
    """The log of how much more often there are n = 1 .. N solids of a kind than none, [S K N]; and the kinds there are.

    Half a picture is added to every number, so that none is infinitely rare. A pair of shape and colour that no picture
    shows is taken to be as rare as the others are on average.
    """
    found = counts(pictures.scenes, config)
    often = F.one_hot(found.clamp(max=config.most), 1 + config.most).sum(dim=0).double()
    seen = often[..., 1:].sum(dim=-1) > 0
    pairs = often[1:, 1:]
    pairs[~seen[1:, 1:]] = pairs[seen[1:, 1:]].mean(dim=0)
    return ((often[..., 1:] + 0.5).log() - (often[..., :1] + 0.5).log()).float(), seen


class ClassifierTask:
    """p(how many of every kind | x0 + sigma n, sigma) should be high for what is there, at every sigma of a schedule.

    The loss is the cross-entropy of the numbers, summed over the kinds there are in the pictures and divided by the
    number of shapes and colours. Pairs of shape and colour that no picture shows are not learned to be impossible: they
    are left to what the classifier knows of the shape and of the colour.
    """

    def __init__(
        self,
        classifier: Classifier,
        codec: Codec,
        pictures: StillLife,
        schedule: NoiseSchedule,
        seen: Tensor,
        *,
        segment: float = 3.0,
        focus: float = 0.85,
        middle: float = 1.0,
        cache: Path | None = None,
    ) -> None:
        """`seen`, `prior_of`'s, are the kinds there are; `middle` is that of the noise levels that focus is on, as a
        sigma; the others are as in `DenoiserTask`.
        """
        device = next(classifier.parameters()).device
        self.network = _Named(classifier).to(device)
        self._pictures, self._segment = pictures, segment
        self._latents = LatentCache(pictures, codec, cache)
        self._sigmas = schedule.sigmas.clone()
        self._shares = level_shares(self._sigmas, focus, middle)
        self._seen = (seen / sum(seen.shape)).to(device)

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        classifier = self.network.classifier
        device = next(classifier.parameters()).device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            x0 = self._latents(index)
        sigma, spread = spread_levels(self._sigmas, self._shares, len(index), generator)
        noise = torch.randn(x0.shape, generator=generator)
        wide = sigma.to(x0)[:, None, None, None]
        x = ((x0 + wide * noise) * (1 + wide**2).rsqrt()).to(device)
        sigma = sigma.to(device)
        features = classifier.features(x, sigma)
        with torch.autocast(device.type, enabled=False):
            answers = classifier.answers(features.float(), sigma)
        truth = counts(self._pictures.unmirrored(index), classifier.config)
        truth = truth.clamp(max=classifier.config.most).to(device)
        surprise = -answers.gather(3, truth[..., None])[..., 0]  # [B S K]
        error = (surprise * self._seen).flatten(1).sum(dim=1)
        figures = low_and_high(error, spread)
        if self._segment == 0:
            return error.mean(), figures
        cells = self._pictures.cells(index, features.shape[-1])
        named = self.network.cells.loss(features, *(part.to(device) for part in (*cells, self._pictures.seen)))
        return error.mean() + self._segment * named, {**figures, "segment": named.detach()}
