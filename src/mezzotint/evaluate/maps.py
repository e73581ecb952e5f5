"""How like two maps of a picture are, and how rough a picture is along an edge. H W pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation (Spearman 1904) of two maps' values, -1 to 1; 0 where one is the same everywhere.

    Values that are alike share the mean of their ranks.
    """
    x, y = _ranks(a), _ranks(b)
    length = float(x.norm() * y.norm())
    return float(x @ y) / length if length > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    """The rank of every value [N], float64, less the mean rank."""
    _, place, times = torch.unique(values.flatten(), return_inverse=True, return_counts=True)
    last = times.cumsum(0).double()
    ranks = (last - (times.double() - 1) / 2)[place]
    return ranks - ranks.mean()


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two maps of bools; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union > 0 else 1.0


def edge_energy(pixels: Tensor, inside: Tensor) -> float:
    """The gradient energy of pixels [C H W] across the edge of `inside`, bools [H W].

    That is the squared difference of neighbours of which one is inside and the other is not, summed over the channels
    and over all such pairs. The picture's border is no edge.
    """
    across = (pixels.diff(dim=2).square().sum(dim=0)[inside.diff(dim=1)]).sum()
    down = (pixels.diff(dim=1).square().sum(dim=0)[inside.diff(dim=0)]).sum()
    return float(across + down)


def fade_energy(pixels: Tensor, inside: Tensor, reach: int) -> float:
    """The same across that edge and the `reach` - 1 ones that lie each a pixel further inside.

    So it holds what a picture that fades into another over so many pixels has between them.
    """
    total = 0.0
    for _ in range(reach):
        total += edge_energy(pixels, inside)
        inside = F.max_pool2d((~inside).float()[None], 3, 1, 1)[0] == 0
    return total
