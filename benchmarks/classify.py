"""Classifier guidance: how often a picture drawn from the empty prompt shows what its classifier was told to look for.

    python benchmarks/classify.py [--n N] [--scales S ...] [--kinds pair shape colour ...] [--prompt TEXT]
        [--guidance G] [--steps N] [--sampler NAME] [--model NAME|DIR] [--sheet FILE.png]

Every picture is asked for one thing, evenly over all shapes and colours: a pair such as "red sphere", one of the pairs
that no model was trained on (held-out), a shape, a colour, or a number of them ("two red spheres"). It is right where
the judge finds it among the solids of the picture, and, for a number, finds exactly so many. What chance gives stands
in the row of scale 0, for the same seeds. The sheet has a row of eight pictures for every row of the table.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

import mezzotint
from mezzotint import Pipeline
from mezzotint.evaluate.judge import Found, Judge, load_judge
from mezzotint.evaluate.obedience import pixels_of
from mezzotint.evaluate.scores import interval
from mezzotint.world.scene import COLOURS, HELD_OUT_PAIRS, SHAPES
from mezzotint.world.sheet import Sheet
from mezzotint.world.style import plural

SEEN = [pair for pair in product(SHAPES, COLOURS) if pair not in HELD_OUT_PAIRS]
COLUMNS = 8


@dataclass(frozen=True)
class Asked:
    """What is to be seen; "" is any, and no number is at least one."""

    shape: str = ""
    colour: str = ""
    number: int | None = None

    @property
    def words(self) -> str:
        """As a request has it."""
        noun = self.shape if self.number in (None, 1) else plural(self.shape)
        return f"{self.number or ''} {self.colour} {noun}".strip()

    def seen(self, found: Sequence[Found]) -> bool:
        """Whether it is among what the judge found."""
        count = sum(self.shape in ("", one.shape) and self.colour in ("", one.colour) for one in found)
        return count > 0 if self.number is None else count == self.number


KINDS = {
    "pair": [Asked(shape, colour) for shape, colour in SEEN],
    "held-out": [Asked(shape, colour) for shape, colour in sorted(HELD_OUT_PAIRS)],
    "shape": [Asked(shape=shape) for shape in SHAPES],
    "colour": [Asked(colour=colour) for colour in COLOURS],
    "number": [Asked(shape, colour, number) for (shape, colour), number in product(SEEN, (1, 2, 3))],
}


def measure(
    pipe: Pipeline, judge: Judge, asked: Sequence[Asked], scale: float, changes: dict[str, Any]
) -> tuple[int, list[Image.Image]]:
    """How many pictures show what was asked for, and the first few of them."""
    told = [(f"{one.words}:{scale}",) if scale != 0 else () for one in asked]
    requests = [pipe.request(**{**changes, "seed": 5000 + row, "classify": words}) for row, words in enumerate(told)]
    right, images = 0, dict[int, Image.Image]()
    for picture in pipe.draw(requests):
        (found,) = judge.find(pixels_of(picture.image)[None])
        right += asked[picture.index].seen(found)
        if picture.index < COLUMNS:
            images[picture.index] = picture.image
    return right, [images[index] for index in sorted(images)]


def main() -> None:
    """Print a Markdown table and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="still-life")
    parser.add_argument("--n", type=int, default=54, help="pictures a row")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["pair"])
    parser.add_argument("--prompt", default="")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--sampler")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    pipe, (judge, _) = mezzotint.load(options.model), load_judge()
    changes: dict[str, Any] = {name: getattr(options, name) for name in ("prompt", "guidance", "steps", "sampler")}
    changes = {name: value for name, value in changes.items() if value is not None}
    sheet = Sheet(len(options.kinds) * len(options.scales) * COLUMNS, pipe.size, COLUMNS)
    print("| asked for | scale | right object | 95% interval | n | seconds a picture |\n|---|---|---|---|---|---|")
    for kind, scale in product(options.kinds, options.scales):
        order = KINDS[kind] * -(-options.n // len(KINDS[kind]))
        asked = random.Random(0).sample(order, options.n)
        began = time.perf_counter()
        right, images = measure(pipe, judge, asked, scale, changes)
        seconds = (time.perf_counter() - began) / options.n
        low, high = interval(right, options.n)
        share = f"{right / options.n:.1%} | {low:.0%} to {high:.0%}"
        print(f"| {kind} | {scale:g} | {share} | {options.n} | {seconds:.2f} |", flush=True)
        for image in images + [Image.new("RGB", pipe.size, "white")] * (COLUMNS - len(images)):
            sheet.add(image)
    if options.sheet is not None:
        sheet.image.save(options.sheet)


if __name__ == "__main__":
    main()
