"""The colours that have names, and those between them.

A world of ten exact colours teaches that a torus is never green as firmly as it teaches what a torus is, if no torus is
ever shown in green. Tints leave a named colour for another as far as it is still the nearest, so that a network learns
colours as a space in which what it was never shown lies between what it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

ALBEDO = {
    "red": (0.74, 0.02, 0.025),
    "orange": (0.93, 0.23, 0.005),
    "yellow": (0.90, 0.72, 0.02),
    "green": (0.03, 0.42, 0.05),
    "cyan": (0.02, 0.62, 0.66),
    "blue": (0.02, 0.07, 0.68),
    "purple": (0.24, 0.03, 0.48),
    "pink": (0.95, 0.30, 0.50),
    "white": (0.90, 0.90, 0.90),
    "black": (0.012, 0.012, 0.014),
}
"""Linear reflectance of every colour."""
COLOURS = tuple(ALBEDO)

CLEAR = 0.5
"""How far towards the border of a colour's name anybody would still call it by that name."""
GAMMA = 2.2
"""Reflectance to the power of 1 / GAMMA is about as even as the eye sees it; distances are taken there."""


def random_tints(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For every named colour of `count` scenes, what to add to its reflectance [N 10 3], and whether its name is clear.

    The tint lies on the way to a mix of two named colours at random, anywhere before the border behind which another
    name would be nearer; `clear` [N 10] bool tells which lie in the first half of that way.
    """
    table = torch.tensor(list(ALBEDO.values()))
    seen = table ** (1 / GAMMA)
    names = len(table)
    first, second = torch.randint(names, (2, count, names), generator=generator)
    mix = torch.rand(count, names, 1, generator=generator)
    way = torch.lerp(seen[first], seen[second], mix) - seen
    apart = seen[None] - seen[:, None]  # [10 10 3], from a colour to each other
    along = torch.einsum("nkc,kjc->nkj", way, apart)
    border = torch.where(along > 0, apart.square().sum(dim=2) / (2 * along), torch.inf).amin(dim=2).clamp(max=1)
    share = torch.rand(count, names, generator=generator)
    tinted = (seen + (share * border)[..., None] * way).clamp(min=0) ** GAMMA
    return tinted - table, share < CLEAR
