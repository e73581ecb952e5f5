"""A small picture of a latent for next to nothing: every place's colour is a linear function of its channels.

The autoencoder tells the function itself. It encodes coloured patches made by chance, and least squares over their
places take the latents' z channels and a constant to the mean colours below them.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mezzotint.vae.codec import Codec, to_uint8

PATCHES = 16
SIDE = 8
"""Places along a side of a patch's latent."""
CELLS = (1, 2, 3, 4, 8)
"""Along how many places a patch's colour stays about the same: one size a patch, in turn."""


class LatentPreview:
    """Latents [B z h w] -> pictures of h by w pixels."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """RGB in [-1, 1] is weight [3 z] times the latent plus bias [3]."""
        self.weight, self.bias = weight, bias

    @classmethod
    def of(cls, codec: Codec) -> LatentPreview:
        """That of a codec, found when it is first asked for and then kept with its autoencoder."""
        if codec.autoencoder not in _FOUND:
            _FOUND[codec.autoencoder] = cls(*fit(codec))
        return _FOUND[codec.autoencoder]

    def __call__(self, latents: Tensor, *, times: int = 1) -> list[Image.Image]:
        """RGB pictures of latents [B z h w], every place a square of `times` pixels."""
        x = latents.detach().to("cpu", torch.float32)
        pixels = (torch.einsum("cz,bzhw->bchw", self.weight, x) + self.bias[:, None, None]).clamp(-1.0, 1.0)
        return [
            image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
            for image in (Image.fromarray(rgb.numpy()) for rgb in to_uint8(pixels))
        ]


_FOUND: WeakKeyDictionary[nn.Module, LatentPreview] = WeakKeyDictionary()


@torch.no_grad()
def fit(codec: Codec) -> tuple[Tensor, Tensor]:
    """Weight [3 z] and bias [3] for the scaled latents of a codec, fp32 on the CPU.

    Where the autoencoder has no encoder the latents are made by chance instead, smooth in the same way, and decoded.
    """
    if getattr(codec.autoencoder, "encoder", None) is not None:
        pixels = patches(3, codec.factor).mul(2).sub(1)
        latents = codec.encode(pixels)
    else:
        latents = patches(codec.channels, 1).mul(4).sub(2)
        pixels = codec.decode(latents)
    seen = F.avg_pool2d(pixels.float().cpu(), codec.factor)
    told = latents.float().cpu().permute(0, 2, 3, 1).flatten(0, 2)  # [n z]
    told = torch.cat([told, torch.ones(len(told), 1)], dim=1)
    solution = torch.linalg.lstsq(told, seen.permute(0, 2, 3, 1).flatten(0, 2)).solution  # [z+1 3]
    return solution[:-1].T.contiguous(), solution[-1]


def patches(channels: int, factor: int) -> Tensor:
    """Smooth fields [PATCHES channels S S] in [0, 1], S = SIDE * factor, always the same."""
    generator = torch.Generator().manual_seed(0)
    fields: list[Tensor] = []
    for index in range(PATCHES):
        cells = max(2, SIDE // CELLS[index % len(CELLS)])
        coarse = torch.rand(1, channels, cells, cells, generator=generator)
        fields.append(F.interpolate(coarse, size=SIDE * factor, mode="bilinear"))
    return torch.cat(fields)
