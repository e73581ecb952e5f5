"""A picture -> the noise that draws it again: DDIM inversion, asked of the loop as a picture is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.pipeline.drawing import read, told
from mezzotint.pipeline.plan import plan
from mezzotint.pipeline.start import Start
from mezzotint.sampling.inversion import ascend
from mezzotint.sampling.loop import Loop
from mezzotint.types import PICTURES, Request, UserError
from mezzotint.vae.codec import from_uint8

if TYPE_CHECKING:
    from mezzotint.pipeline import Pipeline

WORDS_ALONE: dict[str, Any] = dict.fromkeys((*PICTURES, "extend"), "") | {
    "hint": (),
    "image_prompt": (),
    "only_masked": None,
    "strength": None,
}
"""A request's fields without any picture."""


@torch.inference_mode()
def inverted(pipe: Pipeline, image: Image.Image, request: Request, rounds: int) -> Tensor:
    """The noise [1 C h w], of unit variance or nearly, from which `ddim` draws the picture by the request's words.

    What the request says of seed, size, sampler and pictures is not read. Raises UserError for a picture whose sides
    are no multiples of what the model wants, negative rounds, a request that the model cannot draw, or a model that
    reads something beside the latent.
    """
    factor = pipe.codec.factor
    if any(side % factor for side in image.size):
        width, height = image.size
        raise UserError(f"The picture is {width}x{height}; to invert it, cut its sides to multiples of {factor}.")
    if pipe.denoiser.unet.config.spatial_channels > 0:
        raise UserError("This model reads a picture, a mask or a depth map beside words, and only words are inverted.")
    if rounds < 0:
        raise UserError(f"The number of rounds is {rounds}; it must be 0 or more.")
    pixels = from_uint8(torch.from_numpy(np.array(image.convert("RGB")))[None])
    latent = pipe.codec.encode(pixels).to(pipe.device, torch.float32)
    settled = request.but(sampler="ddim", eta=None, width=None, height=None, **WORDS_ALONE)
    planned = plan(pipe, 0, settled, latent)
    (walk,) = planned.passes
    # Where a walk does not end at 0 the decoder is given x0 + sigma * n, scaled.
    x = math.hypot(1.0, walk.sigmas[-1]) * latent
    loop = Loop(pipe.denoiser, max_rows=pipe.max_rows)
    loop.add(
        walk=ascend(x, walk.sigmas, rounds=rounds),
        steps=planned.steps,
        guidance=planned.guidance,
        told=told(pipe, planned, read(pipe, planned.asks, {}), Start(x)),
        exact=request.exact,
    )
    (start,) = (event.latent for event in loop if event.latent is not None)
    return start / math.hypot(1.0, walk.sigmas[0])
