"""Hints are learned beside the words: the U-Net stays as it is, and what reads the new channels is learned.

Every picture is told some of the hints, chosen by chance, so that they can be given alone and together.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mezzotint.conditioning.canvas import latent_mask
from mezzotint.conditioning.hints import INPAINT, Truth, channels, hint_named
from mezzotint.pipeline.start import inpainting
from mezzotint.training.data import StillLife
from mezzotint.training.truth import SceneTruth
from mezzotint.vae.codec import Codec
from mezzotint.world.captions import NOTHING, Told, tell

ALONE = 0.6
"""Share of pictures that are told one hint; the others are told each by the toss of a coin, and one at least."""
AROUND = 0.7
"""Share of masks that lie around one solid or several; the others lie anywhere."""
PARTIAL = 0.8
"""How often a masked picture's caption tells of the solids inside the mask alone, as people do who fill in a hole; it
is empty where there are none."""

OUTSIDE = 0.1
"""How much an error outside a picture's mask counts, against one inside: there the picture is given, and only what is
drawn anew is hard."""


@dataclass(frozen=True)
class Beside:
    """What lies on the latents' channels, what counts of them, and captions in the place of some pictures' own."""

    spatial: Tensor
    """[B S h w]."""
    weight: Tensor
    """[B 1 h w], of every place's error; its mean is 1 in each picture."""
    captions: dict[int, Told]
    """By row."""


class Hints:
    """Hints of a still life's pictures, in the order in which an adapted U-Net reads them."""

    def __init__(self, names: Sequence[str], pictures: StillLife, truth: SceneTruth, codec: Codec) -> None:
        """Raises UserError for a name that is no hint's."""
        self.names = tuple(names)
        self._widths = [channels(name) for name in self.names]
        self._pictures, self._truth, self._codec = pictures, truth, codec

    def __call__(self, index: Tensor, generator: torch.Generator) -> Beside:
        """Those of the pictures at these places [B], each told some of them."""
        side = self._pictures.size // self._codec.factor
        size = (side, side)
        told = self._told(len(index), generator)
        chooser = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        truth = Truth(self._pictures.pixels(index), self._truth.depth(index), self._truth.solid(index))
        captions: dict[int, Told] = {}
        parts: list[Tensor] = []
        weight = torch.ones(len(index), 1, *size)
        for place, name in enumerate(self.names):
            here = told[:, place, None, None, None].float()
            if name == INPAINT:
                rows = told[:, place].nonzero()[:, 0]
                part = torch.zeros(len(index), channels(name), *size)
                if len(rows) > 0:
                    mask, said = self._masks(index[rows], chooser)
                    captions |= {int(rows[row]): told for row, told in said.items()}
                    part[rows] = inpainting(self._codec, truth.pixels[rows], mask).cpu()
                    counts = OUTSIDE + (1 - OUTSIDE) * latent_mask(mask, self._codec.factor)
                    weight[rows] = counts / counts.mean(dim=(2, 3), keepdim=True)
            else:
                hint = hint_named(name)
                part = hint.reads(hint.known(truth), size) * here
            parts.append(part)
        return Beside(torch.cat(parts, dim=1), weight, captions)

    def _told(self, count: int, generator: torch.Generator) -> Tensor:
        """Which picture is told which hint, [B N] bool."""
        one = torch.nn.functional.one_hot(
            torch.randint(len(self.names), (count,), generator=generator), len(self.names)
        ).bool()
        some = one | (torch.rand(count, len(self.names), generator=generator) < 0.5)
        return torch.where(torch.rand(count, 1, generator=generator) < ALONE, one, some)

    def _masks(self, index: Tensor, chooser: random.Random) -> tuple[Tensor, dict[int, Told]]:
        """Masks [B 1 H W] of 0 and 1, and captions of what is inside, by row."""
        side, boxes = self._pictures.size, self._truth.boxes(index)
        masks, captions = torch.zeros(len(index), 1, side, side), dict[int, Told]()
        for row, place in enumerate(index.tolist()):
            scene = self._pictures.scene(place)
            solids = scene.solids
            if chooser.random() < AROUND:
                for number in chooser.sample(range(len(solids)), chooser.randint(1, len(solids))):
                    _around(masks[row, 0], boxes[row, number].tolist(), chooser)
            else:
                _anywhere(masks[row, 0], chooser)
            chosen = [number for number in range(len(solids)) if _holds(masks[row, 0], boxes[row, number].tolist())]
            if chooser.random() < PARTIAL:
                inside = replace(scene, solids=tuple(solids[number] for number in chosen))
                captions[row] = tell(inside, chooser, whole=len(chosen) == len(solids)) if chosen else NOTHING
        return masks, captions


def _holds(mask: Tensor, box: Sequence[float]) -> bool:
    """Whether the middle of a box, given in shares of the side, is inside a mask [H W]."""
    left, top, right, bottom = (min(int(value * len(mask)), len(mask) - 1) for value in box)
    return bool(mask[(top + bottom) // 2, (left + right) // 2] > 0)


def _around(mask: Tensor, box: Sequence[float], chooser: random.Random) -> None:
    """Paint a rectangle or an ellipse [H W] that holds a box, given in shares of the side, and some room around it."""
    side = mask.shape[-1]
    left, top, right, bottom = (value * side for value in box)
    room = [chooser.uniform(0.02, 0.2) * side for _ in range(4)]
    _paint(mask, left - room[0], top - room[1], right + room[2], bottom + room[3], chooser.random() < 0.3)


def _anywhere(mask: Tensor, chooser: random.Random) -> None:
    """Paint a part of the picture, at times all of it, or one side."""
    side = mask.shape[-1]
    draw = chooser.random()
    if draw < 0.1:
        mask.fill_(1.0)
        return
    width, height = (chooser.uniform(0.2, 0.8) * side for _ in range(2))
    left, top = chooser.uniform(0, side - width), chooser.uniform(0, side - height)
    if draw < 0.4:  # A strip along an edge, as when a picture is drawn on beyond it.
        strips = (
            (0, 0, width, side),
            (side - width, 0, side, side),
            (0, 0, side, height),
            (0, side - height, side, side),
        )
        _paint(mask, *chooser.choice(strips), False)
        return
    _paint(mask, left, top, left + width, top + height, chooser.random() < 0.3)


def _paint(mask: Tensor, left: float, top: float, right: float, bottom: float, ellipse: bool) -> None:
    """Set the inside of a rectangle to 1, or that of the ellipse around it."""
    side = mask.shape[-1]
    place = torch.arange(side) + 0.5
    x, y = (place - (left + right) / 2) / (right - left), (place - (top + bottom) / 2) / (bottom - top)
    inside = (
        (x[None, :] ** 2 + y[:, None] ** 2 <= 0.5)
        if ellipse
        else ((x.abs()[None, :] <= 0.5) & (y.abs()[:, None] <= 0.5))
    )
    mask[inside] = 1.0
