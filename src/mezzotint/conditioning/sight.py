"""What a picture shows in space: how near every place is, and whether a solid stands there.

A small network of ours that knows the still life, for where nobody has a depth map or a silhouette at hand. B pictures,
H W pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.sight_config import SightConfig
from mezzotint.layers import GroupNorm

SIDE = 128
"""The shorter side, in pixels, at which pictures are looked at: what it was trained on."""
THIN = 16
"""And the longer one is at most so many times that."""


class Seen(NamedTuple):
    """What is seen, at the picture's size."""

    disparity: Tensor
    """[B 1 H W], one over the distance, large where it is near."""
    solid: Tensor
    """[B 1 H W], the probability from 0 to 1 that a solid stands there."""


class _Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(groups, width), GroupNorm(groups, width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Sight(nn.Module):
    """Pictures [B 3 H W] in [-1, 1] -> maps [B 2 H/2 W/2]: disparity, and the logit of a solid."""

    def __init__(self, config: SightConfig) -> None:
        super().__init__()
        self.config = config
        widths, groups = config.widths, config.norm_num_groups
        inputs = (3, *widths)
        self.down = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(before, width, 3, stride=2, padding=1), _Residual(width, groups))
                for before, width in zip(inputs, widths, strict=False)
            ]
        )
        self.middle = _Residual(widths[-1], groups)
        self.up = nn.ModuleList([nn.Conv2d(below, width, 1) for width, below in pairwise(widths)])
        self.join = nn.ModuleList([_Residual(width, groups) for width in widths[:-1]])
        self.head = nn.Conv2d(widths[0], 2, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """As above; any size of at least one pixel."""
        skips: list[Tensor] = []
        x = pixels
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        x = self.middle(x)
        for level in reversed(range(len(self.up))):
            skip = skips[level]
            x = skip + F.interpolate(self.up[level](x), size=skip.shape[2:], mode="bilinear")
            x = self.join[level](x)
        return self.head(x)

    @torch.no_grad()
    def see(self, pixels: Tensor) -> Seen:
        """What pictures [B 3 H W] in [-1, 1] of any size show."""
        size = pixels.shape[2:]
        scale = min(SIDE / min(size), THIN * SIDE / max(size))
        looked = pixels
        if scale != 1.0:
            small = [max(1, round(side * scale)) for side in size]
            looked = F.interpolate(pixels, size=small, mode="bilinear", antialias=True)
        maps = F.interpolate(self(looked).float(), size=size, mode="bilinear")
        return Seen(maps[:, :1], maps[:, 1:].sigmoid())
