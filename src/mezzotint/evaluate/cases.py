"""Scenes that a conditioner is measured on, how a model draws them, and who looks at what it drew. H W pixels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.conditioning.sight import Sight
from mezzotint.evaluate.judge import STRIDE, Found, Judge, middles
from mezzotint.evaluate.obedience import pixels_of
from mezzotint.evaluate.prompts import Wanted
from mezzotint.evaluate.scores import Figure
from mezzotint.pipeline import Pipeline
from mezzotint.types import Request
from mezzotint.vae.codec import to_uint8
from mezzotint.world.captions import Told, tell
from mezzotint.world.render import render, shows_table
from mezzotint.world.scene import Scene, random_scenes

OWN_SEED = 880_000
BLOCK = 32
"""Scenes that are rendered at once."""


@dataclass(frozen=True)
class Still:
    """A scene kept out of training, as it is."""

    scene: Scene
    image: Image.Image
    """RGB."""
    depth: Tensor
    """[H W], distances along the viewing axis."""
    solids: Tensor
    """[K H W] bools, where each of the scene's K solids is seen."""
    middles: tuple[tuple[float, float], ...]
    """x and y of each, 0 to 1, as the judge tells them."""
    table: Tensor
    """[H W] bools, where no wall is seen behind solids and table."""


def stills(seed: int, size: tuple[int, int]) -> Iterator[Still]:
    """Scenes without end, rendered at a width and height in pixels; those of one seed begin alike."""
    width, height = size
    table = shows_table(height, width)
    for block in count():
        drawn = render(random_scenes(BLOCK, OWN_SEED + seed * 1_000_003 + block, held_out=True), height, width)
        at = middles(drawn.masks) * STRIDE / torch.tensor([width, height])
        images = [Image.fromarray(rgb.numpy()) for rgb in to_uint8(drawn.pixels)]
        for row, scene in enumerate(drawn.scenes.describe()):
            here = drawn.scenes.present[row]
            masks = drawn.masks[row, here] > 0.5
            places = tuple((x, y) for x, y in at[row, here].tolist())
            yield Still(scene, images[row], drawn.depth[row], masks, places, table | masks.any(dim=0))


def caption(scene: Scene, chooser: random.Random) -> Told:
    """A caption that tells the shape and colour of every solid.

    Where shapes alone do not say which is of which colour it tells their places, or lists them as people read.
    """
    while True:
        told = tell(scene, chooser)
        if all(solid.shape != "" and solid.colour != "" for solid in told.solids) and _plain(told):
            return told


def _plain(told: Told) -> bool:
    by_shape = len({solid.shape for solid in told.solids}) == len({(s.shape, s.colour) for s in told.solids})
    return by_shape or told.placed


def wanted(scene: Scene) -> tuple[Wanted, ...]:
    """What must be seen of a scene."""
    return tuple(Wanted(solid.shape, solid.colour) for solid in scene.solids)


@dataclass(frozen=True)
class Look:
    """A picture, and what is seen in it."""

    image: Image.Image
    found: tuple[Found, ...]
    """What the judge sees."""
    near: Tensor
    """[H W], how near every place is."""
    solid: Tensor
    """[H W] bools, where a solid stands."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked for with a scene."""

    prompt: str
    given: dict[str, Any]
    """Fields of a request, pictures in memory."""
    shown: tuple[Image.Image, ...]
    """What a sheet shows of it, each as large as what is drawn."""
    measure: Callable[[Look], dict[str, Figure]]
    """What a picture drawn for it comes to."""
    truth: Image.Image | None = None
    """The picture that would be perfect, where there is one: what it comes to is the most to be hoped for."""


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    case: Case
    request: Request
    """That of the last picture."""
    drawn: tuple[Image.Image, ...]
    found: tuple[Found, ...]
    """What the judge sees in the last."""
    figures: dict[str, Figure]
    worth: float
    """How good it is, for the worst to be shown first."""


@dataclass
class Studio:
    """A model that draws, and a judge and a sight that look at it."""

    pipe: Pipeline
    judge: Judge
    sight: Sight
    seed: int = 0
    changes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of every request that stand in for the model's own."""
    drawn: Callable[[], object] = lambda: None
    """Called at every finished picture."""

    def request(self, prompt: str, row: int, fields: dict[str, Any], *, again: int = 0) -> Request:
        """The request for a scene by its number; with other noise for each of the times, up to 10, that it is drawn."""
        return self.pipe.request(prompt, seed=self.seed * 1_000_003 + again * 100_000 + row, **fields, **self.changes)

    def draw(self, requests: Sequence[Request]) -> list[Image.Image]:
        """The pictures, in the order of the requests."""
        images: dict[int, Image.Image] = {}
        for picture in self.pipe.draw(requests):
            images[picture.index] = picture.image
            self.drawn()
        return [images[index] for index in range(len(requests))]

    def look(self, image: Image.Image) -> Look:
        """Look at a picture."""
        pixels = pixels_of(image)[None]
        seen = self.sight.see(pixels)
        return Look(image, tuple(self.judge.find(pixels)[0]), seen.disparity[0, 0], seen.solid[0, 0] > 0.5)


def grey(plane: Tensor) -> Image.Image:
    """A plane [H W] of bools or numbers as a picture of mode L, its least black and its most white."""
    values = plane.float()
    low, high = values.min(), values.max()
    return Image.fromarray(((values - low) / (high - low).clamp(min=1e-9) * 255).round().byte().numpy())


def levels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    """[H W 3], 0 to 255."""
    return np.asarray(image, dtype=np.float32)
