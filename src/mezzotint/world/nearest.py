"""The scene that looks most like a picture, where it is known which solids it shows: the truth nearest to a drawing."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.world.render import render
from mezzotint.world.scene import LIGHTS, MAX_OBJECTS, Scenes

ROUNDS = ((0.15, math.pi, 14), (0.1, 0.5, 8), (0.06, 0.3, 6), (0.04, 0.15, 6), (0.02, 0.08, 6))
"""How far a solid is moved at most, in table units, and turned, in radians, and in how many ways at once; in this
order."""
AROUND = 10
"""What shows a solid is where it stands and this part of the picture's side around."""


@torch.no_grad()
def nearest(scenes: Scenes, pixels: Tensor, generator: torch.Generator) -> tuple[Scenes, Tensor]:
    """B scenes, their solids moved and turned and their light chosen so that they look most like pictures [B 3 H W].

    Pixels are in [-1, 1]. A random search that narrows: all solids of a scene are moved at once, and each stays where
    the squared difference around it is least; so a round costs as many renderings for four solids as for one. Nothing
    else of a scene changes. With the scenes comes what is left of that difference, [B], the mean over their solids.
    """
    count, (height, width) = len(scenes), pixels.shape[-2:]
    reach = max(1, min(height, width) // AROUND)

    def drawn(some: Scenes) -> tuple[Tensor, Tensor]:
        """Their squared differences [B K H W] from the pictures, K ways for each, and the masks of their solids."""
        found = render(some, height, width, samples=1)
        ways = found.pixels.unflatten(0, (count, -1))
        return (ways - pixels[:, None]).square().mean(dim=2), found.masks

    def around(error: Tensor, masks: Tensor) -> Tensor:
        """The mean of errors [B K H W] around every solid of masks [B 4 H W], [B K 4]."""
        weight = F.max_pool2d(masks, 2 * reach + 1, stride=1, padding=reach)
        return torch.einsum("bkhw,bshw->bks", error, weight) / weight.sum(dim=(2, 3)).clamp(min=1)[:, None]

    lit = scenes.take(torch.arange(count).repeat_interleave(len(LIGHTS)))
    lights = torch.arange(len(LIGHTS)).to(scenes.light)
    error, _ = drawn(replace(lit, light=lights.repeat(count)))
    scenes = replace(scenes, light=lights[error.mean(dim=(2, 3)).argmin(dim=1)])
    for move, turn, ways in ROUNDS:
        changed = scenes.take(torch.arange(count).repeat_interleave(ways))
        by = torch.rand(3, count, ways, MAX_OBJECTS, generator=generator) * 2 - 1
        by[:, :, 0] = 0  # Where it is already is one of the ways.
        x, y, yaw = by.flatten(1, 2).to(pixels)
        changed = replace(
            changed, x=changed.x + move * x, y=changed.y + move * y, yaw=(changed.yaw + turn * yaw) % (2 * math.pi)
        )
        error, masks = drawn(changed)
        best = around(error, masks[::ways]).argmin(dim=1, keepdim=True)
        kept = {name: getattr(changed, name).unflatten(0, (count, ways)) for name in ("x", "y", "yaw")}
        scenes = replace(scenes, **{name: value.gather(1, best)[:, 0] for name, value in kept.items()})
    present = scenes.present.float()
    return scenes, (around(*drawn(scenes))[:, 0] * present).sum(dim=1) / present.sum(dim=1)
