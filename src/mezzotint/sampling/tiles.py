"""Fused overlapping tiles: a large latent denoised in pieces of the size that the model knows.

MultiDiffusion (Bar-Tal et al. 2023, arXiv 2302.08113, equation 5): the picture's estimate is, place by place, the
weighted mean of the estimates of all tiles that cover it. No tile sees the whole, so at high noise every tile draws the
scene anew; use it to finish what was settled at the trained size (`two_pass`), where it draws details for which a tile
is enough, and where the network never meets a size that it does not know.

B rows, T tiles, C channels, h w a latent's height and width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mezzotint.denoise.attention import Projected
from mezzotint.denoise.shrunk import times
from mezzotint.types import Conditioning

if TYPE_CHECKING:
    from mezzotint.sampling.loop import Denoises


class Tiled:
    """A denoiser that looks at tiles of `size` (h, w); x of about that area or less, of any shape, it sees whole."""

    def __init__(self, denoise: Denoises, size: tuple[int, int], overlap: int, *, max_rows: int = 16) -> None:
        """Neighbouring tiles share at least `overlap` rows or columns; no call has more than `max_rows` rows.

        Raises ValueError unless 0 <= overlap < both sides.
        """
        if not 0 <= overlap < min(size):
            raise ValueError(f"tiles of {size} cannot overlap by {overlap}")
        self._denoise = denoise
        self.size = size
        self.overlap = overlap
        self._max_rows = max_rows

    def project(self, conditioning: Conditioning) -> Projected:
        """As the denoiser does."""
        return self._denoise.project(conditioning)

    def __call__(
        self, x: Tensor, sigma: Tensor, conditioning: Conditioning, projected: Projected | None = None
    ) -> Tensor:
        """Clean estimates [B C h w] of x [B C h w] at sigmas [B], told a conditioning of B rows."""
        if times((x.shape[2], x.shape[3]), self.size) == 1.0:
            return self._denoise(x, sigma, conditioning, projected)
        tops = starts(x.shape[2], self.size[0], self.overlap)
        lefts = starts(x.shape[3], self.size[1], self.overlap)
        if projected is None and conditioning.sequence is not None:
            projected = self._denoise.project(conditioning)
        height, width = min(self.size[0], x.shape[2]), min(self.size[1], x.shape[3])
        window = (ramp(height, self.overlap)[:, None] * ramp(width, self.overlap)).to(x.device)
        # Every piece of work is one tile of one row; they go through the denoiser `max_rows` at a time.
        work = [(row, top, left) for row in range(len(x)) for top in tops for left in lefts]
        total, weight = torch.zeros_like(x, dtype=torch.float32), torch.zeros_like(x[:1, :1], dtype=torch.float32)
        for top in tops:
            for left in lefts:
                weight[..., top : top + height, left : left + width] += window
        for first in range(0, len(work), self._max_rows):
            some = work[first : first + self._max_rows]
            rows = torch.tensor([row for row, _, _ in some], device=x.device)
            told = replace(conditioning, spatial=None).at(rows)
            if conditioning.spatial is not None:
                told = replace(told, spatial=_cut(conditioning.spatial, some, height, width))
            read = None if projected is None else projected.at(rows)
            estimates = self._denoise(_cut(x, some, height, width), sigma[rows.to(sigma.device)], told, read)
            for (row, top, left), estimate in zip(some, estimates, strict=True):
                total[row, :, top : top + height, left : left + width] += window * estimate
        return total / weight


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: as few as cover it with that overlap, evenly spread, the ends exactly met."""
    if length <= tile:
        return [0]
    count = 1 + -(-(length - tile) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def ramp(length: int, overlap: int) -> Tensor:
    """Weights [length] of a tile's rows, positive: 1 in the middle, falling along a cosine over `overlap` at the ends.

    Where two tiles overlap by exactly `overlap`, their weights sum to 1.
    """
    reach = min(overlap, length // 2)
    place = torch.arange(length, dtype=torch.float32) + 0.5
    edge = torch.minimum(place, length - place).clamp(max=reach) / max(reach, 1)
    return 0.5 - 0.5 * torch.cos(torch.pi * edge) if reach > 0 else torch.ones(length)


def _cut(x: Tensor, work: list[tuple[int, int, int]], height: int, width: int) -> Tensor:
    """The tiles [T C height width] of x [B C h w], given as (row, top, left)."""
    return torch.stack([x[row, :, top : top + height, left : left + width] for row, top, left in work])
