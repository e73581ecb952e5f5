"""Where solids stand: binary, or labelled, where a line of background parts one shape from another."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mezzotint.conditioning.hints.base import Hint

FINER = 2
"""Places along a side that are told of every place of the latent, so that edges are known to a fraction of one."""


def given(picture: Image.Image) -> Image.Image:
    """Mode L, 255 where something stands: all that is not black, and black where one label meets another."""
    labels = np.asarray(picture)
    shape = np.where(labels > 0, 255, 0).astype(np.uint8)
    for axis in (0, 1):
        ahead = np.roll(labels, -1, axis)
        meets = (labels != ahead) & (labels > 0) & (ahead > 0)
        meets[(slice(None),) * axis + (-1,)] = False
        shape[meets] = 0
    return Image.fromarray(shape)


def reads(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """[B 4 h w] from -1, nothing there, to 1, of planes [B 1 H W] from 0 to 1: the quarters of every place."""
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
