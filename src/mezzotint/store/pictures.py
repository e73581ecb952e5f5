"""Pictures that a user gives: to begin from, masks, depth maps. Read into plain values; imports no torch.

A request names each by its file, or one in memory by what it holds (`store.memory`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import ExifTags, Image

from mezzotint.store.memory import Held, plane_of
from mezzotint.store.paths import full_path
from mezzotint.types import IN_MEMORY, PICTURES, ImagePrompt, Request, UserError

if TYPE_CHECKING:
    import numpy as np

AUTO = "auto"
"""What stands in the place of a depth map's file where one is to be taken from the picture."""
TOP = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "I": 65535}
"""The value of white in pictures of one channel with more than 8 bits, by Pillow's mode."""
REC_709 = {"R": 0.2126, "G": 0.7152, "B": 0.0722}
"""The shares of the channels in the luminance that OpenEXR calls Y."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture upright, by EXIF's orientation."""
TURNED_BY = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""What Pillow reads the orientation from, in a picture's info."""


def located(request: Request) -> Request:
    """The request with full names of its pictures."""
    hint = tuple(
        text if isinstance(text, Held) else f"{name}:{full_name(file)}"
        for text, (name, _, file) in ((text, text.partition(":")) for text in request.hint)
    )
    prompts = (ImagePrompt.parse(text) for text in request.image_prompt)
    image_prompt = tuple(str(replace(prompt, name=full_name(prompt.name))) for prompt in prompts)
    single = {name: full_name(getattr(request, name)) for name in PICTURES}
    return request.but(hint=hint, image_prompt=image_prompt, **single)


def picture_names(request: Request) -> list[str]:
    """The full names of a request's pictures, in the order of its fields."""
    found = located(request)
    hint = [text if isinstance(text, Held) else text.partition(":")[2] for text in found.hint]
    prompts = (ImagePrompt.parse(text).name for text in found.image_prompt)
    names = (*(getattr(found, field) for field in PICTURES), *hint, *prompts)
    return [name for name in names if name != "" and estimator(name) is None]


def full_name(name: str) -> str:
    """The name from wherever one stands; that of a picture in memory is itself."""
    if name == "" or name.startswith(IN_MEMORY) or estimator(name) is not None:
        return name
    return full_path(name)


def read_colours(name: str) -> Image.Image:
    """The picture in RGB, turned as its EXIF says, on white where it is transparent.

    Raises UserError for a file that is missing or no picture.
    """
    return _opaque(name, "white").convert("RGB")


def read_mask(name: str) -> Image.Image:
    """The picture in grey, mode L: 255 where it is white, 0 where it is black or transparent.

    Real numbers are shares, from 0 to 1; zeros and ones are black and white; 16 bits in which nothing is above 255, as
    the numbers of labels are, are taken for 8. Raises as above, and for other numbers.
    """
    picture = _opaque(name, "black", mask=True)
    return (picture.convert("RGB") if picture.mode == "LAB" else picture).convert("L")


def read_depth(name: str) -> Image.Image:
    """The numbers of a depth map, mode F, as they are stored: of a picture with 8 or 16 bits, an .exr or a .npy.

    Of pictures with colours it is the luminance. Raises UserError for a file that is missing or of another kind, for
    numbers that are NaN, and for a map that is the same everywhere, which says nothing.
    """
    import numpy as np

    ending = "" if isinstance(name, Held) else Path(name).suffix.lower()
    if ending in (".npy", ".exr"):
        values = _numpy(name) if ending == ".npy" else _exr(name)
    else:
        held = name.picture if isinstance(name, Held) else None
        if held is not None and not isinstance(held, Image.Image):
            values = np.asarray(held)
        else:
            picture = _turned(name)
            if picture.mode not in (*TOP, "F", "L", "1"):
                picture = picture.convert("RGB").convert("L")
            values = np.asarray(picture)
    with np.errstate(over="ignore"):
        values = np.asarray(values, dtype=np.float32)
    if values.ndim != 2 or values.size == 0:
        raise UserError(f"The depth map {name} has the shape {list(values.shape)}; it must be height by width.")
    if np.isnan(values).any():
        raise UserError(f"The depth map {name} holds NaN: fill in what is not known.")
    if values.min() == values.max():
        raise UserError(f"The depth map {name} is {values.flat[0]:g} everywhere, which says nothing: give another.")
    return Image.fromarray(values, mode="F")


def estimator(name: str) -> str | None:
    """By what a depth map is to be taken from the picture, "" our own, where "auto" or "auto:MODEL" is in its place."""
    return name.partition(":")[2] if name == AUTO or name.startswith(f"{AUTO}:") else None


READERS = {"colours": read_colours, "mask": read_mask, "depth": read_depth}
"""How a picture is read, by what it is taken for."""


