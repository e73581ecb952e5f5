"""Pictures as prompts are learned beside the words (Ye et al. 2023, IP-Adapter, arXiv 2308.06721, section 3.2).

Every picture is shown itself: the U-Net and the image tower stay as they are, and what brings the tower's tokens to the
U-Net is learned. Now and then a picture is not shown, for classifier-free guidance, and often its caption is not told,
so that pictures are read in the place of words too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.conditioning.image_prompt import PictureConditioner
from mezzotint.training.data import Pictures


class PicturePrompts:
    """What is shown of the pictures that are learned from."""

    def __init__(self, reader: PictureConditioner, pictures: Pictures, dropout: float) -> None:
        """`reader` is what learns, but for its tower; `dropout` is the share of pictures that are not shown."""
        self.reader = reader
        reader.tower.requires_grad_(False)
        self._pictures, self._dropout = pictures, dropout

    def __call__(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The tokens [B 1 T D] of the pictures at these places [B], and their weights [B 1]."""
        device = next(self.reader.parameters()).device
        pixels, side = self._pictures.pixels(index), self.reader.tower.config.image_size
        if pixels.shape[-1] != side:
            pixels = F.interpolate(pixels, size=side, mode="bicubic", antialias=True)
        hidden = torch.rand(len(index), generator=generator) < self._dropout
        tokens = torch.where(hidden.to(device)[:, None, None], self.reader.nothing(), self.reader(pixels.to(device)))
        return tokens[:, None], torch.ones(len(index), 1, device=device)
