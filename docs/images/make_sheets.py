"""Draw the documentation's other sheets with the shipped model: `python docs/images/make_sheets.py`.

large.webp: a row for each way to draw at four times the trained area, the picture at the trained size first.
guidance.webp: a row for each scale of guidance, and for scale 5 under each guide. Both with seed 7.
classifier.webp: no prompt, and a column for each thing that the classifier was told to look for, with seeds from 7 on.
edit.webp: a picture, another prompt from it at strengths of 0.2, 0.5, 0.7, 0.8 and 1, and its right half repainted.
conditioners.webp: the depth, the silhouettes and the edges of a scene kept out of training, given first, and then what
is drawn by them of five prompts; and its picture, and what is drawn after it without words with seeds from 7 on.
None was chosen by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import mezzotint
from mezzotint.conditioning.hints import Truth, hint_named
from mezzotint.vae.codec import to_uint8
from mezzotint.world.render import render
from mezzotint.world.scene import Scenes, random_scenes

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
PAIRS = ("red sphere", "blue cube", "green cone", "yellow torus", "white cylinder", "orange pyramid")
STRENGTHS = (0.2, 0.5, 0.7, 0.8, 1.0)
REPAINTED = ("a green cone", "a yellow torus", "a white cylinder", "a pink sphere", "an orange cube")
LAID = (("red", "green"), ("blue", "yellow"), ("purple", "cyan"), ("white", "black"), ("orange", "pink"))
SIZES = {"width": 256, "height": 256}
LARGE: dict[str, dict[str, Any]] = {
    "128 pixels": {},
    **{way: {"upscale": way, **SIZES} for way in ("none", "dilated", "tiles", "two-pass")},
}
GUIDED: dict[str, dict[str, Any]] = {
    **{f"guidance {scale:g}": {"guidance": scale, "guide": ["plain"]} for scale in (1.0, 2.0, 5.0, 8.0, 12.0)},
    "8 rescale": {"guidance": 8.0, "guide": ["rescale"]},
    "5 above sigma 1": {"guide": ["interval:1:1000000"]},
    **{f"5 {guide}": {"guide": [guide]} for guide in ("apg", "pag")},
    "cfg++": {"guide": ["cfg++"], "sampler": "euler"},
}


def drawn(pipe: mezzotint.Pipeline, rows: dict[str, dict[str, Any]]) -> dict[str, list[Image.Image]]:
    """The prompts, drawn with each setting."""
    return {label: pipe(list(PROMPTS), seed=[SEED] * len(PROMPTS), **changes) for label, changes in rows.items()}


def steered(pipe: mezzotint.Pipeline) -> dict[str, list[Image.Image]]:
    """Without a prompt, steered by the classifier at each scale."""
    return {
        f"scale {scale}": [
            pipe("", seed=SEED + place, guidance=1.0, classify=(f"{pair}:{scale}",)) for place, pair in enumerate(PAIRS)
        ]
        for scale in (0, 10, 30, 60)
    }


def edited(pipe: mezzotint.Pipeline) -> dict[str, list[Image.Image]]:
    """A picture first, then what becomes of it by strength, and where its right half is repainted."""
    begun = pipe("a red sphere to the left of a blue cube", seed=SEED)
    half = Image.new("L", begun.size)
    half.paste(255, (begun.width // 2, 0, *begun.size))
    other = "a green cone to the left of a yellow cylinder"
    return {
        "strength": [begun, *(pipe(other, seed=SEED, image=begun, strength=share) for share in STRENGTHS)],
        "mask": [begun, *(pipe(words, seed=SEED, image=begun, mask=half) for words in REPAINTED)],
    }


def conditioned(pipe: mezzotint.Pipeline) -> dict[str, list[Image.Image]]:
    """What is given first, then what is drawn by it."""
    scene = pair()
    drawn = render(scene, pipe.size[0])
    depth, solid = 1 / drawn.depth[0], drawn.masks[0].sum(dim=0).clamp(max=1)
    near = grey((depth - depth.min()) / (depth.max() - depth.min()))
    shape = grey(solid)
    lines = grey(hint_named("edges").known(Truth(drawn.pixels, drawn.depth[:, None], solid[None, None]))[0, 0])
    whole = Image.fromarray(to_uint8(drawn.pixels)[0].numpy())
    left, right = (solid.shape for solid in scene.describe()[0].left_to_right())
    told = [f"a {one} {left} to the left of a {other} {right}" for one, other in LAID]
    return {
        "depth": [near, *(pipe(words, seed=SEED, depth=near) for words in told)],
        "silhouette": [shape, *(pipe(words, seed=SEED, silhouette=shape) for words in told)],
        "edges": [lines, *(pipe(words, seed=SEED, hint={"edges": lines}) for words in told)],
        "image prompt": [whole, *(pipe("", seed=SEED + more, image_prompt=whole) for more in range(len(LAID)))],
    }


def pair() -> Scenes:
    """A scene of two different solids kept out of training."""
    scenes = random_scenes(64, SEED, held_out=True)
    told = [[solid.shape for solid in scene.solids] for scene in scenes.describe()]
    row = next(row for row, shapes in enumerate(told) if len(shapes) == len(set(shapes)) == 2)
    return scenes.take(slice(row, row + 1))


def grey(plane: Tensor) -> Image.Image:
    """A plane [H W] of 0 to 1."""
    return Image.fromarray(plane.mul(255).round().byte().numpy())


def sheet(rows: dict[str, list[Image.Image]], side: int) -> Image.Image:
    """A row of pictures for each label, every picture `side` pixels high and wide."""
    columns = max(map(len, rows.values()))
    whole = Image.new("RGB", (LABEL + columns * (side + GAP), len(rows) * (side + GAP) - GAP), "#f4f1ea")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(11)
    for row, (label, images) in enumerate(rows.items()):
        y = row * (side + GAP)
        pen.text((4, y + side // 2), label, fill="#333333", font=font, anchor="lm")
        for column, image in enumerate(images):
            whole.paste(
                image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (LABEL + column * (side + GAP), y)
            )
    return whole


def main() -> None:
    """All sheets, beside this file."""
    pipe = mezzotint.load("still-life", device="cpu")
    sheets = {
        "large": (drawn(pipe, LARGE), 192),
        "guidance": (drawn(pipe, GUIDED), 112),
        "classifier": (steered(pipe), 112),
        "edit": (edited(pipe), 112),
        "conditioners": (conditioned(pipe), 112),
    }
    for name, (rows, side) in sheets.items():
        sheet(rows, side).save(Path(__file__).with_name(f"{name}.webp"), quality=82)


if __name__ == "__main__":
    main()
