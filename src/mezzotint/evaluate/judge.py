"""The judge: a small network that finds the solids in a picture and names them.

It works as CenterNet does (Zhou et al. 2019, "Objects as Points", arXiv:1904.07850): one map says where the middle of
a solid is, others say at that place what the solid is. It is trained on real scenes alone, none of them a drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.store.facts import read_json
from mezzotint.store.models import SHIPPED
from mezzotint.store.part import load_part, save_part
from mezzotint.types import UserError
from mezzotint.world.render import render
from mezzotint.world.scene import COLOURS, SHAPES, SIZES, Scenes, random_scenes

FOLDER = SHIPPED / "judge"
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES}
SIDE = 128
"""Pixels: pictures of any size are judged at this one."""
STRIDE = 4
SURE = 0.35
"""A place counts as a solid's middle from this probability on."""


@dataclass(frozen=True)
class Found:
    """A solid that the judge sees; x and y are its middle, 0 to 1 from left to right and from top to bottom."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    probability: float


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(width, width), _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def _convolution(inputs: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


class Judge(nn.Module):
    """Pictures [B 3 128 128] in [-1, 1] -> maps [B K 32 32]: logits of a middle, then of every attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 24, 2), _convolution(24, 48, 2), _Residual(48), _Residual(48))
        self.deep = nn.Sequential(_convolution(48, 96, 2), _Residual(96), _Residual(96), _Residual(96))
        self.join = _convolution(48 + 96, 96)
        self.head = nn.Conv2d(96, 1 + sum(len(values) for values in ATTRIBUTES.values()), 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias[:1], -4.0)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B 3 128 128] -> [B K 32 32]."""
        fine = self.stem(pixels)
        coarse = F.interpolate(self.deep(fine), scale_factor=2, mode="nearest")
        return self.head(self.join(torch.cat([fine, coarse], dim=1)))

    @torch.no_grad()
    def find(self, pixels: Tensor) -> list[list[Found]]:
        """The solids of every picture [B 3 H W] in [-1, 1], from left to right."""
        self.eval()
        if pixels.shape[-2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        return [solids for part in pixels.split(64) for solids in _read(self(part))]


def _read(maps: Tensor) -> list[list[Found]]:
    middle = maps[:, 0].sigmoid()
    peak = (middle == F.max_pool2d(middle, 5, 1, 2)) & (middle > SURE)
    side = maps.shape[-1]
    found: list[list[Found]] = []
    for picture, at, probability in zip(maps, peak, middle, strict=True):
        solids: list[Found] = []
        for y, x in at.nonzero().tolist():
            names: dict[str, str] = {}
            start = 1
            for name, values in ATTRIBUTES.items():
                logits = picture[start : start + len(values), y, x]
                names[name] = values[int(logits.argmax())]
                start += len(values)
            solids.append(Found(**names, x=(x + 0.5) / side, y=(y + 0.5) / side, probability=float(probability[y, x])))
        found.append(sorted(solids, key=lambda solid: solid.x))
    return found


class JudgeTask:
    """Real scenes, rendered as they are needed, combinations that image models never train on among them."""

    def __init__(self, judge: Judge, count: int, seed: int = 41) -> None:
        self.network: nn.Module = judge
        self._judge, self._count, self._seed = judge, count, seed

    def __len__(self) -> int:
        return self._count

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `training.fit.Task.loss`."""
        self._judge.train()
        seed = self._seed * 1_000_003 + int(index[0])
        scenes = random_scenes(len(index), seed, held_out=None)
        drawn = render(scenes, SIDE)
        pixels = blemish(drawn.pixels, generator)
        maps = self._judge(pixels).float()
        return judge_loss(maps, scenes, middles(drawn.masks))


