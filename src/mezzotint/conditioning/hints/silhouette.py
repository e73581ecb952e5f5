"""Where solids stand: binary, or labelled, where a line of background parts one shape from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mezzotint.conditioning.hints.base import Hint

FINER = 4
"""Places along a side that are told of every place of the latent, so that edges are known to a fraction of one: as many
as training knows of scenes, at half their size, by an autoencoder of 8."""
SHARE = 0.002
"""A grey stands for something from this share of the pixels on."""
APART = 16
"""And if it is so far from every other that does, of 255."""
MOST_LABELS = 64
"""Up to so many, greys that are the numbers from 1 on, or that all fill areas, are the labels themselves."""
STRAY = 0.001
"""Up to this share of what is not black may be of other greys then."""


def given(picture: Image.Image) -> Image.Image:
    """Mode L, 255 where something stands, and black where one label meets another.

    What is between two greys, as at smooth edges and in lossy files, is of the nearer one.
    """
    labels = _nearest(np.asarray(picture))
    shape = np.where(labels > 0, 255, 0).astype(np.uint8)
    for axis in (0, 1):
        ahead = np.roll(labels, -1, axis)
        meets = (labels != ahead) & (labels > 0) & (ahead > 0)
        meets[(slice(None),) * axis + (-1,)] = False
        shape[meets] = 0
    return Image.fromarray(shape)


def _nearest(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Every pixel's label [H W]: black, or one of the greys that stand for something."""
    counts = np.bincount(grey.ravel(), minlength=256)
    numbers = np.flatnonzero(counts[1:]) + 1
    areas = np.union1d(grey[_even(grey)], 0)
    strays = counts[1:].sum() - counts[areas[1:]].sum()
    counted = 0 < len(numbers) <= MOST_LABELS and numbers[-1] == len(numbers)
    if counted or (1 < len(areas) <= MOST_LABELS and strays <= STRAY * counts[1:].sum()):
        return grey.astype(np.int64)
    often = [int(level) for level in np.argsort(-counts, kind="stable") if counts[level] >= SHARE * grey.size]
    levels = [0]
    for level in often:
        if all(abs(level - other) >= APART for other in levels):
            levels.append(level)
    if len(levels) == 1 and grey.max() >= APART:  # What is there is very small.
        levels.append(int(grey.max()))
    known = np.array(levels)
    return known[np.abs(np.arange(256)[:, None] - known).argmin(axis=1)][grey]


def _even(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a pixel and the eight around it are the same, [H W] bools: within areas, and not at smooth edges."""
    height, width = grey.shape
    same = np.zeros(grey.shape, dtype=np.bool_)
    if min(height, width) > 2:
        inside = [grey[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3)]
        same[1:-1, 1:-1] = np.logical_and.reduce([part == inside[4] for part in inside])
    return same


def reads(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """[B 16 h w] from -1, nothing there, to 1, of planes [B 1 H W] from 0 to 1: the sixteenths of every place."""
    fine = F.adaptive_avg_pool2d(plane, (FINER * size[0], FINER * size[1]))
    return 2.0 * F.pixel_unshuffle(fine, FINER) - 1.0


HINT = Hint(
    name="silhouette",
    about="where something stands, white on black, or one grey for each thing",
    channels=FINER**2,
    kind="mask",
    given=given,
    known=lambda truth: truth.solid,
    reads=reads,
)
