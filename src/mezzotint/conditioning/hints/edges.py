"""Where the picture's edges are: the example of docs/how-to/add-a-hint.md."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mezzotint.conditioning.hints.base import Hint, Truth

STEEP = 0.25
"""How much grey, of the 2 from black to white, must change from a pixel to the next."""
FAINT = 0.1
"""From how much white on there is an edge: thin lines fade where a large map is made smaller."""


def edges(truth: Truth) -> Tensor:
    """Edges [B 1 H W], 0 or 1, of pictures."""
    grey = truth.pixels.mean(dim=1, keepdim=True)
    across = F.pad(grey.diff(dim=3).abs(), (0, 1, 0, 0))
    down = F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1))
    return (across + down > STEEP).float()


def reads(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """[B 4 h w], -1 or 1, of edges [B 1 H W]: whether any is in the quarters of every place."""
    fine = (F.adaptive_max_pool2d(plane, (2 * size[0], 2 * size[1])) > FAINT).to(plane)
    return 2.0 * F.pixel_unshuffle(fine, 2) - 1.0


HINT = Hint(
    name="edges",
    about="where edges are, white on black",
    channels=4,
    kind="mask",
    given=lambda picture: picture,
    known=edges,
    reads=reads,
)
