"""Many pictures on one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from mezzotint.types import UserError

GAP = 4
"""Pixels between pictures."""
MAX_SIDE = 16383
"""Pixels: no sheet is wider or higher, so that it fits into memory and every kind of picture can hold it."""


class Sheet:
    """A white picture with places for `count` pictures of one size, row after row, to be filled one by one."""

    def __init__(self, count: int, size: tuple[int, int], columns: int | None = None, *, shrink: bool = False) -> None:
        """Make room for pictures of `size`, width and height in pixels.

        The sheet is as nearly square as can be unless the number of columns is given. One that would exceed MAX_SIDE
        holds pictures made smaller by a whole number if they may `shrink`; otherwise UserError is raised.
        """
        self.columns = math.ceil(math.sqrt(count)) if columns is None else columns
        rows = math.ceil(count / self.columns)
        room = (MAX_SIDE + GAP) // max(self.columns, rows) - GAP
        self._smaller = math.ceil(max(size) / max(room, 1)) if shrink else 1
        self._width, self._height = (math.ceil(side / self._smaller) + GAP for side in size)
        width, height = self.columns * self._width - GAP, rows * self._height - GAP
        if max(width, height) > MAX_SIDE:
            raise UserError(
                f"A sheet of {count} pictures of {size[0]}x{size[1]} pixels would be {width}x{height} large; the most "
                f"is {MAX_SIDE}x{MAX_SIDE}: ask for fewer, or for smaller ones."
            )
        self.image = Image.new("RGB", (width, height), "white")
        self._filled = 0

    def add(self, image: Image.Image) -> None:
        """Put a picture into the next place."""
        row, column = divmod(self._filled, self.columns)
        self.image.paste(image.reduce(self._smaller), (column * self._width, row * self._height))
        self._filled += 1


def tiled(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size on a `Sheet`, made smaller where they would not fit."""
    sheet = Sheet(len(images), images[0].size, columns, shrink=True)
    for image in images:
        sheet.add(image)
    return sheet.image
