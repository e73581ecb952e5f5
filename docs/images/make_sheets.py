"""Draw the documentation's other sheets with the shipped model: `python docs/images/make_sheets.py`.

large.webp: a row for each way to draw at four times the trained area, the picture at the trained size first.
guidance.webp: a row for each scale of guidance, and for scale 5 under each guide. All with seed 7, none chosen by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import mezzotint

SEED = 7
LABEL = 96
"""Pixels beside a row for what it was drawn with."""
GAP = 4
PROMPTS = (
    "a green cone",
    "three cyan rings",
    "a red cube to the left of a blue sphere",
    "a yellow cylinder and a purple sphere",
    "a sphere and a cube",
)
SIZES = {"width": 256, "height": 256}
LARGE: dict[str, dict[str, Any]] = {
    "128 pixels": {},
    **{way: {"upscale": way, **SIZES} for way in ("none", "dilated", "tiles", "two-pass")},
}
GUIDED: dict[str, dict[str, Any]] = {
    **{f"guidance {scale:g}": {"guidance": scale} for scale in (1.0, 2.0, 5.0, 8.0, 12.0)},
    "8 rescale": {"guidance": 8.0, "guide": ["rescale"]},
    **{f"5 {guide}": {"guide": [guide]} for guide in ("interval:0.3:20", "apg", "pag")},
    "cfg++": {"guide": ["cfg++"], "sampler": "euler"},
}


def sheet(pipe: mezzotint.Pipeline, rows: dict[str, dict[str, Any]], side: int) -> Image.Image:
    """A row of pictures for each setting, every picture `side` pixels high and wide."""
    width = LABEL + len(PROMPTS) * (side + GAP)
    whole = Image.new("RGB", (width, len(rows) * (side + GAP) - GAP), "#f4f1ea")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(11)
    for row, (label, changes) in enumerate(rows.items()):
        y = row * (side + GAP)
        pen.text((4, y + side // 2), label, fill="#333333", font=font, anchor="lm")
        for column, image in enumerate(pipe(list(PROMPTS), seed=[SEED] * len(PROMPTS), **changes)):
            whole.paste(image.resize((side, side), Image.Resampling.LANCZOS), (LABEL + column * (side + GAP), y))
    return whole


def main() -> None:
    """Both sheets, beside this file."""
    pipe = mezzotint.load("still-life", device="cpu")
    for name, rows, side in (("large", LARGE, 192), ("guidance", GUIDED, 112)):
        sheet(pipe, rows, side).save(Path(__file__).with_name(f"{name}.webp"), quality=82)


if __name__ == "__main__":
    main()