def blemish(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """What lossy pictures do: some blur, some noise, some change of exposure, [B 3 H W] -> the same."""
    count = len(pixels)
    blurred = F.interpolate(F.avg_pool2d(pixels, 2), scale_factor=2, mode="bilinear")
    share = torch.rand(count, 1, 1, 1, generator=generator)
    exposure = 1 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    noise = torch.randn(pixels.shape, generator=generator)
    level = 0.06 * torch.rand(count, 1, 1, 1, generator=generator)
    mixed = pixels + share * (blurred - pixels)
    return (((mixed + 1) * exposure - 1) + level * noise).clamp(-1, 1)


def middles(masks: Tensor) -> Tensor:
    """The visible middle of every solid, [B 4 2] as (x, y) in cells of the judge's maps, of masks [B 4 H W]."""
    height, width = masks.shape[-2:]
    weight = masks.flatten(2).sum(dim=2).clamp(min=1e-6)
    x = (masks.sum(dim=2) * (torch.arange(width) + 0.5)).sum(dim=2) / weight
    y = (masks.sum(dim=3) * (torch.arange(height) + 0.5)).sum(dim=2) / weight
    return torch.stack([x, y], dim=2) / STRIDE


def judge_loss(maps: Tensor, scenes: Scenes, middle: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Focal loss of the middles (arXiv:1904.07850, equation 1) and cross-entropy of the attributes there."""
    side = maps.shape[-1]
    cell = torch.arange(side) + 0.5
    away = (cell[None, None, None, :] - middle[:, :, None, None, 0]) ** 2
    away = away + (cell[None, None, :, None] - middle[:, :, None, None, 1]) ** 2  # [B 4 h w]
    away = torch.where(scenes.present[:, :, None, None], away, torch.inf)
    near = torch.exp(-away / 2.5).amax(dim=1)
    row, slot = scenes.present.nonzero(as_tuple=True)
    x, y = middle[row, slot].floor().long().clamp(0, side - 1).unbind(dim=1)
    truth = torch.zeros_like(near).index_put_((row, y, x), torch.tensor(1.0))
    logit = maps[:, 0]
    probability = logit.sigmoid()
    hit = truth * (1 - probability) ** 2 * F.softplus(-logit)
    miss = (1 - truth) * (1 - near) ** 4 * probability**2 * F.softplus(logit)
    total = (hit + miss).sum() / len(row)
    # A solid's attributes are learnt at its middle and at the neighbouring cells of its own.
    figures: dict[str, Tensor] = {}
    for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        start = 1
        at = maps[row, :, (y + dy).clamp(0, side - 1), (x + dx).clamp(0, side - 1)]
        for name, values in ATTRIBUTES.items():
            logits, label = at[:, start : start + len(values)], getattr(scenes, name)[row, slot]
            total = total + (1.0 if dx == dy == 0 else 0.25) * F.cross_entropy(logits, label)
            if dx == dy == 0:
                figures[name] = (logits.argmax(dim=1) == label).float().mean()
            start += len(values)
    return total, figures


@torch.no_grad()
def accuracy(judge: Judge, count: int = 1000, seed: int = 990_001) -> dict[str, float]:
    """The judge against the truth on scenes it never saw: every attribute's share over solids, and whole scenes.

    "found" is the share of scenes with as many solids found as there are; an attribute counts where its solid is found.
    """
    scenes = random_scenes(count, seed, held_out=None)
    right = dict.fromkeys(ATTRIBUTES, 0)
    solids = found = whole = 0
    for start in range(0, count, 128):
        some = scenes.take(slice(start, start + 128))
        drawn = render(some, SIDE)
        at = middles(drawn.masks) * (STRIDE / SIDE)
        for scene, seen, place, present in zip(
            some.describe(), judge.find(drawn.pixels), at, some.present, strict=True
        ):
            same_count = len(seen) == len(scene.solids)
            found += same_count
            all_right = same_count
            for solid, (x, y) in zip(scene.solids, place[present].tolist(), strict=True):
                if len(seen) == 0:
                    continue
                away = [(one.x - x) ** 2 + (one.y - y) ** 2 for one in seen]
                nearest = seen[away.index(min(away))]
                solids += 1
                for name in right:
                    right[name] += getattr(nearest, name) == getattr(solid, name)
                all_right &= nearest.shape == solid.shape and nearest.colour == solid.colour
            whole += all_right
    attributes = {name: value / max(solids, 1) for name, value in right.items()}
    return {**attributes, "found": found / count, "scene": whole / count}


def save_judge(judge: Judge, folder: Path) -> dict[str, float]:
    """Measure the judge with `accuracy`, and write it with what was measured."""
    measured = {name: round(value, 4) for name, value in accuracy(judge).items()}
    save_part(judge, {"accuracy": measured}, folder, stem="judge")
    return measured


def load_judge(folder: Path = FOLDER) -> tuple[Judge, dict[str, Any]]:
    """The trained judge, and its accuracy as it was measured. Raises UserError where it is missing or damaged."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} has no judge: train one with 'mezzotint evaluate judge'.")
    return load_part(Judge, folder, stem="judge"), read_json(folder / "config.json")["accuracy"]
