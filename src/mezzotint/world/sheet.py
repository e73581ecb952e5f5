"""Many pictures on one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

GAP = 4
"""Pixels between pictures."""


def tiled(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size, row after row, as nearly square as can be unless the number of columns is given."""
    columns = math.ceil(math.sqrt(len(images))) if columns is None else columns
    rows = math.ceil(len(images) / columns)
    width, height = images[0].width + GAP, images[0].height + GAP
    whole = Image.new("RGB", (columns * width - GAP, rows * height - GAP), "white")
    for number, image in enumerate(images):
        whole.paste(image, (number % columns * width, number // columns * height))
    return whole
