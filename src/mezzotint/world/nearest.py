"""The scene that looks most like a picture, where it is known which solids it shows: the truth nearest to a drawing."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.world.render import render
from mezzotint.world.scene import MAX_OBJECTS, Scenes

ROUNDS = ((0.15, math.pi, 14), (0.1, 0.5, 8), (0.06, 0.3, 6), (0.04, 0.15, 6), (0.02, 0.08, 6))
"""How far a solid is moved at most, in table units, and turned, in radians, and in how many ways at once; in this
order."""
AROUND = 10
"""What shows a solid is where it stands and this part of the picture's side around."""


@torch.no_grad()
def nearest(scenes: Scenes, pixels: Tensor, generator: torch.Generator) -> Scenes:
    """B scenes with their solids moved and turned until they look most like pictures [B 3 H W] in [-1, 1].

    A random search that narrows. All solids of a scene are moved at once, and each stays where the squared difference
    around it is least; so a round costs as many renderings for four solids as for one. Nothing else of a scene changes.
    """
    count, (height, width) = len(scenes), pixels.shape[-2:]
    reach = max(1, min(height, width) // AROUND)
    for move, turn, ways in ROUNDS:
        around = F.max_pool2d(render(scenes, height, width, samples=1).masks, 2 * reach + 1, stride=1, padding=reach)
        changed = scenes.take(torch.arange(count).repeat_interleave(ways))
        by = torch.rand(3, count, ways, MAX_OBJECTS, generator=generator) * 2 - 1
        by[:, :, 0] = 0  # Where it is already is one of the ways.
        x, y, yaw = by.flatten(1, 2).to(pixels)
        changed = replace(
            changed, x=changed.x + move * x, y=changed.y + move * y, yaw=(changed.yaw + turn * yaw) % (2 * math.pi)
        )
        drawn = render(changed, height, width, samples=1).pixels.unflatten(0, (count, ways))
        error = (drawn - pixels[:, None]).square().mean(dim=2)
        best = torch.einsum("bkhw,bshw->bks", error, around).argmin(dim=1, keepdim=True)
        kept = {name: getattr(changed, name).unflatten(0, (count, ways)) for name in ("x", "y", "yaw")}
        scenes = replace(scenes, **{name: value.gather(1, best)[:, 0] for name, value in kept.items()})
    return scenes
