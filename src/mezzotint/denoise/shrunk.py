"""A U-Net that sees a large latent whole, because its features are shrunk where scenes are composed.

It is a network with the very parameters of another, two of its modules replaced and nothing else copied, and does
nothing to latents of the trained size. It is for high noise, where the scene is settled; details are drawn by the
network as it was trained (`ByNoise`). Convolutions spread wider instead (He et al. 2023, ScaleCrafter, arXiv
2310.07702) were tried and kept one scene less often: see docs/log.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.attention import Projected
from mezzotint.denoise.blocks import Downsample, Upsample
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet
from mezzotint.denoise.variants import with_modules
from mezzotint.types import Conditioning

NEAR = 1.3
"""Up to so many times the trained area nothing changes: rounding up as the resolution halves adds that much."""


def times(size: tuple[int, int], trained: tuple[int, int]) -> float:
    """How many times larger than `trained` a size (h, w) is along a side, by their areas; 1 up to NEAR."""
    ratio = size[0] * size[1] / (trained[0] * trained[1])
    return math.sqrt(ratio) if ratio > NEAR else 1.0


class Shrink(nn.Module):
    """A downsampler whose output is shrunk to about the area that it has at the trained size."""

    def __init__(self, downsample: Downsample, trained: tuple[int, int]) -> None:
        """`trained` is the size (h, w) of the downsampler's output when the latent has the trained size."""
        super().__init__()
        self.downsample, self.trained = downsample, trained

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h' w']."""
        x = self.downsample(x)
        scale = times((x.shape[2], x.shape[3]), self.trained)
        if scale == 1.0:
            return x
        size = [max(1, round(side / scale)) for side in x.shape[2:]]
        return F.interpolate(x.float(), size=size, mode="bilinear", antialias=True).to(x)  # Not there in bfloat16.


class Enlarge(nn.Module):
    """An upsampler that brings its input to half the size it shall have before it doubles it."""

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.upsample = upsample

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """[B C h w] -> [B C *size]."""
        half = [(side + 1) // 2 for side in size]
        if list(x.shape[2:]) != half:
            x = F.interpolate(x, size=half, mode="bilinear")
        return self.upsample(x, size)


def shrunk(unet: UNet, trained: tuple[int, int]) -> UNet:
    """Deep shrink: everything below the finest resolution works at the size that latents of size `trained` (h, w) give.

    After the first downsampler features are shrunk, before the last upsampler they are enlarged again, and the finest
    resolution is left as it is (the method is Kohya's, 2023, published as code). A U-Net of one resolution is itself.
    """
    if len(unet.down_blocks) == 1:
        return unet
    below = ((trained[0] + 1) // 2, (trained[1] + 1) // 2)
    down, up = "down_blocks.0.downsamplers.0", f"up_blocks.{len(unet.up_blocks) - 2}.upsamplers.0"
    first, last = unet.get_submodule(down), unet.get_submodule(up)
    assert isinstance(first, Downsample)
    assert isinstance(last, Upsample)
    return with_modules(unet, {down: Shrink(first, below), up: Enlarge(last)})


class ByNoise:
    """A denoiser that gives rows of more noise than `limit` to one network and all others to another."""

    def __init__(self, above: Denoiser, below: Denoiser, limit: float) -> None:
        """Both have the same layers that read text."""
        self._above, self._below, self.limit = above, below, limit

    def project(self, conditioning: Conditioning) -> Projected:
        """As both do."""
        return self._below.project(conditioning)

    def __call__(
        self, x: Tensor, sigma: Tensor, conditioning: Conditioning, projected: Projected | None = None
    ) -> Tensor:
        """Clean estimates [B C h w] of x [B C h w] at sigmas [B], told a conditioning of B rows."""
        high = (sigma > self.limit).to(x.device)
        if bool(high.all()) or not bool(high.any()):
            network = self._above if bool(high.any()) else self._below
            return network(x, sigma, conditioning, projected)
        estimates = torch.empty_like(x, dtype=torch.float32)
        for network, rows in ((self._above, high), (self._below, ~high)):
            read = None if projected is None else projected.at(rows)
            estimates[rows] = network(x[rows], sigma[rows.to(sigma.device)], conditioning.at(rows), read)
        return estimates
