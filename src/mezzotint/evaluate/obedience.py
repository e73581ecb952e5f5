"""Obedience: the share of pictures that show exactly what was asked for, category by category."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.evaluate.judge import Found, Judge
from mezzotint.evaluate.prompts import CATEGORIES, Task, Wanted, tasks
from mezzotint.evaluate.scores import Score, share
from mezzotint.pipeline import Pipeline
from mezzotint.types import Request

GENEVAL = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's overall score is the mean of these."""
APART = 0.03
"""Two solids are left and right, or in front and behind, of each other from this share of the picture's side on."""


@dataclass(frozen=True)
class Verdict:
    """A picture against its task."""

    category: str
    task: Task
    request: Request
    image: Image.Image
    found: tuple[Found, ...]
    obeyed: bool


def obeys(task: Task, found: Sequence[Found]) -> bool:
    """Whether exactly the wanted solids are there, and in their places."""
    if len(found) != len(task.wanted):
        return False
    return any(
        all(_is(one, wanted) for one, wanted in zip(order, task.wanted, strict=True)) and _in_place(order, task.order)
        for order in permutations(found)
    )


def _is(one: Found, wanted: Wanted) -> bool:
    return one.shape == wanted.shape and wanted.colour in ("", one.colour)


def _in_place(found: Sequence[Found], order: str) -> bool:
    if order == "across":
        return all(b.x - a.x > APART for a, b in pairwise(found))
    if order == "deep":  # what stands nearer stands lower in the picture
        return all(a.y - b.y > APART for a, b in pairwise(found))
    return True


def judge_pictures(
    pipe: Pipeline, judge: Judge, category: str, *, n: int, seed: int, changes: dict[str, Any]
) -> Iterator[Verdict]:
    """Draw n pictures of a category, as the model is best drawn with except for `changes`, and judge each."""
    asked = tasks(category, n, seed)
    requests = [pipe.request(task.prompt, seed=seed * 1_000_003 + row, **changes) for row, task in enumerate(asked)]
    for picture in pipe.draw(requests):
        task = asked[picture.index]
        (found,) = judge.find(pixels_of(picture.image)[None])
        yield Verdict(category, task, picture.request, picture.image, tuple(found), obeys(task, found))


def pixels_of(image: Image.Image) -> Tensor:
    """[3 H W] in [-1, 1] of an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1)


def obedience(
    pipe: Pipeline,
    judge: Judge,
    *,
    n: int = 200,
    seed: int = 0,
    categories: Sequence[str] = tuple(CATEGORIES),
    changes: dict[str, Any] | None = None,
    watch: Callable[[Verdict], None] = lambda _: None,
) -> dict[str, Any]:
    """{"categories": {name: {"score", "low", "high", "n"}}, "overall"} of a model, n pictures a category.

    `watch` sees every picture and its verdict. How far the judge itself can be trusted is the caller's to add.
    """
    scores: dict[str, Score] = {}
    for category in categories:
        right = 0
        for verdict in judge_pictures(pipe, judge, category, n=n, seed=seed, changes=changes or {}):
            right += verdict.obeyed
            watch(verdict)
        scores[category] = share(right, n)
    return {"categories": scores, "overall": overall(scores)}


def overall(scores: Mapping[str, Mapping[str, float | int]]) -> float | None:
    """The mean over GenEval's six categories as far as they were asked for; None where none was."""
    asked = [scores[name]["score"] for name in GENEVAL if name in scores]
    return round(sum(asked) / len(asked), 4) if asked else None
