"""Pictures, masks and depth maps brought to the size that is drawn, and what is drawn put back into the picture.

H W pixels, h w the latent's height and width. Pictures are RGB, masks L (255 is drawn anew, 0 stays), depth maps F.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from mezzotint.types import UserError

Size = tuple[int, int]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, as `PIL.Image.Image.crop` takes them."""


def fitted(picture: Image.Image, size: Size, resize: str) -> Image.Image:
    """The picture at a size (width, height): cropped around its middle, padded, or stretched. The same if it fits.

    Padding goes on with the colours at the edges, and is black in masks: what is not of the picture stays.
    """
    if picture.size == size:
        return picture
    if resize == "stretch":
        return picture.resize(size, Image.Resampling.LANCZOS)
    if resize == "crop":
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    scale = min(size[0] / picture.width, size[1] / picture.height)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    left, top = ((whole - part) // 2 for whole, part in zip(size, inner, strict=True))
    around = (left, top, size[0] - inner[0] - left, size[1] - inner[1] - top)
    return padded(picture.resize(inner, Image.Resampling.LANCZOS), around, 0 if picture.mode == "L" else None)


def padded(picture: Image.Image, around: Sequence[int], value: int | None = None) -> Image.Image:
    """The picture with so many pixels more to its left, top, right and bottom: of a value, or as its edges are."""
    left, top, right, bottom = around
    widths = ((top, bottom), (left, right))
    array = np.asarray(picture)
    pads = widths if array.ndim == 2 else (*widths, (0, 0))
    made = np.pad(array, pads, mode="edge") if value is None else np.pad(array, pads, constant_values=value)
    return Image.fromarray(made, mode=picture.mode)


def boxed(mask: Image.Image, around: int) -> Box:
    """The smallest box that holds all of a mask that is not black, and so many pixels around it, within the mask.

    Raises UserError where the mask is black everywhere.
    """
    found = mask.getbbox()
    if found is None:
        raise UserError("The mask is black everywhere, so nothing would be drawn: paint white what is to be drawn.")
    left, top, right, bottom = found
    return (
        max(0, left - around),
        max(0, top - around),
        min(mask.width, right + around),
        min(mask.height, bottom + around),
    )


def to_pixels(picture: Image.Image) -> Tensor:
    """[1 3 H W] in [-1, 1] of a picture in RGB."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(127.5).sub(1)[None]


def to_plane(picture: Image.Image) -> Tensor:
    """[1 1 H W] of a mask, 0 to 1, or of a depth map, as it is."""
    plane = torch.from_numpy(np.array(picture)).float()[None, None]
    return plane / 255 if picture.mode == "L" else plane


def filled(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels [1 3 H W] with smooth colours from around wherever the mask [1 1 H W] is not 0.

    What is known is averaged down until nothing is unknown, and smoothed up again (Gortler et al. 1996, The Lumigraph,
    section 3.4, pull and push).
    """
    known = (mask == 0).float()
    return _pulled(pixels * known, known, pixels) if bool(known.any()) else pixels


def _pulled(total: Tensor, weight: Tensor, pixels: Tensor) -> Tensor:
    colours = total / weight.clamp(min=1e-6)
    if bool((weight > 0).all()) or weight[0, 0].numel() == 1:
        return torch.where(weight > 0, colours, pixels)
    half = F.avg_pool2d(total, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = _pulled(*half, F.avg_pool2d(pixels, 2, ceil_mode=True))
    smooth = F.interpolate(coarse, size=total.shape[2:], mode="bilinear")
    return torch.where(weight > 0, colours, smooth)


def opacity(mask: Tensor, reach: int) -> Tensor:
    """How much of what was drawn is shown, [1 1 H W] from 0 to 1: at most the mask, and rising inward from its edge.

    It rises over `reach` pixels, fewer in parts that are narrow, so that every part's middle is opaque; the picture's
    own border is no edge. Where the mask is 0 it is 0.
    """
    inside = (mask > 0).float()
    layers = [inside]
    while len(layers) < 2 * reach:
        inner = 1 - F.max_pool2d(1 - layers[-1], 3, 1, 1)
        layers.append(inner)
    depth = torch.stack(layers).sum(dim=0)
    # Half the depth of the deepest place near by, so that a narrow part is opaque along its middle.
    deepest = F.max_pool2d(depth, 4 * reach + 1, 1, 2 * reach)
    return mask * (depth / (deepest / 2).clamp(min=1.0, max=float(reach))).clamp(max=1.0)


def pasted(drawn: Image.Image, canvas: Image.Image, alpha: Image.Image, box: Box) -> Image.Image:
    """The canvas with what was drawn in its box, as opaque as alpha (mode L, of the canvas's size) says.

    Where alpha is 0 the canvas stays to the last bit.
    """
    size = (box[2] - box[0], box[3] - box[1])
    if drawn.size != size:
        drawn = drawn.resize(size, Image.Resampling.LANCZOS)
    whole = canvas.copy()
    whole.paste(Image.composite(drawn, canvas.crop(box), alpha.crop(box)), box[:2])
    return whole


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """What a latent is drawn anew by, [1 1 h w], of a mask [1 1 H W]: the most that any pixel of a place is."""
    return F.max_pool2d(mask, factor)


def disparity(depth: Image.Image, kind: str) -> Image.Image:
    """The map with large values near: as it is, or one over metres.

    Raises UserError for values without end, and for a distance that is not above 0.
    """
    if kind == "disparity":
        values = np.asarray(depth)
        if not np.isfinite(values).all():
            raise UserError("The depth map holds values without end: fill them in, or say depth_kind metric.")
        return depth
    values = np.asarray(depth)
    if not (values > 0).all():
        raise UserError("The depth map holds distances of 0 or less: metric depth must be above 0.")
    return Image.fromarray((1.0 / values).astype(np.float32), mode="F")


def depth_channel(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """[B 1 h w] from -1, far, to 1, near, of disparities [B 1 H W]: what Stable Diffusion 2's depth model reads."""
    small = F.interpolate(depth, size=size, mode="bicubic")
    low, high = small.amin(dim=(2, 3), keepdim=True), small.amax(dim=(2, 3), keepdim=True)
    return 2.0 * (small - low) / (high - low) - 1.0


def at_area(size: Size, area: int, multiple: int) -> Size:
    """The aspect ratio of a size at about so many pixels, both sides multiples of a number."""
    scale = math.sqrt(area / (size[0] * size[1]))
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in size)
    return width, height
