"""Image to image: what more strength changes, and how far colours go where a picture is drawn over and over."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mezzotint.evaluate.cases import Case, Look, Row, Still, Studio, caption, levels, wanted
from mezzotint.evaluate.obedience import obeys
from mezzotint.evaluate.prompts import Wanted
from mezzotint.evaluate.scores import Figure, counted, rises, score

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ROUNDS, ROUND_STRENGTH = 10, 0.3
"""How often a picture is drawn from itself, and how much of it each time."""
DRIFTS = {"drift": True, "drift uncorrected": False}
"""Names of scores, and whether the request keeps colours."""
PICTURES = len(STRENGTHS) + len(DRIFTS) * ROUNDS


@dataclass(frozen=True, kw_only=True)
class Change(Case):
    """A picture that shall become another's."""

    own: str
    """A caption of the picture itself."""
    image: Image.Image


def cases(scenes: Iterator[Still], chooser: random.Random) -> Iterator[Change]:
    """A scene's picture, told as another scene."""
    for still, other in zip(scenes, scenes, strict=True):
        asked, before = wanted(other.scene), levels(still.image)

        def measure(
            look: Look, asked: tuple[Wanted, ...] = asked, before: np.ndarray[Any, Any] = before
        ) -> dict[str, Figure]:
            return {
                "change": Figure(float(np.abs(levels(look.image) - before).mean())),
                "obeyed": counted(obeys(asked, look.found)),
            }

        yield Change(
            prompt=caption(other.scene, chooser).text,
            given={"image": still.image},
            shown=(still.image,),
            measure=measure,
            own=caption(still.scene, chooser).text,
            image=still.image,
        )


def draw(studio: Studio, cases: Sequence[tuple[int, Change]]) -> list[Row]:
    """Every case at each strength from the same noise, and its own picture drawn from itself again and again."""
    asked = [
        [studio.request(case.prompt, row, case.given | {"strength": strength}) for strength in STRENGTHS]
        for row, case in cases
    ]
    flat = iter(studio.draw([request for row in asked for request in row]))
    images = [[next(flat) for _ in row] for row in asked]
    drifted = {name: _drifted(studio, cases, keep) for name, keep in DRIFTS.items()}
    rows: list[Row] = []
    for place, (_, case) in enumerate(cases):
        looks = [studio.look(image) for image in images[place]]
        figures = {
            f"{name} at {strength}": figure
            for strength, look in zip(STRENGTHS, looks, strict=True)
            for name, figure in case.measure(look).items()
        }
        ends = [each[place] for each in drifted.values()]
        figures |= {name: Figure(_shift(case.image, end)) for name, end in zip(DRIFTS, ends, strict=True)}
        worth = figures[f"obeyed at {STRENGTHS[-1]}"].value
        rows.append(Row(case, asked[place][-1], (*images[place], *ends), looks[-1].found, figures, worth))
    return rows


def _drifted(studio: Studio, cases: Sequence[tuple[int, Change]], keep: bool) -> list[Image.Image]:
    """What pictures are after all rounds, each told as what it is."""
    images = [case.image for _, case in cases]
    for again in range(ROUNDS):
        requests = [
            studio.request(
                case.own, row, {"image": image, "strength": ROUND_STRENGTH, "keep_colours": keep}, again=again
            )
            for (row, case), image in zip(cases, images, strict=True)
        ]
        images = studio.draw(requests)
    return images


def _shift(first: Image.Image, last: Image.Image) -> float:
    """How far the mean colour has gone, in levels of 255, the mean over the three channels."""
    return float(np.abs(levels(last).mean(axis=(0, 1)) - levels(first).mean(axis=(0, 1))).mean())


def told(figures: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    """The scores of the drift, the curves by strength, and whether each of them rises.

    {"scores": {NAME: score}, "curve": {"change": {STRENGTH: score}, "obeyed": ...}, "monotone": {"change": bool, ...}}.
    """
    curves = {name: [figures[f"{name} at {strength}"] for strength in STRENGTHS] for name in ("change", "obeyed")}
    return {
        "scores": {name: score(figures[name]) for name in DRIFTS},
        "curve": {
            name: {str(strength): score(each) for strength, each in zip(STRENGTHS, curve, strict=True)}
            for name, curve in curves.items()
        },
        "monotone": {name: rises([[one.value for one in each] for each in curve]) for name, curve in curves.items()},
    }
