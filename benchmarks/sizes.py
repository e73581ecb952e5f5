"""Obedience beyond the trained size: what each way to keep one scene is worth, as a table and as sheets of pictures.

    python benchmarks/sizes.py [--model NAME|FOLDER] [-n N] [--categories ...] [--areas 1 2 4] [--upscales ...]
        [--sheets DIR] [--json FILE]

The same prompts and seeds at every size and with every way. A picture of any size is judged at 128 pixels, to which
the judge shrinks it. The first row is the model at its own size; "none" is naive drawing, and `auto` what is chosen.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mezzotint import Pipeline, load
from mezzotint.evaluate.judge import Judge, load_judge
from mezzotint.evaluate.obedience import Verdict, judge_pictures
from mezzotint.evaluate.scores import interval
from mezzotint.types import UPSCALES
from mezzotint.world.sheet import tiled

CATEGORIES = ("colors", "counting", "position", "color_attr", "three_in_order")


def side(trained: int, area: float, multiple: int) -> int:
    """The side of a square so many times the trained area, a multiple."""
    return round(trained * math.sqrt(area) / multiple) * multiple


def measure(
    pipe: Pipeline, judge: Judge, categories: Sequence[str], n: int, seed: int, changes: dict[str, Any]
) -> tuple[dict[str, float], list[Verdict], float]:
    """Shares of pictures that obey, all verdicts in the order of their prompts, and seconds a picture."""
    began, shares, verdicts = time.perf_counter(), {}, []
    for category in categories:
        of_it = sorted(
            judge_pictures(pipe, judge, category, n=n, seed=seed, changes=changes), key=lambda each: each.request.seed
        )
        shares[category] = sum(each.obeyed for each in of_it) / n
        verdicts += of_it
    return shares, verdicts, (time.perf_counter() - began) / (n * len(categories))


def main() -> None:
    """Measure, and print the table row by row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="still-life")
    parser.add_argument("-n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    parser.add_argument("--areas", nargs="+", type=float, default=[2.0, 4.0])
    parser.add_argument("--upscales", nargs="+", choices=UPSCALES, default=UPSCALES)
    parser.add_argument("--sheets", type=Path, default=None, metavar="DIR")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    pipe, (judge, _) = load(options.model, device="cpu"), load_judge()
    own, factor = pipe.size[0], pipe.codec.factor
    print(f"| pixels | upscale | {' | '.join(options.categories)} | mean | of native | s/picture |")
    print("|---|---|" + "---|" * (len(options.categories) + 3), flush=True)
    rows: list[dict[str, Any]] = []
    kinds = [(own, "none")] + [(side(own, area, factor), way) for area in options.areas for way in options.upscales]
    for pixels, way in kinds:
        changes = {"width": pixels, "height": pixels, "upscale": way}
        shares, verdicts, seconds = measure(pipe, judge, options.categories, options.n, options.seed, changes)
        mean = sum(shares.values()) / len(shares)
        low, high = interval(round(mean * len(verdicts)), len(verdicts))
        rows.append({"pixels": pixels, "upscale": way, **shares, "mean": mean, "low": low, "high": high, "s": seconds})
        cells = " | ".join(f"{share:.2f}" for share in shares.values())
        share = mean / max(rows[0]["mean"], 1e-9)
        print(f"| {pixels} | {way} | {cells} | {mean:.3f} | {share:.0%} | {seconds:.1f} |", flush=True)
        if options.sheets is not None:
            options.sheets.mkdir(parents=True, exist_ok=True)
            # One picture of every category in turn, so that a small sheet shows all of them.
            shown = [verdicts[c * options.n + i] for i in range(min(3, options.n)) for c in range(len(shares))]
            tiled([each.image for each in shown], columns=len(shares)).save(options.sheets / f"{pixels}-{way}.png")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
