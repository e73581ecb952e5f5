"""The scene as data: one to four solids on a table, drawn at random, some combinations kept out of training.

Lengths are in table units: the picture shows about 4.4 of them across the middle of the table. x grows to the
right, y away from the viewer, z up; the table is z = 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mezzotint.world.colours import COLOURS, random_tints

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid")
SIZES = ("small", "large")
MATERIALS = ("matte", "shiny")
TABLES = ("wooden", "stone", "slate", "linen", "tiled")
LIGHTS = ("left", "right", "front")

MAX_OBJECTS = 4
RADIUS = {"small": 0.48, "large": 0.68}
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

TINT_SEED, DISGUISE_SEED = 7_000_003, 9_000_011
"""Between the stream that draws scenes and those of their tints and their disguises."""
HELD_OUT_SHARE = 10
"""One in this many combinations of two or more solids is kept out of training."""


@dataclass(frozen=True)
class Solid:
    """One object, by the names of its attributes, and where its centre stands on the table.

    The colour of a tinted solid that nobody would name is "".
    """

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
    radians; table, light [B] int64; tint [B 4 3] what is added to the colour's linear reflectance, and clear [B 4]
    bool, whether the colour's name, still the nearest, is what anybody would call it.
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
    tint: Tensor
    clear: Tensor

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
        kinds = (self.shape, self.colour, self.clear, self.size, self.material, self.x, self.y, self.yaw)
        columns = [column.tolist() for column in kinds]
        scenes: list[Scene] = []
        for row, present in enumerate(self.present.tolist()):
            solids = tuple(
                Solid(SHAPES[s], COLOURS[c] if clear else "", SIZES[z], MATERIALS[m], x, y, yaw)
                for here, s, c, clear, z, m, x, y, yaw in zip(
                    present, *(column[row] for column in columns), strict=True
                )
                if here
            )
            scenes.append(Scene(solids, TABLES[int(self.table[row])], LIGHTS[int(self.light[row])]))
        return scenes


def joined(parts: Sequence[Scenes]) -> Scenes:
    """All their scenes, one after the other."""
    return Scenes(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Scenes)})


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
    return Scenes(**integer, present=present, **real, table=table, light=light, **_untinted(len(scenes)))


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


def random_scenes(count: int, seed: int, *, held_out: bool | None = False, tinted: float = 0.0) -> Scenes:
    """`count` scenes from the world's distribution, a pure function of the arguments.

    held_out: False draws only what training may see, True only what it may not, None either. tinted: the share of the
    scenes whose colours lie between the named ones (`world.colours`); nothing else of any scene depends on it, and a
    solid never comes nearer to a colour that is held out with its shape than to its own.
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
    scenes = joined(parts).take(slice(count))
    return _tinted(scenes, tinted, seed) if tinted > 0 else scenes


def _untinted(count: int) -> dict[str, Tensor]:
    return {
        "tint": torch.zeros(count, MAX_OBJECTS, 3),
        "clear": torch.ones(count, MAX_OBJECTS, dtype=torch.bool),
    }


def _tinted(scenes: Scenes, share: float, seed: int) -> Scenes:
    """A share of the scenes in other tints; solids of one scene whose colours have one name have one tint."""
    generator = torch.Generator().manual_seed(seed + TINT_SEED)
    chosen = torch.rand(len(scenes), 1, generator=generator) < share
    tints, clear = random_tints(len(scenes), generator)
    tint = torch.take_along_dim(tints, scenes.colour[..., None], dim=1)
    return replace(
        scenes,
        tint=torch.where(chosen[..., None], tint, 0.0),
        clear=torch.take_along_dim(clear, scenes.colour, dim=1) | ~chosen,
    )


KINDS = {"colour": len(COLOURS), "shape": len(SHAPES)}
"""What solids may be disguised in, and how many there are of each."""
TRIES = 12
"""How often a disguise is drawn for a scene."""


