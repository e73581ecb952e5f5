"""What size is drawn for the size that was asked for. Sizes are (width, height) in pixels; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

Size = tuple[int, int]

NEAR = 1.3
"""Up to so many times a trained area a model draws one scene without help; measured in docs/log.md."""


@dataclass(frozen=True)
class Drawn:
    """A size that a model can draw, and what of it is the picture."""

    size: Size
    """Width and height in pixels, both multiples of what the model wants."""
    box: tuple[int, int, int, int]
    """Left, top, right and bottom of the picture in it, as `PIL.Image.Image.crop` takes them."""


def drawn(size: Size, multiple: int) -> Drawn:
    """The smallest size of multiples that holds `size`, which is cut from its middle."""
    padded = tuple(-(-side // multiple) * multiple for side in size)
    left, top = ((large - side) // 2 for large, side in zip(padded, size, strict=True))
    return Drawn((padded[0], padded[1]), (left, top, left + size[0], top + size[1]))


def area(size: Size) -> int:
    """Pixels in all."""
    return size[0] * size[1]


def nearest(size: Size, trained: Iterable[Size]) -> Size:
    """The trained size whose aspect ratio is nearest to that of `size`, then the one of nearest area.

    Raises ValueError where there is none.
    """

    def distance(other: Size) -> tuple[float, float]:
        aspect = abs(math.log(size[0] * other[1] / (size[1] * other[0])))
        return round(aspect, 6), abs(math.log(area(size) / area(other)))

    return min(trained, key=distance)


def native(size: Size, trained: Size, multiple: int) -> Size:
    """The aspect ratio of `size` at about the area of `trained`, both sides multiples; never larger than `size`.

    Sides are rounded to the nearest multiple, and a side is at least one. `size` is of multiples itself.
    """
    shrink = min(1.0, math.sqrt(area(trained) / area(size)))
    width, height = (max(1, round(side * shrink / multiple)) * multiple for side in size)
    return min(width, size[0]), min(height, size[1])


def is_large(size: Size, trained: Iterable[Size]) -> bool:
    """Whether `size` is so far beyond every trained area that a scene would be repeated."""
    return area(size) > NEAR * max(map(area, trained))
