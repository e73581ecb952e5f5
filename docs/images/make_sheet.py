"""Draw the README's sheet with the shipped model: `python docs/images/make_sheet.py`."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import mezzotint

SEED = 7
COLUMNS = 5
SHOWN = 128
"""Pixels that a smaller picture is enlarged to, every pixel a square."""
ROOM = 34
"""Pixels below a picture for its words."""
PROMPTS = (
    "a red sphere",
    "a shiny blue cube on a tiled table",
    "an orange pyramid",
    "a large green cone",
    "a pink donut on slate",
    "a red sphere to the left of a blue cube",
    "a yellow cylinder and a purple sphere",
    "a white cube in front of a black sphere",
    "two green cones",
    "three yellow balls on a wooden table",
    "four red cubes",
    "two blue spheres and a white cone",
    "a cyan sphere",
    "a purple cube to the right of a yellow cone",
    "from left to right: a red cube, a green sphere and a blue cone",
)


def main() -> None:
    """Every prompt with the same seed, nothing chosen by hand."""
    pipe = mezzotint.load("still-life", device="cpu")
    images = pipe(list(PROMPTS), seed=[SEED] * len(PROMPTS))
    scale = max(1, SHOWN // pipe.size[0])
    width, height = (side * scale for side in pipe.size)
    images = [image.resize((width, height), Image.Resampling.NEAREST) for image in images]
    rows = -(-len(images) // COLUMNS)
    gap = 8
    sheet = Image.new("RGB", (COLUMNS * (width + gap) + gap, rows * (height + ROOM + gap) + gap), "#f4f1ea")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (image, prompt) in enumerate(zip(images, PROMPTS, strict=True)):
        x, y = gap + number % COLUMNS * (width + gap), gap + number // COLUMNS * (height + ROOM + gap)
        sheet.paste(image, (x, y))
        pen.multiline_text((x, y + height + 3), textwrap.fill(prompt, 24), fill="#333333", font=font, spacing=1)
    target = Path(__file__).with_name("sheet.png")
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main()
