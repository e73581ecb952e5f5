"""What a request's pictures come to: read, brought to the size that is drawn, and how the result goes back.

image, extend --> canvas --crop to the mask--> pixels --codec--> latent that the walk begins from
mask ----------------------------------------> where the walk repaints, where the result is opaque
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mezzotint.conditioning import canvas
from mezzotint.conditioning.canvas import Box, Size
from mezzotint.conditioning.hints import hint_named
from mezzotint.sampling import sizes
from mezzotint.store import pictures
from mezzotint.store.sight import depth_of
from mezzotint.types import ImagePrompt, Request, UserError, sides


@dataclass(frozen=True)
class Back:
    """How what was drawn goes back into the picture."""

    canvas: Image.Image
    mask: Image.Image
    """Of the canvas's size: 0 where it stays, 255 where only what was drawn is seen."""
    box: Box
    """Where in the canvas it was drawn."""
    reach: int
    """Pixels over which what was drawn is fitted to the canvas."""


@dataclass(frozen=True)
class Edit:
    """A request's pictures at the size that is drawn."""

    size: Size
    """Width and height of the finished picture."""
    drawn: sizes.Drawn
    """What is drawn for it."""
    pixels: Tensor | None = None
    """The picture to begin from, [1 3 H W] in [-1, 1]."""
    mask: Tensor | None = None
    """[1 1 H W], 1 where it is drawn anew and 0 where it stays."""
    hints: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """The planes [1 1 H W] of what lies on it, by name."""
    back: Back | None = None
    """None where the whole picture is drawn."""
    prompts: tuple[tuple[Image.Image, float], ...] = ()
    """The pictures to draw after, in RGB, and how much each counts."""

    def at(self, size: Size) -> Edit:
        """The same for a pass that draws smaller pictures, of this size; a mask keeps its thin lines."""
        if size == self.drawn.size:
            return self
        shape = (size[1], size[0])

        def shrunk(planes: Tensor) -> Tensor:
            return F.interpolate(planes, size=shape, mode="bilinear", antialias=True)

        return replace(
            self,
            pixels=None if self.pixels is None else shrunk(self.pixels),
            mask=None if self.mask is None else F.adaptive_max_pool2d(self.mask, shape),
            hints={name: shrunk(plane) for name, plane in self.hints.items()},
        )

    def finish(self, whole: Image.Image) -> Image.Image:
        """The finished picture, of what was drawn."""
        cut = whole if self.drawn.box == (0, 0, *whole.size) else whole.crop(self.drawn.box)
        if self.back is None:
            return cut
        return canvas.pasted(cut, self.back.canvas, self.back.mask, self.back.box, self.back.reach)


def read(request: Request, native: Size, trained: Sequence[Size], factor: int, *, settled: bool = False) -> Edit:
    """The pictures of a request for a model that draws pictures of `native` size and knows the sizes `trained`.

    `factor` is pixels a place of its latents; `settled` says that no map changes the native size. Raises UserError for
    a picture that cannot be read or means nothing.
    """
    given = request.hints()
    image = pictures.read_colours(request.image) if request.image != "" else None
    mask = _mask(request, image)
    planes = {name: _plane(request, name, file) for name, file in given.items() if not _taken(name, file)}
    own, around = None if image is None else image.size, sides(request.extend)
    if image is not None and any(around):
        mask = canvas.padded(Image.new("L", image.size) if mask is None else mask, around, 255)
        image = canvas.padded(image, around)
    if own is None or image is None:
        settled = settled or not planes or None not in (request.width, request.height)
        size = _size(request, native if settled else _shape_of(planes, native, factor))
    else:
        size = _size(request, image.size)
        planes = {name: _beside(name, plane, own, image.size, around, size) for name, plane in planes.items()}
        image = canvas.fitted(image, size, request.resize)
    planes |= {name: _estimated(name, file, image) for name, file in given.items() if name not in planes}
    hints = {name: canvas.fitted(plane, size, request.resize) for name, plane in planes.items()}
    back = None
    if image is not None and mask is not None:
        mask = canvas.fitted(mask, size, request.resize)
        box = canvas.boxed(mask, request.only_masked or 0)
        box = (0, 0, *size) if request.only_masked is None else box
        back = Back(image, mask, box, canvas.seam(factor))
    box = (0, 0, *size) if back is None else back.box
    part = (box[2] - box[0], box[3] - box[1])
    if part != size:
        part = canvas.at_area(part, sizes.area(sizes.nearest(part, trained)), factor)
    drawn = sizes.drawn(part, factor)
    edit = Edit(size, drawn, back=back, prompts=_prompts(request))
    if image is not None:
        edit = replace(edit, pixels=canvas.to_pixels(_placed(image, box, part, drawn)))
    if mask is not None:
        edit = replace(edit, mask=canvas.to_plane(_placed(mask, box, part, drawn)))
    return replace(edit, hints={n: canvas.to_plane(_placed(plane, box, part, drawn)) for n, plane in hints.items()})


