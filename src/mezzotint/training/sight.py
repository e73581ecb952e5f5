"""Sight is learned from rendered scenes, whose depth and solids are known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.sight import Sight
from mezzotint.training.data import StillLife
from mezzotint.training.truth import SceneTruth

EDGES = 0.5
"""Weight of the error in the disparity's steps from pixel to pixel, against that of the disparity."""
SCALE = 10.0
"""What disparities are multiplied with in the loss, which makes them vary by about 1."""


class SightTask:
    """The error of the disparity and of its steps, and the cross-entropy of what solids cover."""

    def __init__(self, sight: Sight, pictures: StillLife, truth: SceneTruth) -> None:
        self.network: nn.Module = sight
        self._pictures, self._truth = pictures, truth

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        device = next(self.network.parameters()).device
        pixels = dulled(self._pictures.pixels(index), generator).to(device)
        disparity, solid = (SCALE / self._truth.depth(index)).to(device), self._truth.solid(index).to(device)
        maps = self.network(pixels).float()
        error = SCALE * maps[:, :1] - disparity
        steps = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        covered = F.binary_cross_entropy_with_logits(maps[:, 1:], solid)
        depth = error.abs().mean()
        figures = {"depth": depth.detach(), "covered": covered.detach()}
        return depth + EDGES * steps + covered, figures


def dulled(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B 3 H W] as networks draw them: some of them softer, with a little noise and another exposure."""
    count = len(pixels)
    soft = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
    share = torch.rand(count, 1, 1, 1, generator=generator)
    light = 1 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    noise = 0.04 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(pixels.shape, generator=generator)
    return (((pixels.lerp(soft, share) + 1) * light - 1) + noise).clamp(-1, 1)
