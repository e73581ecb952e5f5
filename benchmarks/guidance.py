"""Obedience against guidance: scales, intervals, and every guide at its defaults, on the judge's prompts.

    python benchmarks/guidance.py --out FOLDER [--model NAME|FOLDER] [--categories NAME ...] [--n N] [--scales X ...]
        [--intervals LOW:HIGH ...] [--guides GUIDE[,GUIDE] ...] [--scale X] [--weak MODEL] [--device D] [--steps N]
        [--sampler NAME] [--seed N]

Writes FOLDER/guidance.md, a table with a row for each setting; FOLDER/guidance.png, the first pictures of each setting
with the same prompts and seeds; and FOLDER/results.jsonl, a line for each setting and category once it is measured.
What is there already is not drawn again, so a run that was stopped goes on. A setting that cannot be drawn is told of
and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from mezzotint.evaluate.judge import Judge, load_judge
from mezzotint.evaluate.obedience import judge_pictures
from mezzotint.evaluate.prompts import CATEGORIES
from mezzotint.evaluate.scores import interval
from mezzotint.pipeline import Pipeline
from mezzotint.sampling.guides import GUIDES, chosen
from mezzotint.types import UserError

LABEL = 190
"""Pixels beside a row of pictures for what they were drawn with."""


@dataclass(frozen=True)
class Setting:
    """What a row of the table is drawn with."""

    scale: float
    guide: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the table tells it."""
        return " ".join([f"guidance {self.scale:g}", *self.guide])

    @property
    def stem(self) -> str:
        """As files are named."""
        return "".join(letter if letter.isalnum() or letter in "+-." else "_" for letter in self.name)


def settings(options: argparse.Namespace) -> list[Setting]:
    """Every setting once, in the table's order."""
    sweep = [Setting(scale) for scale in options.scales]
    around = [Setting(options.scale, (f"interval:{ends}",)) for ends in options.intervals]
    texts = list(options.guides)
    if not texts:
        texts = [name for name, guide in GUIDES.items() if not guide.model and name not in ("plain", "interval")]
        texts += [f"auto:{options.weak}"] if options.weak is not None else []
    guided = [Setting(options.scale, tuple(text.split(","))) for text in texts]
    alone = [Setting(1.0, one.guide) for one in guided if one.guide[0].partition(":")[0] in ("pag", "auto")]
    return list(dict.fromkeys([*sweep, Setting(options.scale), *around, *guided, *alone]))


def measured(
    pipe: Pipeline, judge: Judge, setting: Setting, category: str, options: argparse.Namespace
) -> dict[str, Any]:
    """One line of the results, with the first pictures saved beside them."""
    changes: dict[str, Any] = {"guidance": setting.scale, "guide": setting.guide}
    changes |= {name: getattr(options, name) for name in ("steps", "sampler") if getattr(options, name) is not None}
    right, began = 0, time.perf_counter()
    verdicts = judge_pictures(pipe, judge, category, n=options.n, seed=options.seed, changes=changes)
    pictures = options.out / "pictures"
    pictures.mkdir(exist_ok=True)
    for count, verdict in enumerate(verdicts, 1):
        right += verdict.obeyed
        row = verdict.request.seed - options.seed * 1_000_003
        if row < options.shown:
            verdict.image.save(pictures / f"{setting.stem}-{category}-{row}.png")
        if sys.stderr.isatty():
            print(f"\r{setting.name}, {category}: {count} of {options.n} ", end="", file=sys.stderr, flush=True)
    return {
        "setting": setting.name,
        "category": category,
        "right": right,
        "n": options.n,
        "seed": options.seed,
        "steps": options.steps,
        "sampler": options.sampler,
        "model": options.model,
        "seconds": round(time.perf_counter() - began, 2),
    }


def table(done: dict[tuple[str, str], dict[str, Any]], rows: Sequence[Setting], categories: Sequence[str]) -> str:
    """Markdown; every share with its 95% interval."""
    lines = [
        f"| setting | {' | '.join(categories)} | mean | seconds a picture |",
        "|---|" + "---|" * (len(categories) + 2),
    ]
    for setting in rows:
        found = [done.get((setting.name, category)) for category in categories]
        told = [line for line in found if line is not None]
        if not told:
            continue
        cells = ["" if line is None else share(line["right"], line["n"]) for line in found]
        mean = sum(line["right"] / line["n"] for line in told) / len(told)
        seconds = sum(line["seconds"] for line in told) / sum(line["n"] for line in told)
        lines.append(f"| {setting.name} | {' | '.join(cells)} | {mean:.2f} | {seconds:.2f} |")
    return "\n".join(lines) + "\n"


