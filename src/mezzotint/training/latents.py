"""What pictures are in latent space: their own latents, and those of the same scenes disguised."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from mezzotint.store.beside import make_folder
from mezzotint.training import workers
from mezzotint.training.data import Pictures, StillLife
from mezzotint.training.digest import digest
from mezzotint.vae.codec import Codec


class LatentCache:
    """The latents of pictures, each encoded when it is first asked for and kept in half precision.

    In a folder they are files that several processes share and a resumed run finds again: latents-DIGEST.f16, the
    latents [N z h w], and latents-DIGEST.known, a byte a picture, 1 where it is encoded. The digest is that of the
    autoencoder and of what the pictures are; files of another are removed.
    """

    def __init__(self, pictures: Pictures, codec: Codec, folder: Path | None = None) -> None:
        self._pictures, self._codec = pictures, codec
        side = pictures.size // codec.factor
        shape = (len(pictures), codec.channels, side, side)
        if folder is None:
            self._latents = torch.zeros(shape, dtype=torch.float16)
            self._known = torch.zeros(len(pictures), dtype=torch.uint8)
        else:
            make_folder(folder)
            stem = f"latents-{_digest(pictures, codec)}"
            values, known = folder / f"{stem}.f16", folder / f"{stem}.known"
            if workers.leads():
                for other in set(folder.glob("latents*")) - {values, known}:
                    other.unlink()
            count = math.prod(shape)
            self._latents = torch.from_file(str(values), shared=True, size=count, dtype=torch.float16).view(shape)
            self._known = torch.from_file(str(known), shared=True, size=len(pictures), dtype=torch.uint8)

    def __call__(self, index: Tensor) -> Tensor:
        """Latents [B z h w], fp32, of the pictures at these places [B]."""
        new = index[self._known[index] == 0].unique()
        if len(new) > 0:
            self._latents[new] = self._codec.encode(self._pictures.pixels(new)).to(self._latents)
            self._known[new] = 1
        return self._latents[index].float()


class Disguised:
    """Has some pictures noised as if their solids were others, where all that is disguised is told.

    While a picture is drawn its noisy latent shows what the U-Net made of the words before, and so a colour that was
    guessed wrong stays. A U-Net that has learned from such pictures takes it from what it is told.
    """

    def __init__(self, pictures: StillLife, share: float, least: float, codec: Codec, cache: Path) -> None:
        """`pictures` are the scenes that are learned from, disguised; `share` is that of the pictures noised above the
        sigma `least` and told enough that are noised so: below it there is a picture already, and none is painted over;
        `cache` is a folder for their latents.
        """
        self.attributes = pictures.disguise
        self._latents, self._share, self._least = LatentCache(pictures, codec, cache), share, least

    def __call__(self, x0: Tensor, index: Tensor, sigma: Tensor, told: Tensor, generator: torch.Generator) -> Tensor:
        """What is noised to sigmas [B] in the place of x0 [B z h w], the pictures at places [B].

        `told` [B] bool says of which the attributes are told.
        """
        toss = torch.rand(len(index), generator=generator) < self._share
        rows = (told & toss & (sigma > self._least)).nonzero()[:, 0]
        return x0 if len(rows) == 0 else x0.index_copy(0, rows, self._latents(index[rows]))


def _digest(pictures: Pictures, codec: Codec) -> str:
    """A short name for what latents depend on, which the decoder is no part of."""
    autoencoder = codec.autoencoder
    encoder = (
        (name, tensor)
        for name, tensor in autoencoder.state_dict().items()
        if not name.startswith(("decoder.", "post_quant_conv."))
    )
    return digest(f"{pictures.identity}\n{autoencoder.config}", encoder)
