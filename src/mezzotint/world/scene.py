"""The scene as data: one to four solids on a table, drawn at random, some combinations kept out of training.

Lengths are in table units: the picture shows about 4.4 of them across the middle of the table. x grows to the
right, y away from the viewer, z up; the table is z = 0.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
TABLES = ("wooden", "stone", "slate", "linen", "tiled")
LIGHTS = ("left", "right", "front")

MAX_OBJECTS = 4
RADIUS = {"small": 0.40, "large": 0.58}
"""Half the width of a solid, by the name of its size."""

HELD_OUT_PAIRS = frozenset(
    {
        ("sphere", "cyan"),
        ("cube", "purple"),
        ("cylinder", "orange"),
        ("cone", "pink"),
        ("torus", "green"),
        ("pyramid", "black"),
    }
)
"""(shape, colour) never seen in training: every shape once."""

HELD_OUT_SHARE = 10
"""One in this many combinations of two or more solids is kept out of training."""


@dataclass(frozen=True)
class Solid:
    """One object, by the names of its attributes, and where its centre stands on the table."""

    shape: str
    colour: str
    size: str = "large"
    material: str = "matte"
    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0


@dataclass(frozen=True)
class Scene:
    """What stands on the table, which table, and from where the light comes."""

    solids: tuple[Solid, ...]
    table: str = "wooden"
    light: str = "left"

    def left_to_right(self) -> tuple[Solid, ...]:
        """The solids in the order in which a viewer reads them."""
        return tuple(sorted(self.solids, key=lambda solid: solid.x))


@dataclass(frozen=True)
class Scenes:
    """B scenes as tensors, four slots each; indices are into the name tables above.

    shape, colour, size, material [B 4] int64; present [B 4] bool; x, y, yaw [B 4] float32 in table units and
    radians; table, light [B] int64.
    """

    shape: Tensor
    colour: Tensor
    size: Tensor
    material: Tensor
    present: Tensor
    x: Tensor
    y: Tensor
    yaw: Tensor
    table: Tensor
    light: Tensor

    def __len__(self) -> int:
        return self.shape.shape[0]

    def take(self, index: Tensor | slice) -> Scenes:
        """The scenes at these places."""
        return Scenes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def to(self, device: torch.device | str) -> Scenes:
        """The same scenes on another device."""
        return Scenes(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def mirrored(self) -> Scenes:
        """Left and right exchanged, light too: what these pictures' mirror images show, but for grain and tint."""
        light = self.light.clone()
        left, right = LIGHTS.index("left"), LIGHTS.index("right")
        light[self.light == left] = right
        light[self.light == right] = left
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Scenes(**{**values, "x": -self.x, "yaw": -self.yaw, "light": light})

    def radius(self) -> Tensor:
        """Half the width of every solid, [B 4], in table units."""
        return torch.tensor([RADIUS[name] for name in SIZES], device=self.size.device)[self.size]

    def describe(self) -> list[Scene]:
        """The same scenes with names instead of indices."""
        columns = [
            column.tolist() for column in (self.shape, self.colour, self.size, self.material, self.x, self.y, self.yaw)
        ]
        scenes: list[Scene] = []
        for row, present in enumerate(self.present.tolist()):
            solids = tuple(
                Solid(SHAPES[s], COLOURS[c], SIZES[z], MATERIALS[m], x, y, yaw)
                for here, s, c, z, m, x, y, yaw in zip(present, *(column[row] for column in columns), strict=True)
                if here
            )
            scenes.append(Scene(solids, TABLES[int(self.table[row])], LIGHTS[int(self.light[row])]))
        return scenes


def gather(scenes: list[Scene]) -> Scenes:
    """Named scenes as tensors. Raises ValueError for a name that the world does not know or more than four solids."""
    size = (len(scenes), MAX_OBJECTS)
    integer = {name: torch.zeros(size, dtype=torch.int64) for name in ("shape", "colour", "size", "material")}
    real = {name: torch.zeros(size) for name in ("x", "y", "yaw")}
    present = torch.zeros(size, dtype=torch.bool)
    names = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "material": MATERIALS}
    for row, scene in enumerate(scenes):
        if len(scene.solids) > MAX_OBJECTS:
            raise ValueError(f"A scene holds at most {MAX_OBJECTS} solids; this one has {len(scene.solids)}.")
        for slot, solid in enumerate(scene.solids):
            present[row, slot] = True
            for name, table in names.items():
                integer[name][row, slot] = table.index(getattr(solid, name))
            for name, column in real.items():
                column[row, slot] = getattr(solid, name)
    table = torch.tensor([TABLES.index(scene.table) for scene in scenes])
    light = torch.tensor([LIGHTS.index(scene.light) for scene in scenes])
    return Scenes(**integer, present=present, **real, table=table, light=light)


