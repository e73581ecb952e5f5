"""Many pictures on one."""

from __future__ import annotations

import pytest
from PIL import Image

from mezzotint.types import UserError
from mezzotint.world import sheet as module
from mezzotint.world.sheet import Sheet, tiled

RED, BLUE = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (6, 4), "blue")


def test_rows_as_nearly_square_as_can_be():
    made = tiled([RED, BLUE, RED])
    assert made.size == (2 * 6 + 4, 2 * 4 + 4)
    assert made.getpixel((0, 0)) == made.getpixel((0, 8)) == (255, 0, 0)
    assert made.getpixel((10, 0)) == (0, 0, 255)
    assert made.getpixel((10, 8)) == made.getpixel((7, 0)) == (255, 255, 255)
    assert tiled([RED, BLUE, RED], columns=3).size == (3 * 6 + 8, 4)


def test_a_sheet_that_is_too_large_is_refused_or_shrunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_SIDE", 20)
    with pytest.raises(UserError, match="3 pictures of 10x6 pixels would be 24x16 large; the most is 20x20"):
        Sheet(3, (10, 6))
    sheet = Sheet(3, (10, 6), shrink=True)
    sheet.add(Image.new("RGB", (10, 6), "red"))
    sheet.add(Image.new("RGB", (10, 6), "blue"))
    assert sheet.image.size == (2 * 5 + 4, 2 * 3 + 4)
    assert sheet.image.getpixel((4, 2)) == (255, 0, 0)
    assert sheet.image.getpixel((9, 0)) == (0, 0, 255)
    assert Sheet(1, (20, 20), shrink=True).image.size == (20, 20)