def share(right: int, n: int) -> str:
    """A share and its interval."""
    low, high = interval(right, n)
    return f"{right / n:.2f} ({low:.2f} to {high:.2f})"


def sheet(rows: Sequence[Setting], categories: Sequence[str], options: argparse.Namespace) -> Image.Image | None:
    """The first pictures of every setting in a row, their prompts' category above; None where there is none."""
    columns = [(category, row) for category in categories for row in range(options.shown)]
    found: list[tuple[Setting, list[Image.Image | None]]] = []
    for setting in rows:
        paths = [options.out / "pictures" / f"{setting.stem}-{category}-{row}.png" for category, row in columns]
        images = [Image.open(path).convert("RGB") if path.is_file() else None for path in paths]
        if any(images):
            found.append((setting, images))
    if not found:
        return None
    width, height = next(image.size for _, images in found for image in images if image is not None)
    gap, top = 4, 18
    canvas = Image.new("RGB", (LABEL + len(columns) * (width + gap), top + len(found) * (height + gap)), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, category in enumerate(categories):
        pen.text((LABEL + number * options.shown * (width + gap), 2), category, fill="#333333", font=font)
    for line, (setting, images) in enumerate(found):
        y = top + line * (height + gap)
        pen.multiline_text((4, y + 4), setting.name.replace(" ", "\n").replace("\n", " ", 1), fill="#333333", font=font)
        for column, image in enumerate(images):
            if image is not None:
                canvas.paste(image, (LABEL + column * (width + gap), y))
    return canvas


def earlier(options: argparse.Namespace) -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured before with the same numbers, by setting and category."""
    done: dict[tuple[str, str], dict[str, Any]] = {}
    path = options.out / "results.jsonl"
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        line = json.loads(text)
        if all(line[name] == getattr(options, name) for name in ("n", "seed", "steps", "sampler", "model")):
            done[line["setting"], line["category"]] = line
    return done


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--model", default="still-life")
    parser.add_argument("--categories", nargs="+", default=["single_object", "color_attr"], choices=list(CATEGORIES))
    parser.add_argument("--n", type=int, default=50, help="pictures a setting and category")
    parser.add_argument("--scales", nargs="*", type=float, default=[1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 12.0])
    parser.add_argument(
        "--intervals",
        nargs="*",
        default=["0:1", "0.28:5.42", "0.28:20", "1:20", "1:5000", "0:5.42"],
        metavar="LOW:HIGH",
    )
    parser.add_argument("--guides", nargs="*", default=[], metavar="GUIDE", help="by default each, at its defaults")
    parser.add_argument("--scale", type=float, default=5.0, help="the guidance of intervals and guides")
    parser.add_argument("--weak", default=None, metavar="MODEL", help="a worse model, for autoguidance")
    parser.add_argument("--shown", type=int, default=3, help="pictures of a setting and category on the sheet")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--sampler", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=None)
    return parser.parse_args()


def main() -> None:
    """Measure what is not measured yet, and write the table and the sheet after every setting."""
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, done = settings(options), earlier(options)
    for setting in rows:
        chosen(setting.guide)
    import mezzotint

    pipe, (judge, _) = mezzotint.load(options.model, options.device), load_judge()
    for setting in rows:
        try:
            for category in options.categories:
                if (setting.name, category) in done:
                    continue
                line = measured(pipe, judge, setting, category, options)
                done[setting.name, category] = line
                with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{setting.name}, {category}: {share(line['right'], line['n'])}", flush=True)
        except UserError as error:
            print(f"{setting.name} is left out: {error}", file=sys.stderr)
            continue
        (options.out / "guidance.md").write_text(table(done, rows, options.categories), encoding="utf-8")
        canvas = sheet(rows, options.categories, options)
        if canvas is not None:
            canvas.save(options.out / "guidance.png", optimize=True)
    print(table(done, rows, options.categories))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
