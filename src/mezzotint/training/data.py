"""What is learned from: pictures and the words that go with them.

A source answers for any of its pictures by number, so the order of training is a pure function of the seed and of how
many pictures were seen, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from mezzotint.store.beside import file_beside, make_folder
from mezzotint.store.pictures import check_picture, read_colours
from mezzotint.types import UserError
from mezzotint.world.captions import Told, outright, tell, tell_clearly
from mezzotint.world.render import render
from mezzotint.world.scene import COLOURS, SHAPES, Scene, Scenes, disguised, joined, random_scenes


class Pictures(Protocol):
    """A numbered collection of captioned square pictures of one size."""

    size: int
    identity: str
    """Another text for other pictures."""

    def __len__(self) -> int: ...

    def pixels(self, index: Tensor) -> Tensor:
        """Pictures [B 3 size size] in [-1, 1] at these places [B] int64."""
        ...

    def captions(self, index: Tensor, seed: int) -> list[str]:
        """A caption for each; the seed chooses among paraphrases where there are several."""
        ...


class StillLife:
    """The still life, rendered once into a folder, shard by shard, and memory-mapped from there.

    Place i and place i + count are a scene and its mirror image, so the collection is twice as large as what is stored.
    A collection smaller than a shard has one of its own size.
    """

    SHARD = 4096
    SEED = 2
    """Another number for every change of the world: it is in the names of files, so that none is taken for new."""

    def __init__(
        self,
        folder: Path,
        count: int,
        size: int,
        seed: int = SEED,
        tinted: float = 0.0,
        disguise: Sequence[str] = (),
    ) -> None:
        """`tinted` as for `random_scenes`; `disguise`: attributes in which the same scenes come `disguised`."""
        self.size, self.count, self.seed, self.disguise = size, count, seed, tuple(disguise)
        self.identity = f"still life: {count} scenes of {size} pixels, seed {seed}"
        if tinted > 0:
            self.identity += f", {tinted:g} tinted"
        if disguise:
            self.identity += f", other {' and '.join(disguise)}"
        shards = [
            self.shard(folder, size, seed, *each, tinted=tinted, disguise=disguise) for each in self.shards(count)
        ]
        self._pixels = [np.load(file, mmap_mode="r") for file, _ in shards]
        self.scenes = joined([scenes for _, scenes in shards]).take(slice(count))
        """All of them, unmirrored."""
        self.seen = torch.zeros(len(SHAPES), len(COLOURS), dtype=torch.bool)
        """Which shapes come in which colours in any of them, [S K]."""
        self.seen[self.scenes.shape[self.scenes.present], self.scenes.colour[self.scenes.present]] = True
        self._shares: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def _described(self) -> list[Scene]:
        """By their places."""
        return [*self.scenes.describe(), *self.scenes.mirrored().describe()]

    @classmethod
    def shards(cls, count: int) -> list[tuple[int, int]]:
        """The number of every shard of so many scenes, and its rows."""
        return [(number, min(count, cls.SHARD)) for number in range(-(-count // cls.SHARD))]

    @classmethod
    def shard(
        cls,
        folder: Path,
        size: int,
        seed: int,
        number: int,
        rows: int = SHARD,
        *,
        tinted: float = 0.0,
        disguise: Sequence[str] = (),
    ) -> tuple[Path, Scenes]:
        """The file of pictures [rows 3 size size] uint8 and the scenes of one shard; rendered if it is not there."""
        own = seed * 1_000_003 + number
        scenes = random_scenes(rows, own, tinted=tinted)
        small = "" if rows == cls.SHARD else f"-of-{rows}"
        other = f"-tinted-{tinted:g}" if tinted > 0 else ""
        if disguise:
            scenes, other = disguised(scenes, own, disguise), f"{other}-other-{'-'.join(disguise)}"
        file = folder / f"still-life-{size}-{seed}-{number:03d}{small}{other}.npy"
        if not file.exists():
            make_folder(folder)
            _render_to(file, scenes, size)
        return file, scenes

    def __len__(self) -> int:
        return 2 * self.count

    def pixels(self, index: Tensor) -> Tensor:
        """As `Pictures.pixels`."""
        places = self.places(index)
        chosen = torch.from_numpy(np.stack([self._pixels[shard][row] for shard, row in places]))
        mirrored = (index >= self.count)[:, None, None, None]
        return torch.where(mirrored, chosen.flip(3), chosen).float().div_(127.5).sub_(1)

    def cells(self, index: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """What stands where: shape and colour [B 4] of each solid, and its share [B 4 side side] of every cell."""
        places = self.places(index)
        shares = torch.stack([self._shares_of(shard, side)[row] for shard, row in places]).float() / 255
        mirrored = (index >= self.count)[:, None, None, None]
        scenes = self.unmirrored(index)
        return scenes.shape, scenes.colour, torch.where(mirrored, shares.flip(3), shares)

    def unmirrored(self, index: Tensor) -> Scenes:
        """The scenes at these places, or those that they mirror."""
        return self.scenes.take(index % self.count)

    def scenes_of(self, shard: int) -> Scenes:
        """The scenes of a shard, as far as they are asked for."""
        return self.scenes.take(slice(shard * self.SHARD, (shard + 1) * self.SHARD))

    def places(self, index: Tensor) -> list[tuple[int, int]]:
        """The shard and the row of each, or of what it mirrors."""
        return [divmod(i % self.count, self.SHARD) for i in index.tolist()]

    def _shares_of(self, shard: int, side: int) -> Tensor:
        """`cells` of a whole shard, uint8, drawn when first asked for: masks need far fewer rays than pictures."""
        if (shard, side) not in self._shares:
            scenes = self.scenes_of(shard)
            chunks = [scenes.take(slice(start, start + 256)) for start in range(0, len(scenes), 256)]
            masks = (render(chunk, 4 * side, samples=1).masks for chunk in chunks)
            covered = torch.cat([F.avg_pool2d(mask, 4) for mask in masks])
            self._shares[shard, side] = covered.mul(255).round().to(torch.uint8)
        return self._shares[shard, side]

    def told(self, index: Tensor, seed: int, *, clear: float = 0.0) -> list[Told]:
        """Captions with what they say, scene by scene, a share `clear` of them as `tell_clearly` tells."""
        chooser = random.Random(seed)
        return [
            tell_clearly(self.scene(i), chooser)
            if clear > 0 and chooser.random() < clear
            else tell(self.scene(i), chooser)
            for i in index.tolist()
        ]

    def outright(self, index: Tensor) -> list[str]:
        """What is said of each scene, `captions.outright`."""
        return [outright(self.scene(i)) for i in index.tolist()]

    def scene(self, place: int) -> Scene:
        """The scene at a place."""
        return self._described[place]

    def captions(self, index: Tensor, seed: int) -> list[str]:
        """As `Pictures.captions`."""
        return [told.text for told in self.told(index, seed)]


def _render_to(path: Path, scenes: Scenes, size: int) -> None:
    """Block by block, and not through a map, for which a full disk is a signal and no error."""
    with file_beside(path) as part:
        about = {"descr": "|u1", "fortran_order": False, "shape": (len(scenes), 3, size, size)}
        with part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, about)
            for start in range(0, len(scenes), 256):
                drawn = render(scenes.take(slice(start, start + 256)), size).pixels
                file.write(drawn.add_(1).mul_(127.5).round_().to(torch.uint8).numpy().tobytes())


class Folder:
    """A folder of pictures, each with its caption in a .txt file of the same name beside it."""

    ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

    def __init__(self, folder: Path, size: int) -> None:
        """Raises UserError for a folder with no captioned picture, or a file that is no picture or no text.

        Of every file only the beginning is read here: one that breaks off is found when its turn comes.
        """
        self.size = size
        found = sorted(file for file in folder.glob("**/*") if file.suffix.lower() in self.ENDINGS)
        self._files = [file for file in found if file.with_suffix(".txt").exists()]
        if not self._files:
            raise UserError(f"{folder} has no picture with a caption in a .txt file of the same name beside it.")
        for file in self._files:
            check_picture(str(file))
        self._captions = [_text(file.with_suffix(".txt")) for file in self._files]
        kept = [(file, file.stat()) for file in self._files]
        names = [(file.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns) for file, stat in kept]
        self.identity = f"folder, {size} pixels: {names}"

    def __len__(self) -> int:
        return len(self._files)

    def pixels(self, index: Tensor) -> Tensor:
        """As `Pictures.pixels`: the largest square from the middle, scaled, on white where it is transparent.

        Raises UserError for an unreadable file.
        """
        return torch.stack([self._read(self._files[i]) for i in index.tolist()])

    def _read(self, file: Path) -> Tensor:
        square = ImageOps.fit(read_colours(str(file)), (self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).float().div(127.5).sub(1)

    def captions(self, index: Tensor, seed: int) -> list[str]:
        """As `Pictures.captions`; a file with several lines holds one caption a line."""
        chooser = random.Random(seed)
        lines: Sequence[list[str]] = [self._captions[i].splitlines() or [""] for i in index.tolist()]
        return [chooser.choice(choices).strip() for choices in lines]


def _text(file: Path) -> str:
    try:
        return "\n".join(line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a caption ({error}): write it in UTF-8.") from error