def _prompts(request: Request) -> tuple[tuple[Image.Image, float], ...]:
    parsed = (ImagePrompt.parse(text) for text in request.image_prompt)
    return tuple((pictures.read_colours(prompt.name), prompt.weight) for prompt in parsed)


def _size(request: Request, own: Size) -> Size:
    """Width and height that are asked for, by default the picture's own. Raises UserError for one that cannot be."""
    width, height = (
        side if asked is None else asked for asked, side in zip((request.width, request.height), own, strict=True)
    )
    if min(width, height) < 8 or max(width, height) > Request.MAX_SIDE:
        raise UserError(
            f"The picture is {width}x{height} pixels; its sides must be from 8 to {Request.MAX_SIDE}: give a width "
            "and a height."
        )
    return width, height


def _mask(request: Request, image: Image.Image | None) -> Image.Image | None:
    """The mask at the size of the image. Raises UserError where it is of another shape."""
    if request.mask == "" or image is None:
        return None
    mask = pictures.read_mask(request.mask)
    if mask.size == image.size:
        return mask
    if not _alike(mask.size, image.size):
        raise UserError(
            f"The mask is {mask.width}x{mask.height} pixels and the image {image.width}x{image.height}: give a mask of "
            "the image's shape."
        )
    return mask.resize(image.size, canvas.scaling(mask))


def _alike(size: Size, other: Size) -> bool:
    """Whether two sizes are of one shape, to 2 % or as nearly as whole pixels of the smaller can have it."""
    wide, high = size[0] * other[1], size[1] * other[0]
    return abs(wide - high) <= max(0.02 * high, (max(size[0], other[0]) + max(size[1], other[1])) / 2)


def _taken(name: str, file: str) -> bool:
    """Whether a hint is to be taken from the image. Raises UserError for a hint that there is not."""
    return hint_named(name).kind == "depth" and pictures.estimator(file) is not None


def _plane(request: Request, name: str, file: str) -> Image.Image:
    """The plane of a hint, as it is given. Raises UserError where it says nothing."""
    hint = hint_named(name)
    picture = pictures.READERS[hint.kind](file)
    if hint.kind == "mask" and not picture.getbbox():
        raise UserError(f"The hint {name} is black everywhere, which says nothing: paint white what it is to say.")
    return hint.given(canvas.disparity(picture, request.depth_kind) if hint.kind == "depth" else picture)


def _estimated(name: str, file: str, image: Image.Image | None) -> Image.Image:
    """The plane of a hint that is taken from the image. Raises UserError where there is none."""
    if image is None:
        raise UserError("There is no image to take the depth map from: give image, or a depth map.")
    seen = depth_of(canvas.to_pixels(image), pictures.estimator(file) or "")
    return hint_named(name).given(Image.fromarray(seen[0, 0].float().numpy(), mode="F"))


def _shape_of(planes: Mapping[str, Image.Image], native: Size, factor: int) -> Size:
    """The size of a picture that is drawn on nothing but planes: of their shape and the native area.

    Raises UserError where they are of several shapes.
    """
    (first, shape), *others = ((name, plane.size) for name, plane in planes.items())
    for name, other in others:
        if not _alike(other, shape):
            raise UserError(
                f"The hint {first} is {shape[0]}x{shape[1]} pixels and the hint {name} {other[0]}x{other[1]}: give "
                "both in one shape."
            )
    return native if _alike(shape, native) else canvas.at_area(shape, sizes.area(native), factor)


def _beside(name: str, plane: Image.Image, own: Size, whole: Size, around: Sequence[int], size: Size) -> Image.Image:
    """The plane of a hint for an image of size `own` that is extended to be `whole`; one of the image goes along.

    Raises UserError where it is of neither's shape, nor as large as what is asked for, `size`.
    """
    of_whole = _alike(plane.size, whole)
    if any(around) and (plane.size == own or (_alike(plane.size, own) and not of_whole)):
        plane = plane if plane.size == own else plane.resize(own, canvas.scaling(plane))
        return canvas.padded(plane, around, 0 if plane.mode == "L" else None)
    if not of_whole and plane.size != size:
        raise UserError(
            f"The hint {name} is {plane.width}x{plane.height} pixels and the image {own[0]}x{own[1]}: give one of the "
            "image's shape."
        )
    return plane


def _placed(picture: Image.Image, box: Box, part: Size, drawn: sizes.Drawn) -> Image.Image:
    """What a box of the picture is, at the size `part`, in the middle of all that is drawn."""
    cut = picture if box == (0, 0, *picture.size) else picture.crop(box)
    cut = canvas.fitted(cut, part, "stretch")
    left, top, right, bottom = drawn.box
    around = (left, top, drawn.size[0] - right, drawn.size[1] - bottom)
    return canvas.padded(cut, around) if any(around) else cut


def surrounded(pixels: Tensor, mask: Tensor) -> Tensor:
    """Pixels [1 3 H W] whose masked part has the colours around it, as far as the mask [1 1 H W] says."""
    return pixels.lerp(canvas.filled(pixels, mask), mask)
