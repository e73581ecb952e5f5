"""Naming what stands in every cell, from features that are learned for something else.

Small latents and large patches tell shapes apart by few cells, which other errors hardly weigh; features that can name
them are learned sooner, as aligning features with those of a vision model does where no scene is known (REPA,
arXiv:2410.06940). What names them is left behind after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1e4
"""The logit of what is not to be learned: finite, for it is multiplied by a share of 0."""


class Cells(nn.Module):
    """From features [B D h w] to what stands in every cell, nothing or one of several: logits of shapes and colours."""

    def __init__(self, width: int, shapes: int, colours: int) -> None:
        """`width` is D; `shapes` and `colours` are how many there are."""
        super().__init__()
        self.shape = nn.Conv2d(width, 1 + shapes, 1)
        self.colour = nn.Conv2d(width, 1 + colours, 1)

    def loss(
        self,
        features: Tensor,
        shape: Tensor,
        colour: Tensor,
        shares: Tensor,
        seen: Tensor,
        *,
        coloured: int | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the cells, for the solids' classes [B 4] and their shares [B 4 h w] of every cell.

        Pairs of shape and colour that are not `seen` [S K] are not learned to be impossible: a solid's shape is asked
        among those that come in its colour, and so is its colour. Colours are asked of the first rows alone where it is
        said how many are `coloured`.
        """
        some = slice(coloured)
        shapes = cells_loss(self.shape(features), shape, shares, seen.T[colour])
        return (shapes + cells_loss(self.colour(features[some]), colour[some], shares[some], seen[shape[some]])) / 2


def cells_loss(logits: Tensor, kind: Tensor, shares: Tensor, possible: Tensor) -> Tensor:
    """Mean cross-entropy of what stands in every cell, nothing or one of K kinds, from logits [B 1+K h w].

    The solids are of the kinds [B 4] and fill shares [B 4 h w] of the cells; a cell may be of the kinds that are
    possible [B 4 K] for one of its solids.
    """
    kinds = F.one_hot(kind, logits.shape[1] - 1).to(shares)
    solid = torch.einsum("bsk,bshw->bkhw", kinds, shares)
    filled = solid.sum(dim=1, keepdim=True)
    never = (torch.einsum("bsk,bshw->bkhw", possible.to(shares), shares) == 0) & (filled > 0)
    nothing, some = logits.float().split([1, logits.shape[1] - 1], dim=1)
    return F.cross_entropy(
        torch.cat([nothing, some.masked_fill(never, NEVER)], dim=1), torch.cat([1 - filled, solid], dim=1)
    )
