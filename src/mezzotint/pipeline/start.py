"""Where a picture's walk begins, and what the U-Net is told beside the words: every mode is a row of this table.

| mode | begins from | its U-Net reads beside the latent |
|---|---|---|
| text to image | noise | - |
| image to image | z + sigma * n | - |
| inpainting with any model | z + sigma * n, and z is known where nothing is drawn | - |
| inpainting with a model for it | noise, or z + sigma * n | the mask and what it leaves of the picture |
| drawing on a depth map | noise, or z + sigma * n | the map |
| changing a picture by words | noise, or z + sigma * n | the picture |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mezzotint.conditioning import canvas
from mezzotint.pipeline.edit import Edit, surrounded
from mezzotint.sampling.guidance import Guidance
from mezzotint.sampling.known import Known
from mezzotint.types import Conditioning, Request, UserError
from mezzotint.vae.codec import Codec

if TYPE_CHECKING:
    from mezzotint.pipeline import Pipeline
    from mezzotint.pipeline.plan import Plan

DEPTH, PICTURE, INPAINT = 1, 4, 5
"""How many channels a U-Net reads beside the latent's, by what they are."""
WORDS_ALONE = 0
STRENGTH = 0.75
"""How much of a picture is drawn anew where nothing is said."""


def check(request: Request, channels: int) -> None:
    """Raise UserError for pictures that a U-Net with so many channels beside the latent's cannot use, or lacks."""
    if channels not in (WORDS_ALONE, DEPTH, PICTURE, INPAINT):
        raise UserError(f"This model reads {channels} channels of something unknown beside the latent: choose another.")
    if request.depth != "" and channels != DEPTH:
        raise UserError("This model reads no depth map: leave depth out, or choose a model that was trained for it.")
    if request.depth == "" and channels == DEPTH:
        raise UserError("This model draws on a depth map: give depth.")
    if request.image == "" and channels == PICTURE:
        raise UserError("This model changes a picture by words: give image.")


def strength(request: Request, channels: int) -> float:
    """How much is drawn anew: what is asked for, or by the mode. A model that reads the picture begins from noise."""
    if request.strength is not None:
        return request.strength
    whole = request.image == "" or request.mask != "" or request.extend != "" or channels == PICTURE
    return 1.0 if whole else STRENGTH


@dataclass(frozen=True)
class Start:
    """What a walk begins with."""

    x: Tensor
    """[1 C h w], with noise of the walk's first sigma."""
    latent: Tensor | None = None
    """z of the picture to begin from, [1 C h w]."""
    repaint: Tensor | None = None
    """m [1 1 h w] where the rest of z is known."""
    spatial: Tensor | None = None
    """[1 S h w], joined to the latent's channels."""
    shift: Tensor | None = None
    """What the autoencoder takes from the picture's mean colour, [1 3 1 1]."""

    def guided(self, guidance: Guidance) -> Guidance:
        """The guidance with what is known held."""
        if self.latent is None or self.repaint is None:
            return guidance
        return Known(guidance, self.latent, self.repaint)

    def told(self, conditioning: Conditioning, row: str) -> Conditioning:
        """What a row is told: the words, and what lies on the latent; "blank" is told nothing of a picture."""
        if self.spatial is None:
            return conditioning
        return replace(conditioning, spatial=torch.zeros_like(self.spatial) if row == "blank" else self.spatial)


@torch.inference_mode()
def start(pipe: Pipeline, plan: Plan, noise: Callable[[Sequence[int]], Tensor]) -> Start:
    """The start of a planned picture; `noise(shape)` draws from its stream."""
    edit, codec = plan.edit, pipe.codec
    first = plan.passes[0]
    # Drawn even where noise is given, so that what a stochastic sampler adds later is the same and is fresh.
    n = noise((1, codec.channels, *first.size))
    if plan.noise is not None:
        n = plan.noise.detach().to(pipe.device, torch.float32)
    sigma, channels = first.sigmas[0], pipe.denoiser.unet.config.spatial_channels
    spatial = beside(codec, edit, channels, first.size)
    spatial = None if spatial is None else spatial.to(pipe.device)
    # The deviation of x0 + sigma * n where x0, unknown yet, has unit variance: at sigma 4096 it is sigma.
    x = math.hypot(1.0, sigma) * n
    pixels, mask = edit.pixels, edit.mask
    ignored = plan.anew and mask is None and channels != PICTURE
    if pixels is None or ignored:
        return Start(x, spatial=spatial)
    shift = _shift(codec, pixels) if plan.request.keep_colours else None
    if mask is not None and plan.request.fill == "colours":
        pixels = surrounded(pixels, mask)
    latent = codec.encode(pixels).to(pipe.device, torch.float32)
    repaint = None if mask is None else canvas.latent_mask(mask, codec.factor).to(pipe.device)
    begun = latent
    if repaint is not None and plan.request.fill == "noise":
        begun = latent.lerp(noise(tuple(latent.shape)), repaint)
    if not plan.anew:
        x = begun + sigma * n
    known = None if channels == INPAINT else repaint
    return Start(x, latent, known, spatial, shift)


def beside(codec: Codec, edit: Edit, channels: int, size: tuple[int, int]) -> Tensor | None:
    """What a U-Net with so many channels beside the latent's reads in them, [1 S h w]; none where it has none."""
    if channels == DEPTH and edit.depth is not None:
        return canvas.depth_channel(edit.depth, size)
    if channels == PICTURE and edit.pixels is not None:
        return codec.unscale(codec.encode(edit.pixels)).float()  # As it was trained, without the scaling factor.
    if channels == INPAINT:
        height, width = (side * codec.factor for side in size)
        pixels = torch.zeros(1, 3, height, width) if edit.pixels is None else edit.pixels
        mask = torch.ones(1, 1, height, width) if edit.mask is None else edit.mask
        mask = (mask >= 0.5).float()
        kept = codec.encode(pixels * (1.0 - mask)).float()
        return torch.cat([torch.nn.functional.interpolate(mask, size=size).to(kept), kept], dim=1)
    return None


def _shift(codec: Codec, pixels: Tensor) -> Tensor:
    """The mean colour of pixels [1 3 H W] less that of what the autoencoder makes of them, [1 3 1 1]."""
    back = codec.decode(codec.encode(pixels)).float().cpu()
    return (pixels - back).mean(dim=(2, 3), keepdim=True)