def check_there(name: str) -> None:
    """Raise UserError where there is no such file, or it was given in memory to another process."""
    if isinstance(name, Held) or name == "":
        return
    if name.startswith(IN_MEMORY) or f":{IN_MEMORY}" in name:
        raise UserError(f"The picture {name} was given in memory and is gone: give its file.")
    try:
        there = Path(name).is_file()
    except OSError:
        there = False
    if not there:
        raise UserError(f"There is no picture {name}: give the name of a file.")


def check_picture(name: str) -> None:
    """Raise UserError for a file that does not begin as a picture does."""
    _turned(name, whole=False)


def _opaque(name: str, ground: str, *, mask: bool = False) -> Image.Image:
    """The picture upright in 8 bits, on a ground of this colour where it is transparent; of numbers if it is a mask."""
    picture = _turned(name)
    if picture.has_transparency_data and picture.mode not in TOP:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)
    if 0 in picture.size:
        raise UserError(f"{name} has no pixels: give another picture.")
    return _numbers(picture, name) if mask and picture.mode in (*TOP, "L", "F") else _eight_bits(picture, name)


def _turned(name: str, *, whole: bool = True) -> Image.Image:
    """The picture as it is stored, upright; not `whole`, its head alone is read."""
    check_there(name)
    try:
        if isinstance(name, Held):
            held = name.picture
            return _upright(held) if isinstance(held, Image.Image) else Image.fromarray(held, mode="F")
        with Image.open(name) as opened:
            if not whole:
                return opened
            opened.load()
            return _upright(opened)
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} has more pixels than are read here: make it smaller.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name} is not a picture, or is damaged: give a PNG, a JPEG or a WebP.") from error


def _upright(picture: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says, if that can be read."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, struct.error):
        turn = None
    if turn is None:
        return picture.copy()
    turned = picture.transpose(turn)
    for key in TURNED_BY:  # Or what is upright now would be turned once more.
        turned.info.pop(key, None)
    return turned


def _numbers(picture: Image.Image, name: str) -> Image.Image:
    """A mask of one channel brought to 8 bits, by what its numbers are (`read_mask`)."""
    import numpy as np

    values = np.asarray(picture)
    if picture.mode == "F" and not ((values >= 0) & (values <= 1)).all():
        told = f"from {values.min():g} to {values.max():g}"
        raise UserError(f"{name} holds numbers {told}: give shares from 0 to 1, whole ones up to 255, or bools.")
    if picture.mode != "F" and 1 < values.max() <= 255:
        return Image.fromarray(values.clip(0).astype(np.uint8))
    top = 1 if values.max() <= 1 else TOP[picture.mode]
    return Image.fromarray((values.astype(np.float64) * (255 / top)).round().clip(0, 255).astype(np.uint8))


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """A picture of one channel with 16 bits brought to 8, others as they are."""
    import numpy as np

    if picture.mode in TOP:
        values = np.asarray(picture).astype(np.float64) * (255 / TOP[picture.mode])
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if picture.mode == "F":
        raise UserError(f"{name} holds real numbers, not colours: give a PNG, a JPEG or a WebP.")
    return picture


def _numpy(name: str) -> np.ndarray[Any, Any]:
    import numpy as np

    check_there(name)
    try:
        values = plane_of(np.load(name, allow_pickle=False))
        if values.dtype.kind not in "biuf":
            raise TypeError(values.dtype)
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UserError(f"{name} holds no array of numbers: write it with numpy.save.") from error


def _exr(name: str) -> np.ndarray[Any, Any]:
    """What an OpenEXR file says of depth, or the luminance of its colours, or its only channel beside A.

    Raises UserError where it has none of these, or depth several times.
    """
    check_there(name)
    try:
        import OpenEXR  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError as error:
        raise UserError(f"Reading {name} needs OpenEXR: pip install OpenEXR, or give a .npy.") from error
    reader: Any = OpenEXR
    try:
        with reader.File(name, separate_channels=True) as file:
            channels = {key: one.pixels for key, one in cast("dict[str, Any]", file.channels()).items()}
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{name} is no OpenEXR file, or is damaged.") from error
    depth = _depth_channels(channels)
    if len(depth) == 1:
        return channels[depth[0]]
    grey = ["Y"] if "Y" in channels else [key for key in channels if key != "A"]
    if not depth and len(grey) == 1:
        return channels[grey[0]]
    if not depth and set(REC_709) <= set(channels):
        import numpy as np

        return np.sum([share * channels[key] for key, share in REC_709.items()], axis=0)
    raise UserError(f"{name} has the channels {', '.join(channels)}; one of them alone must be Z or depth.")


def _depth_channels(names: Iterable[str]) -> list[str]:
    """Which channels, LAYER.CHANNEL, hold depth: Z or depth of no layer, or else of any, or any of a layer "depth".

    A Z beside an X is a direction's.
    """
    words = {name: name.lower().split(".") for name in names}
    directions = [where for *where, last in words.values() if last == "x"]
    found = [
        name
        for name, (*where, last) in words.items()
        if (last in ("z", "depth") or "depth" in where) and where not in directions
    ]
    return [name for name in found if "." not in name] or found
