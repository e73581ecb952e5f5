"""Pictures as prompts are learned beside the words (Ye et al. 2023, IP-Adapter, arXiv 2308.06721, section 3.2).

Every picture is shown itself: the U-Net and the image tower stay as they are, and what brings the tower's tokens to the
U-Net is learned. Now and then a picture is not shown, for classifier-free guidance, and often its caption is not told,
so that pictures are read in the place of words too.

Before that a picture learns to say what its caption says, in the tokens that the U-Net reads already. That asks nothing
of the U-Net, so it is four times as quick, and from tokens that mean nothing yet the U-Net's error tells little.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.image_prompt import PictureConditioner
from mezzotint.conditioning.text import TextConditioner
from mezzotint.training.data import Pictures, StillLife


class SayingTask:
    """The tokens of a picture should be the first of its caption's, and those of no picture the empty caption's.

    The loss is their mean squared distance, a token's own variance being 1. A scene is told outright, always in the
    same words.
    """

    def __init__(self, reader: PictureConditioner, conditioner: TextConditioner, pictures: Pictures) -> None:
        """`reader` is what learns, but for its tower."""
        self.network: nn.Module = reader
        reader.tower.requires_grad_(False)
        self._reader, self._conditioner, self._pictures = reader, conditioner, pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        pictures = self._pictures
        told = pictures.outright(index) if isinstance(pictures, StillLife) else pictures.captions(index, seed)
        said = torch.cat([_shown(self._reader, pictures, index), self._reader.nothing()]).float()
        with torch.no_grad():
            tokens = self._conditioner([*told, ""]).sequence
        assert tokens is not None
        both = min(said.shape[1], tokens.shape[1])
        wanted = tokens[:, :both].float()
        return F.mse_loss(said[:, :both], wanted) / wanted.var(), {}


def _shown(reader: PictureConditioner, pictures: Pictures, index: Tensor) -> Tensor:
    """The tokens [B T D] of the pictures at these places [B]."""
    pixels, side = pictures.pixels(index), reader.tower.config.image_size
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, size=side, mode="bicubic", antialias=True)
    return reader(pixels.to(next(reader.parameters()).device))


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
        hidden = torch.rand(len(index), generator=generator) < self._dropout
        seen = _shown(self.reader, self._pictures, index)
        tokens = torch.where(hidden.to(device)[:, None, None], self.reader.nothing(), seen)
        return tokens[:, None], torch.ones(len(index), 1, device=device)