def disguised(scenes: Scenes, seed: int, attributes: Sequence[str]) -> Scenes:
    """The same scenes with solids of other colours, shapes or both, as `attributes` name; a pure function of all three.

    What changes in a scene is exchanged among its solids, or any. Training may see them as they are then; where a few
    tries find no such scene it stays as it is.
    """
    generator = torch.Generator().manual_seed(seed + DISGUISE_SEED)
    found, missing = scenes, torch.arange(len(scenes))
    for _ in range(TRIES):
        own = scenes.take(missing)
        drawn = _disguise(own, attributes, generator)
        named = replace(drawn, clear=torch.ones_like(drawn.clear)).describe()
        seen = torch.tensor([not is_held_out(scene.solids) for scene in named], dtype=torch.bool)
        differs = torch.stack([getattr(drawn, name) != getattr(own, name) for name in attributes]).any(dim=0)
        good = seen & (differs & own.present).any(dim=1)
        place = torch.arange(len(scenes))
        place[missing[good]] = len(scenes) + good.nonzero()[:, 0]
        found, missing = joined([found, drawn]).take(place), missing[~good]
    return found


def _disguise(scenes: Scenes, attributes: Sequence[str], generator: torch.Generator) -> Scenes:
    """One try for every scene."""
    size = scenes.present.shape
    exchanged = (torch.rand(size[0], generator=generator) < 0.5)[:, None]
    some = torch.randint(1, 2 ** len(attributes), (size[0],), generator=generator)[:, None]
    for bit, name in enumerate(attributes):
        order = torch.rand(size, generator=generator).masked_fill(~scenes.present, 2.0).argsort(dim=1)
        anew = torch.randint(KINDS[name], size, generator=generator)
        values = {name: torch.where(exchanged, getattr(scenes, name).gather(1, order), anew)}
        if name == "colour":  # Tints go with their colours, and new ones have none.
            tint = torch.take_along_dim(scenes.tint, order[..., None], dim=1)
            values["tint"] = torch.where(exchanged[..., None], tint, 0.0)
            values["clear"] = scenes.clear.gather(1, order) | ~exchanged
        scenes = _where((some >> bit & 1 > 0)[:, 0], replace(scenes, **values), scenes)
    return scenes


def _where(rows: Tensor, one: Scenes, other: Scenes) -> Scenes:
    """The scenes of one at these rows, [B] bools, and of the other elsewhere."""
    index = torch.where(rows, 0, len(rows)) + torch.arange(len(rows))
    return joined([one, other]).take(index)


COUNT_SHARES = (0.24, 0.36, 0.22, 0.18)
"""How often one, two, three and four solids stand on the table."""
ALIKE_SHARE = 0.35
"""How often several solids are all of one shape, and mostly of one colour and size: these teach counting."""
TWO_KINDS_SHARE = 0.35
"""How often three or four others are of two kinds, the solids of each alike: these teach counting apart."""


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
    two_kinds = ~alike & (number > 2)[:, None] & chance(TWO_KINDS_SHARE, count, 1)
    kind = integers(2, *size)
    kind[:, 0], kind[:, 1] = 0, 1
    shape, colour, material, big = (
        torch.where(two_kinds, values.gather(1, kind), values) for values in (shape, colour, material, big)
    )
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
        **_untinted(count),
    )


def _places(present: Tensor, size: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x, y [B 4]: solids in view, apart on the table, and apart for the viewer, so that none hides another.

    Every row sets down its next solid where there is room, and begins again when it has not found room for long.
    """
    radius = torch.tensor([RADIUS[name] for name in SIZES])[size]
    count, slots = present.shape
    x, y = torch.zeros(count, slots), torch.zeros(count, slots)
    placed, failures = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    wanted = present.sum(dim=1)
    while len(rows := (placed < wanted).nonzero()[:, 0]) > 0:
        slot = placed[rows]
        mine = radius[rows, slot]
        new_y = torch.rand(len(rows), generator=generator) * 2.6 - 1.35
        new_x = (torch.rand(len(rows), generator=generator) * 2 - 1) * (1.95 + 0.2 * new_y - mine)
        dx, dy = new_x[:, None] - x[rows], new_y[:, None] - y[rows]
        reach = mine[:, None] + radius[rows]
        # A solid hides what stands behind it: along the line of sight it needs more room than across it.
        apart = (dx / reach) ** 2 + (dy / (1.25 * reach)) ** 2 > 1.15
        good = (apart | (torch.arange(slots) >= slot[:, None])).all(dim=1)
        fits, fails = rows[good], rows[~good]
        x[fits, placed[fits]], y[fits, placed[fits]] = new_x[good], new_y[good]
        placed[fits] += 1
        failures[fails] += 1
        stuck = fails[failures[fails] % 30 == 0]
        placed[stuck] = 0
    return x, y