def is_held_out(solids: tuple[Solid, ...]) -> bool:
    """Whether training never sees this combination: it has a held-out pair, or it is one of the tenth kept apart.

    The tenth is chosen by a digest of the sorted (shape, colour) pairs, so it is the same on every machine.
    """
    pairs = sorted((solid.shape, solid.colour) for solid in solids)
    if any(pair in HELD_OUT_PAIRS for pair in pairs):
        return True
    if len(pairs) == 1:
        return False
    digest = hashlib.sha256(repr(pairs).encode()).digest()
    return digest[0] % HELD_OUT_SHARE == 0


def random_scenes(count: int, seed: int, *, held_out: bool | None = False) -> Scenes:
    """`count` scenes from the world's distribution, a pure function of the arguments.

    held_out: False draws only what training may see, True only what it may not, None either.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[Scenes] = []
    found = 0
    while found < count:
        scenes = _candidates(max(256, count), generator)
        if held_out is not None:
            keep = torch.tensor([is_held_out(scene.solids) == held_out for scene in scenes.describe()])
            scenes = scenes.take(keep.nonzero()[:, 0])
        parts.append(scenes)
        found += len(scenes)
    joined = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Scenes)}
    return Scenes(**joined).take(slice(count))


COUNT_SHARES = (0.24, 0.36, 0.22, 0.18)
"""How often one, two, three and four solids stand on the table."""
ALIKE_SHARE = 0.35
"""How often several solids are all of one shape, and mostly of one colour and size: these teach counting."""


def _candidates(count: int, generator: torch.Generator) -> Scenes:
    def integers(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator)

    def chance(share: float, *size: int) -> Tensor:
        return torch.rand(size, generator=generator) < share

    size = (count, MAX_OBJECTS)
    number = torch.multinomial(torch.tensor(COUNT_SHARES), count, replacement=True, generator=generator) + 1
    present = torch.arange(MAX_OBJECTS) < number[:, None]
    shape, colour, big = integers(len(SHAPES), *size), integers(len(COLOURS), *size), integers(len(SIZES), *size)
    material = integers(len(MATERIALS), *size)
    alike = chance(ALIKE_SHARE, count, 1)
    one_colour = alike & chance(0.75, count, 1)
    shape = torch.where(alike, shape[:, :1], shape)
    colour = torch.where(one_colour, colour[:, :1], colour)
    material = torch.where(one_colour, material[:, :1], material)
    big = torch.where(one_colour & chance(0.8, count, 1), big[:, :1], big)
    x, y = _places(present, big, generator)
    yaw = torch.rand(size, generator=generator) * (2 * torch.pi)
    return Scenes(
        shape=shape,
        colour=colour,
        size=big,
        material=material,
        present=present,
        x=x,
        y=y,
        yaw=yaw,
        table=integers(len(TABLES), count),
        light=integers(len(LIGHTS), count),
    )


def _places(present: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x, y [B 4]: solids in view, apart on the table, and apart for the viewer, so that none hides another."""
    radius = torch.tensor([RADIUS[name] for name in SIZES])[size]
    count, slots = present.shape
    x, y = torch.zeros(count, slots), torch.zeros(count, slots)
    open_rows = torch.arange(count)
    both = present[:, :, None] & present[:, None, :] & ~torch.eye(slots, dtype=torch.bool)
    while len(open_rows) > 0:
        here = len(open_rows)
        new_y = torch.rand(here, slots, generator=generator) * 2.3 - 1.2
        reach = 2.0 + 0.2 * new_y - radius[open_rows]
        new_x = (torch.rand(here, slots, generator=generator) * 2 - 1) * reach
        x[open_rows], y[open_rows] = new_x, new_y
        dx, dy = new_x[:, :, None] - new_x[:, None, :], new_y[:, :, None] - new_y[:, None, :]
        reach_pair = radius[open_rows][:, :, None] + radius[open_rows][:, None, :]
        # A solid hides what stands behind it: along the line of sight it needs more room than across it.
        apart = (dx / reach_pair) ** 2 + (dy / (1.3 * reach_pair)) ** 2 > 1.08
        good = (apart | ~both[open_rows]).flatten(1).all(dim=1)
        open_rows = open_rows[~good]
    return x, y
