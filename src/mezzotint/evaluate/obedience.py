"""Obedience: the share of pictures that show exactly what was asked for, category by category."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.evaluate.judge import Found, Judge
from mezzotint.evaluate.prompts import Task, Wanted, tasks
from mezzotint.pipeline import Pipeline
from mezzotint.types import Request

GENEVAL = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's overall score is the mean of these."""
APART = 0.03
"""Two solids are left and right, or in front and behind, of each other from this share of the picture's side on."""


@dataclass(frozen=True)
class Verdict:
    """A picture against its task."""

    task: Task
    request: Request
    image: Image.Image
    found: tuple[Found, ...]
    obeyed: bool


def obeys(wanted: Sequence[Wanted], found: Sequence[Found], order: str = "any") -> bool:
    """Whether exactly the wanted solids are there, and in their places (`Task.order`)."""
    if len(found) != len(wanted):
        return False
    return any(
        all(_is(one, other) for one, other in zip(row, wanted, strict=True)) and _in_place(row, order)
        for row in permutations(found)
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
        obeyed = obeys(task.wanted, found, task.order)
        yield Verdict(task, picture.request, picture.image, tuple(found), obeyed)


def pixels_of(image: Image.Image) -> Tensor:
    """[3 H W] in [-1, 1] of an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(127.5).sub(1)


def overall(scores: Mapping[str, Mapping[str, float | int]]) -> float | None:
    """The mean over GenEval's six categories as far as they were asked for; None where none was."""
    asked = [scores[name]["score"] for name in GENEVAL if name in scores]
    return round(sum(asked) / len(asked), 4) if asked else None
