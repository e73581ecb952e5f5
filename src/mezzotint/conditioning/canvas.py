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
PRECISE, MOST_ROUNDS = 1e-4, 200
"""How nearly a `membrane` solves its equation, and how often at most it is bettered."""


def fitted(picture: Image.Image, size: Size, resize: str) -> Image.Image:
    """The picture at a size (width, height): cropped around its middle, padded, or stretched. The same if it fits.

    Padding goes on with the colours at the edges, and is black in masks: what is not of the picture stays.
    """
    if picture.size == size:
        return picture
    kernel = scaling(picture)
    if resize == "stretch":
        return picture.resize(size, kernel)
    if resize == "crop":
        return ImageOps.fit(picture, size, kernel)
    scale = min(size[0] / picture.width, size[1] / picture.height)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    left, top = ((whole - part) // 2 for whole, part in zip(size, inner, strict=True))
    around = (left, top, size[0] - inner[0] - left, size[1] - inner[1] - top)
    return padded(picture.resize(inner, kernel), around, 0 if picture.mode == "L" else None)


def scaling(picture: Image.Image) -> Image.Resampling:
    """How a picture is scaled: masks so that nothing that is black all over becomes less black."""
    return Image.Resampling.BOX if picture.mode == "L" else Image.Resampling.LANCZOS


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


def pasted(drawn: Image.Image, canvas: Image.Image, mask: Image.Image, box: Box, reach: int) -> Image.Image:
    """The canvas with what was drawn in its box, as opaque as the mask (of the canvas's size) says, without a seam.

    Where the mask is 0 the canvas stays to the last bit, and more than `reach` pixels inside it what was drawn does.
    Between them what was drawn is shifted by a `membrane` of what it differs by from the canvas along the mask's edge.
    """
    size = (box[2] - box[0], box[3] - box[1])
    if drawn.size != size:
        drawn = drawn.resize(size, Image.Resampling.LANCZOS)
    mask = mask.crop(box)
    before, after, outside = to_pixels(canvas.crop(box)), to_pixels(drawn), (to_plane(mask) == 0).float()
    near = _grown(outside, reach)  # The picture's border is no edge.
    after = after + membrane((before - after) * outside, near - outside)
    levels = after.add(1).mul(127.5).round().clamp(0, 255).byte()
    whole = canvas.copy()
    seamless = Image.fromarray(levels[0].permute(1, 2, 0).numpy())
    whole.paste(Image.composite(seamless, canvas.crop(box), mask), box[:2])
    return whole


def membrane(fixed: Tensor, free: Tensor) -> Tensor:
    """Values [1 C H W] that are `fixed` where `free` [1 1 H W] is 0, and where it is 1 the mean of their neighbours.

    Added to what is pasted it is the solution of Poisson's equation whose gradient is nearest to that of what is pasted
    (Perez et al. 2003, Poisson Image Editing, section 2). Nothing flows across the picture's border. By conjugate
    gradients, to within about a tenth of a level of 255.
    """
    count = _neighbours(torch.ones_like(free))
    values = torch.where(free == 0, fixed, 0.0)
    left = free * _neighbours(values)
    ahead, energy = left, left.square().sum()
    for _ in range(MOST_ROUNDS):
        if left.abs().max() < PRECISE:
            break
        image = free * (count * ahead - _neighbours(ahead))
        step = energy / (ahead * image).sum()
        values, left = values + step * ahead, left - step * image
        now = left.square().sum()
        ahead, energy = left + now / energy * ahead, now
    return values


def _neighbours(values: Tensor) -> Tensor:
    """The sum of every pixel's four neighbours, [1 C H W]; beyond the border is 0."""
    sides = F.pad(values, (1, 1, 1, 1))
    return sides[..., :-2, 1:-1] + sides[..., 2:, 1:-1] + sides[..., 1:-1, :-2] + sides[..., 1:-1, 2:]


def seam(factor: int) -> int:
    """How far a mask's seam reaches in from its edge, in pixels: half of what one of the latent's places covers."""
    return max(1, factor // 2)


def inset(pixels: Tensor, mask: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Pixels [1 3 H W] and a mask [1 1 H W] that begins so many pixels further in, where smooth colours lie between.

    What is drawn by them leaves the mask's edge alone, so nothing that stands there is cut. The picture's border is no
    edge. Parts that are not four times as thick, away from any that are, stay as they are: little would be left.
    """
    masked = (mask > 0).to(mask)
    core = 1 - _grown(1 - masked, 2 * reach)
    inner = torch.maximum(_grown(core, reach), masked - masked * _grown(core, 4 * reach))
    return torch.where(masked > inner, filled(pixels, masked), pixels), inner


def _grown(mask: Tensor, reach: int) -> Tensor:
    """A mask [1 1 H W] with all that is so many pixels around it."""
    return F.max_pool2d(mask, 2 * reach + 1, 1, reach)


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
    if not (values >= np.finfo(np.float32).tiny).all():
        raise UserError("The depth map holds distances of 0 or less: metric depth must be above 0.")
    return Image.fromarray((1.0 / values).astype(np.float32), mode="F")


def depth_channel(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """[B 1 h w] from -1, far, to 1, near, of disparities [B 1 H W]: what Stable Diffusion 2's depth model reads.

    0 where they are the same everywhere, as a part of a map may be.
    """
    small = F.interpolate(depth, size=size, mode="bicubic").double()
    low, high = small.amin(dim=(2, 3), keepdim=True), small.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, 2.0 * (small - low) / (high - low) - 1.0, 0.0).to(depth)


def at_area(size: Size, area: int, multiple: int) -> Size:
    """The aspect ratio of a size at about so many pixels, both sides multiples of a number."""
    scale = math.sqrt(area / (size[0] * size[1]))
    width, height = (max(1, round(side * scale / multiple)) * multiple for side in size)
    return width, height
