"""What is known of rendered scenes beside their pictures: depth, where solids stand, and the box of each.

It is rendered when it is first asked for, shard by shard, at half the pictures' size, and kept in files beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mezzotint.store.beside import file_beside
from mezzotint.training import workers
from mezzotint.training.data import StillLife
from mezzotint.world.render import Rendering, render

Planes = dict[str, np.ndarray]


def _planes(drawn: Rendering) -> Planes:
    """Depth float16 and coverage uint8 [N s s], and boxes int16 [N 4 4] of left, top, right, bottom in pixels."""
    inside = drawn.masks > 0.5
    boxes = torch.zeros(*inside.shape[:2], 4, dtype=torch.int16)
    side = inside.shape[-1]
    for axis, (low, high) in ((2, (0, 2)), (3, (1, 3))):
        line = inside.any(dim=axis)  # Along x where rows are joined, along y where columns are.
        place = torch.arange(side)
        boxes[..., low] = torch.where(line, place, side).amin(dim=2).to(torch.int16)
        boxes[..., high] = torch.where(line, place + 1, 0).amax(dim=2).to(torch.int16)
    solid = drawn.masks.sum(dim=1).clamp(max=1).mul(255).round().to(torch.uint8)
    return {"depth": drawn.depth.half().numpy(), "solid": solid.numpy(), "boxes": boxes.numpy()}


class SceneTruth:
    """The truth of a still life's places, as `StillLife` counts them: a place may be a scene's mirror image."""

    def __init__(self, pictures: StillLife, folder: Path) -> None:
        """`folder` is where the pictures lie."""
        self._pictures, self._folder = pictures, folder
        self.side = pictures.size // 2
        self._shards: dict[int, Planes] = {}

    def render(self) -> None:
        """Render what is missing; of several processes each its share."""
        for number, _ in StillLife.shards(self._pictures.count)[workers.rank() :: workers.count()]:
            self._shard(number)
        workers.wait()

    def depth(self, index: Tensor) -> Tensor:
        """Distances [B 1 s s] along the viewing axis."""
        return self._flipped(index, self._stacked(index, "depth").float())[:, None]

    def solid(self, index: Tensor) -> Tensor:
        """The share of every pixel that solids cover, [B 1 s s]."""
        return self._flipped(index, self._stacked(index, "solid").float() / 255)[:, None]

    def boxes(self, index: Tensor) -> Tensor:
        """Left, top, right and bottom [B 4 4] of every solid, as shares of the picture's side; right is 0 for none."""
        boxes = self._stacked(index, "boxes").float() / self.side
        left, top, right, bottom = boxes.unbind(dim=2)
        turned = torch.stack([1 - right, top, 1 - left, bottom], dim=2)
        turned = torch.where((right > 0)[..., None], turned, 0.0)
        boxes = torch.where((right > 0)[..., None], boxes, 0.0)
        return torch.where((index >= self._pictures.count)[:, None, None], turned, boxes)

    def _flipped(self, index: Tensor, planes: Tensor) -> Tensor:
        return torch.where((index >= self._pictures.count)[:, None, None], planes.flip(2), planes)

    def _stacked(self, index: Tensor, name: str) -> Tensor:
        places = self._pictures.places(index)
        return torch.from_numpy(np.stack([self._shard(shard)[name][row] for shard, row in places]))

    def _shard(self, number: int) -> Planes:
        if number not in self._shards:
            scenes = self._pictures.scenes_of(number)
            stem = self._folder / f"truth-{self.side}-{self._pictures.seed}-{number:03d}-of-{len(scenes)}"
            files = {name: stem.with_name(f"{stem.name}-{name}.npy") for name in ("depth", "solid", "boxes")}
            if not all(file.exists() for file in files.values()):
                chunks = (scenes.take(slice(start, start + 256)) for start in range(0, len(scenes), 256))
                parts = [_planes(render(chunk, self.side)) for chunk in chunks]
                for name, file in files.items():
                    with file_beside(file) as part, part.open("wb") as stream:
                        np.save(stream, np.concatenate([planes[name] for planes in parts]))
            self._shards[number] = {name: np.load(file, mmap_mode="r") for name, file in files.items()}
        return self._shards[number]
