"""Pictures as prompts are learned beside the words (Ye et al. 2023, IP-Adapter, arXiv 2308.06721, section 3.2).

Every picture is shown itself, and the U-Net stays as it is. What brings the image tower's tokens to it is learned, and
the tower learns along, for it has to tell more than it was asked to name. Now and then a picture is not shown, for
classifier-free guidance, and often its caption is not told, so that pictures are read in the place of words too.

Before that, with the tower fixed, every token learns to say the word for what stands there, in the tokens that the
U-Net reads already. That asks nothing of the U-Net, so it is quicker, and from tokens that mean nothing yet the U-Net's
error tells little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.image_prompt import PerToken, PictureConditioner
from mezzotint.conditioning.text import TextConditioner
from mezzotint.training.data import Pictures, StillLife
from mezzotint.world.captions import up_to
from mezzotint.world.scene import MAX_OBJECTS


class SayingTask:
    """Every token of a picture should be that of the word for what stands there, and those of no picture nothing's.

    A scene is told outright, always in the same words: a solid's is the last of its name, heard after all before it,
    and the table's the caption's last, which what stands for the whole picture says too. Where nobody knows what stands
    where, every token says the caption's last word. The loss is the mean squared distance, in units of the variance of
    what is to be said.
    """

    def __init__(self, reader: PictureConditioner, conditioner: TextConditioner, pictures: Pictures) -> None:
        """`reader`, a PerToken's, is what learns, but for its tower."""
        self.network: nn.Module = reader
        reader.tower.requires_grad_(False)
        self._reader, self._conditioner, self._pictures = reader, conditioner, pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        said = torch.cat([_shown(self._reader, self._pictures, index), self._reader.nothing()]).float()
        patches = self._reader.tower.config.num_patches
        with torch.no_grad():
            nothing = self._last_words([[""]]).expand(-1, 1 + patches, -1)
            wanted = torch.cat([self._wanted(index, patches, seed), nothing])
        return F.mse_loss(said, wanted) / wanted.var(), {}

    def _wanted(self, index: Tensor, patches: int, seed: int) -> Tensor:
        """[B 1+patches D] of the pictures at these places [B]."""
        pictures = self._pictures
        if not isinstance(pictures, StillLife):
            return self._last_words([[text] for text in pictures.captions(index, seed)]).expand(-1, 1 + patches, -1)
        told: list[list[str]] = []
        for place, whole in zip(index.tolist(), pictures.outright(index), strict=True):
            scene = pictures.scene(place)
            solids = [up_to(scene, solid) for solid in scene.solids]
            told.append([*solids, *[whole] * (MAX_OBJECTS + 1 - len(solids))])
        words = self._last_words(told)
        shares = pictures.cells(index, math.isqrt(patches))[2].flatten(2).to(words)
        filled = torch.cat([shares, 1 - shares.sum(dim=1, keepdim=True)], dim=1)
        return torch.cat([words[:, -1:], torch.einsum("bkp,bkd->bpd", filled, words)], dim=1)

    def _last_words(self, told: Sequence[Sequence[str]]) -> Tensor:
        """The tokens [B K D] of the last words of K beginnings of each of B texts, the last of which is the whole.

        Where the encoder's length is not enough that is the last word that fits.
        """
        tokens = self._conditioner([beginnings[-1] for beginnings in told]).sequence
        assert tokens is not None
        tokenizer = self._conditioner.tokenizer
        rows: list[Tensor] = []
        for row, beginnings in zip(tokens.float(), told, strict=True):
            counts = [min(len(tokenizer.ids(text)), tokenizer.room) for text in beginnings]
            start = tokenizer.place(counts[-1])
            rows.append(row[[max(start + count - 1, 0) for count in counts]])
        return torch.stack(rows)


def _shown(reader: PictureConditioner, pictures: Pictures, index: Tensor) -> Tensor:
    """The tokens [B T D] of the pictures at these places [B]."""
    pixels, side = pictures.pixels(index), reader.tower.config.image_size
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, size=side, mode="bicubic", antialias=True)
    return reader(pixels.to(next(reader.parameters()).device))


class PicturePrompts:
    """What is shown of the pictures that are learned from."""

    def __init__(self, reader: PictureConditioner, pictures: Pictures, dropout: float) -> None:
        """`reader` is what learns, its tower where every token is read as one (the others' may be large, and are not of
        this world); `dropout` is the share of pictures that are not shown.
        """
        self.reader = reader
        reader.projection.requires_grad_(True)
        reader.tower.requires_grad_(isinstance(reader.projection, PerToken))
        self._pictures, self._dropout = pictures, dropout

    def __call__(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens [B 1 T D] of the pictures at these places [B], their weights [B 1], and which are shown [B]."""
        device = next(self.reader.parameters()).device
        hidden = torch.rand(len(index), generator=generator) < self._dropout
        seen = _shown(self.reader, self._pictures, index)
        tokens = torch.where(hidden.to(device)[:, None, None], self.reader.nothing(), seen)
        return tokens[:, None], torch.ones(len(index), 1, device=device), ~hidden
