"""A vectorised ray-caster: scenes in, pictures with their exact depth and object masks out.

Pixels [B 3 H W] in [-1, 1]; depth [B H W] along the viewing axis in table units; masks [B 4 H W], the share of each
pixel that each solid covers. Every pixel takes a square of samples; each sample sees the light from another point of
the lamp, which softens shadows. A ball around every solid tells cheaply which rays are worth meeting exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mezzotint.world.colours import ALBEDO, COLOURS
from mezzotint.world.scene import LIGHTS, MATERIALS, MAX_OBJECTS, SHAPES, TABLES, Scenes
from mezzotint.world.solids import INF, SURFACES

EYE = (0.0, -4.3, 6.0)
LOOK_AT = (0.0, -0.02, 0.2)
HALF_VIEW = 0.300
"""Tangent of half the angle of view, across the shorter side."""
WALL = 2.15
"""Where the table ends and the wall begins, y in table units."""

TABLE_ALBEDO = {
    "wooden": ((0.40, 0.22, 0.10), (0.28, 0.14, 0.06)),
    "stone": ((0.44, 0.44, 0.42), (0.36, 0.36, 0.35)),
    "slate": ((0.13, 0.14, 0.16), (0.10, 0.11, 0.13)),
    "linen": ((0.62, 0.55, 0.42), (0.56, 0.49, 0.37)),
    "tiled": ((0.58, 0.56, 0.50), (0.30, 0.31, 0.33)),
}
WALL_ALBEDO = {
    "wooden": (0.50, 0.47, 0.41),
    "stone": (0.30, 0.33, 0.37),
    "slate": (0.42, 0.42, 0.43),
    "linen": (0.33, 0.37, 0.36),
    "tiled": (0.55, 0.50, 0.44),
}
LAMP = {"left": (-0.62, -0.40, 0.90), "right": (0.62, -0.40, 0.90), "front": (-0.08, -0.62, 0.90)}
"""Direction to the lamp."""
LAMP_COLOUR = {"left": (1.02, 0.98, 0.92), "right": (0.96, 0.99, 1.03), "front": (1.0, 1.0, 1.0)}
LAMP_SIZE = 0.075
"""Spread of the lamp's points around its direction: how soft a shadow's edge is."""
AMBIENT, DIFFUSE = 0.36, 0.86
WALL_SKY = 0.72
"""How much of the sky an upright wall sees."""


RAYS_IN_WORK = 2**21
ON_TABLE = 1e-3
"""What of the room is lower than this is table."""


@dataclass(frozen=True)
class Rendering:
    """Pictures [B 3 H W] in [-1, 1], depth [B H W], masks [B 4 H W] in [0, 1], and the scenes they show."""

    pixels: Tensor
    depth: Tensor
    masks: Tensor
    scenes: Scenes


def render(scenes: Scenes, height: int = 64, width: int | None = None, *, samples: int = 2) -> Rendering:
    """Draw scenes at any resolution with `samples` x `samples` rays a pixel, on the device the scenes are on.

    A few scenes are in work at a time, or a band of rows of one, which bounds memory and keeps it in cache.
    """
    width = height if width is None else width
    rays = width * samples**2
    rows = min(height, max(1, RAYS_IN_WORK // rays))
    chunk = max(1, RAYS_IN_WORK // (rows * rays))
    bands: list[tuple[Tensor, ...]] = []
    for top in range(0, height, rows):
        look = _whole_view if rows == height else _view
        view = look(height, width, samples, str(scenes.shape.device), top, min(top + rows, height))
        some = (scenes.take(slice(start, start + chunk)) for start in range(0, len(scenes), chunk))
        parts = [_render(each, view, width, samples) for each in some]
        bands.append(tuple(torch.cat(column) for column in zip(*parts, strict=True)))
    pixels, depth, masks = (torch.cat(column, dim=-2) for column in zip(*bands, strict=True))
    return Rendering(pixels, depth, masks, scenes)


def shows_table(height: int, width: int | None = None) -> Tensor:
    """Where the empty room shows its table, and not the wall behind it: [H W] bools."""
    width = height if width is None else width
    return _whole_view(height, width, 1, "cpu", 0, height).point[2].view(height, width) < ON_TABLE


@dataclass(frozen=True)
class _View:
    """What the fixed camera sees of the empty room; P samples in all, sample by sample of the pixel square."""

    direction: Tensor  # [3 P], unit length
    background: Tensor  # [P] distance to table or wall
    point: Tensor  # [3 P] where that is
    along_axis: Tensor  # [P] depth of a sample at distance 1
    lamp: Tensor  # [3 lights P] unit direction to the point of the lamp that a sample sees
    ambient: Tensor  # [tables 3 P] light from an open sky
    direct: Tensor  # [tables lights 3 P] light from an unhidden lamp
    table: Tensor  # [T] the samples that show the table
    passing: Tensor  # [lights 10 T] how their rays to the lamp pass a point, by its `_powers`


def _view(height: int, width: int, samples: int, device: str, top: int, bottom: int) -> _View:
    """The view in the rows from `top` to `bottom`."""
    eye, look_at = torch.tensor(EYE, device=device), torch.tensor(LOOK_AT, device=device)
    forward = torch.nn.functional.normalize(look_at - eye, dim=0)
    right = torch.tensor([1.0, 0.0, 0.0], device=device)
    up = torch.linalg.cross(right, forward)
    square = torch.arange(samples, device=device)
    sub_y, sub_x = (grid.flatten() for grid in torch.meshgrid(square, square, indexing="ij"))
    scale = 2 * HALF_VIEW / min(height, width)

    def positions(count: int, sub: Tensor) -> Tensor:
        inside = (sub.float() + 0.5) / samples
        return (torch.arange(count, device=device)[None, :] + inside[:, None] - count / 2) * scale

    v, u = -positions(height, sub_y)[:, top:bottom], positions(width, sub_x)
    v = v[:, :, None].expand(-1, -1, width).flatten()
    u = u[:, None, :].expand(-1, bottom - top, -1).flatten()
    direction = forward[:, None] + right[:, None] * u + up[:, None] * v
    direction = direction / direction.norm(dim=0)
    table = torch.where(direction[2] < 0, -eye[2] / direction[2], INF)
    wall = torch.where(direction[1] > 0, (WALL - eye[1]) / direction[1], INF)
    background, on_wall = torch.minimum(table, wall), wall < table
    point = eye[:, None] + direction * background

    # Every sample of a pixel sees another point of the lamp, on a sunflower's disc.
    turn = (sub_y * samples + sub_x + 0.5) * 2.399963 + 0.3
    spread = LAMP_SIZE * ((torch.arange(samples**2, device=device) + 0.5) / samples**2).sqrt()
    offset = torch.stack([spread * turn.cos(), spread * turn.sin(), torch.zeros_like(spread)])
    middle = torch.tensor([LAMP[name] for name in LIGHTS], device=device)
    lamp = middle[:, :, None] + offset.repeat_interleave((bottom - top) * width, dim=1)
    lamp = lamp / lamp.norm(dim=1, keepdim=True)

    albedo = torch.where(on_wall, _named(WALL_ALBEDO, device)[:, :, None], _table_albedo(point))
    facing = torch.where(on_wall, -lamp[:, 1], lamp[:, 2]).clamp(min=0)
    tint = torch.tensor([LAMP_COLOUR[name] for name in LIGHTS], device=device)
    on_table = (point[2] < ON_TABLE).nonzero()[:, 0]
    return _View(
        direction=direction,
        background=background,
        point=point,
        along_axis=forward @ direction,
        lamp=lamp.transpose(0, 1).contiguous(),
        ambient=AMBIENT * albedo * torch.where(on_wall, WALL_SKY, 1.0),
        direct=DIFFUSE * albedo[:, None] * facing[None, :, None] * tint[None, :, :, None],
        table=on_table,
        passing=_passing(point[:, on_table], lamp[:, :, on_table]),
    )


_whole_view = cache(_view)
"""Views that are small enough to keep."""


def _powers(centre: Tensor) -> Tensor:
    """1, x, y, z, xx, yy, zz, xy, xz and yz of points [n 3]: [n 10]."""
    x, y, z = centre.T
    return torch.stack([torch.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z], dim=1)


def _passing(point: Tensor, direction: Tensor) -> Tensor:
    """What makes of `_powers` of c its squared distance from the line through p along d: |c - p|^2 - (d (c - p))^2.

    Points [3 n] and unit directions [L 3 n] give [L 10 n].
    """
    along = (point * direction).sum(dim=1, keepdim=True)
    x, y, z = direction.unbind(dim=1)
    squares = torch.stack([1 - x * x, 1 - y * y, 1 - z * z, -2 * x * y, -2 * x * z, -2 * y * z], dim=1)
    return torch.cat([point.square().sum(dim=0) - along.square(), 2 * (along * direction - point), squares], dim=1)


def _named(table: dict[str, tuple[float, float, float]], device: str) -> Tensor:
    return torch.tensor([table[name] for name in TABLES], device=device)


def _table_albedo(point: Tensor) -> Tensor:
    """[tables 3 P]: grain, veins, weave or tiles are a blend of a table's two colours."""
    x, y, _ = point
    veins = 0.5 + 0.5 * torch.sin(2.1 * x + 1.3 * y + 1.5 * torch.sin(1.9 * y - 0.8 * x))
    patterns = {
        "wooden": 0.5 + 0.5 * torch.sin(9 * y + 0.7 * torch.sin(1.7 * x) + 0.4 * torch.sin(23 * y)),
        "stone": veins,
        "slate": veins,
        "linen": 0.5 + 0.25 * (torch.sin(14 * x) + torch.sin(14 * y)),
        "tiled": ((x / 0.9 + 0.5).floor() + (y / 0.9).floor()) % 2,
    }
    pair = torch.tensor([TABLE_ALBEDO[name] for name in TABLES], device=point.device)[..., None]  # [tables 2 3 1]
    blend = torch.stack([patterns[name] for name in TABLES])[:, None]
    return pair[:, 0] + (pair[:, 1] - pair[:, 0]) * blend


class _Solids:
    """All solids of a batch in one table; solid k = 4 * scene + slot."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes
        self.shape, self.x, self.y = scenes.shape.flatten(), scenes.x.flatten(), scenes.y.flatten()
        scale = scenes.radius().flatten()
        self.inverse, self.cos, self.sin = 1 / scale, scenes.yaw.cos().flatten(), scenes.yaw.sin().flatten()
        self.here = scenes.present.flatten().nonzero()[:, 0]
        ball = torch.tensor([(SURFACES[name].centre, SURFACES[name].bound) for name in SHAPES]).to(self.x.device)
        height, bound = (ball[self.shape] * scale[:, None]).unbind(dim=1)
        self.centre = torch.stack([self.x, self.y, height], dim=1)  # [K 3]
        self.bound = bound.square()

    def _local(self, k: Tensor, v: Tensor, *, point: bool) -> Tensor:
        """Points or directions [3 n] of the room in the frames of solids k [n]."""
        x, y, z = v
        if point:
            x, y = x - self.x.index_select(0, k), y - self.y.index_select(0, k)
        cos, sin, inverse = (part.index_select(0, k) for part in (self.cos, self.sin, self.inverse))
        return torch.stack([(cos * x + sin * y) * inverse, (cos * y - sin * x) * inverse, z * inverse])

    def meet(self, k: Tensor, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Rays [3 n] against solids k [n]: which of the n meet, and at which distance."""
        which: list[Tensor] = []
        distance: list[Tensor] = []
        shape = self.shape[k]
        for index, name in enumerate(SHAPES):
            mine = (shape == index).nonzero()[:, 0]
            o, d = origin if origin.shape[1] == 1 else origin.index_select(1, mine), direction.index_select(1, mine)
            t = SURFACES[name].meet(self._local(k[mine], o, point=True), self._local(k[mine], d, point=False))
            met = (t < INF).nonzero()[:, 0]
            which.append(mine[met])
            distance.append(t[met])
        return torch.cat(which), torch.cat(distance)

    def normal(self, k: Tensor, point: Tensor) -> Tensor:
        """Unit normals [3 n] of solids k at points [3 n] on their surfaces."""
        normal = torch.empty_like(point)
        local, shape = self._local(k, point, point=True), self.shape[k]
        for index, name in enumerate(SHAPES):
            mine = (shape == index).nonzero()[:, 0]
            normal[:, mine] = SURFACES[name].normal(local.index_select(1, mine))
        x, y, z = normal
        cos, sin = self.cos[k], self.sin[k]
        normal = torch.stack([cos * x - sin * y, sin * x + cos * y, z])
        return normal / normal.square().sum(dim=0).sqrt_()


def _render(scenes: Scenes, view: _View, width: int, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    device = scenes.shape.device
    solids = _Solids(scenes)
    rows, rays = len(scenes), view.background.shape[0]
    height = rays // (width * samples**2)

    # What each ray meets first.
    eye = torch.tensor(EYE, device=device)[:, None]
    k, ray = _seen_candidates(solids, view)
    met, t = solids.meet(k, eye, view.direction.index_select(1, ray))
    k, ray = k[met], ray[met]
    place = k // MAX_OBJECTS * rays + ray
    nearest = view.background.repeat(rows).scatter_reduce_(0, place, t, "amin")
    first = (nearest[place] == t).nonzero()[:, 0]
    k, ray, place, t = k[first], ray[first], place[first], t[first]

    # The room, then the solids over it.
    sky = _open_sky(scenes, view.point.view(3, samples**2, -1).mean(dim=1)).repeat(1, samples**2)
    lit = _room_lit(solids, view)
    colour = torch.empty(3, rows, rays, device=device)
    for row, (table, light) in enumerate(zip(scenes.table.tolist(), scenes.light.tolist(), strict=True)):
        # One by one: together they would be gathered into memory that no cache holds.
        torch.mul(view.ambient[table], sky[row], out=colour[:, row])
        colour[:, row].addcmul_(view.direct[table, light], lit[row])
    point = eye + t * view.direction.index_select(1, ray)
    flat = colour.view(3, -1)
    flat[:, place] = _solid_colour(solids, view, k, ray, point)

    # Samples of a pixel to the pixel.
    shape = (rows, samples**2, height, width)
    pixels = flat.view(3, *shape).mean(dim=2).transpose(0, 1)
    pixels = pixels.clamp(0, 1) ** (1 / 2.2) * 2 - 1
    depth = (nearest.view(rows, rays) * view.along_axis).view(shape).amin(dim=1)
    masks = torch.zeros(rows * MAX_OBJECTS * height * width, device=device)
    masks.index_add_(0, k * (height * width) + ray % (height * width), torch.ones_like(t))
    return pixels.contiguous(), depth, masks.view(rows, MAX_OBJECTS, height, width) / samples**2


def _seen_candidates(solids: _Solids, view: _View) -> tuple[Tensor, Tensor]:
    """(solid, ray) pairs whose ray from the eye passes through the ball around the solid."""
    away = solids.centre[solids.here] - torch.tensor(EYE, device=view.point.device)
    least = (away.square().sum(dim=1) - solids.bound[solids.here]).sqrt()
    index, ray = (away @ view.direction > least[:, None]).nonzero(as_tuple=True)
    return solids.here[index], ray


def _room_lit(solids: _Solids, view: _View) -> Tensor:
    """Whether each sample of table and wall sees the lamp, [B P]: 1, or 0 in a solid's shadow."""
    rows, rays = len(solids.scenes), view.background.shape[0]
    lit = torch.ones(rows * rays, device=view.point.device)
    light = solids.scenes.light[solids.here // MAX_OBJECTS]
    for index in range(len(LIGHTS)):
        mine = solids.here[light == index]
        away = _powers(solids.centre[mine]) @ view.passing[index]
        which, place = (away < 1.001 * solids.bound[mine][:, None]).nonzero(as_tuple=True)
        k, ray = mine[which], view.table[place]
        met, _ = solids.meet(k, view.point.index_select(1, ray), view.lamp[:, index].index_select(1, ray))
        lit[k[met] // MAX_OBJECTS * rays + ray[met]] = 0
    return lit.view(rows, rays)


def _solid_colour(solids: _Solids, view: _View, k: Tensor, ray: Tensor, point: Tensor) -> Tensor:
    """Linear light [3 n] of samples on solids: ambient, diffuse, and a highlight where shiny (Blinn 1977)."""
    device, scenes = point.device, solids.scenes
    row = k // MAX_OBJECTS
    light = scenes.light[row]
    lamp = view.lamp.flatten(1).index_select(1, light * view.lamp.shape[2] + ray)
    normal = solids.normal(k, point)
    origin = point + 4e-3 * (normal + lamp)  # off the surface, so that it does not shadow itself
    lit = torch.ones_like(point[0])
    present, centre = scenes.present.flatten(), solids.centre.T.contiguous()
    for slot in range(MAX_OBJECTS):
        other = row * MAX_OBJECTS + slot
        some = present.index_select(0, other).nonzero()[:, 0]
        other, start, along = other[some], origin.index_select(1, some), lamp.index_select(1, some)
        away = centre.index_select(1, other) - start
        ahead = (away * along).sum(dim=0)
        near = (away.square_().sum(dim=0) - ahead.square_() < solids.bound.index_select(0, other)).nonzero()[:, 0]
        met, _ = solids.meet(other[near], start.index_select(1, near), along.index_select(1, near))
        lit[some[near[met]]] = 0
    # Ambient light comes from above; what stands close to the table gets less of it.
    sky = (0.72 + 0.28 * normal[2]) * (0.62 + 0.38 * (point[2] / 0.6).clamp_(0, 1))
    facing = (normal * lamp).sum(dim=0).clamp_(min=0) * lit
    tint = torch.tensor([LAMP_COLOUR[name] for name in LIGHTS], device=device).T.index_select(1, light)
    albedo = torch.tensor([ALBEDO[name] for name in COLOURS], device=device)[scenes.colour.flatten()]
    albedo = (albedo + scenes.tint.flatten(0, 1)).T.index_select(1, k)
    colour = albedo * (AMBIENT * sky + DIFFUSE * facing * tint)
    half = lamp - view.direction.index_select(1, ray)
    gleam = ((normal * half).sum(dim=0).clamp_(min=0) / half.square().sum(dim=0).sqrt_()) ** 60
    shiny = scenes.material.flatten()[k] == MATERIALS.index("shiny")
    return colour + torch.where(shiny, 0.85 * gleam * lit + 0.025, 0.0)


def _open_sky(scenes: Scenes, point: Tensor) -> Tensor:
    """How much of the sky the room still sees around the solids, [B n] in (0, 1]."""
    sky = torch.ones(len(scenes), point.shape[1], device=point.device)
    radius = scenes.radius()
    for slot in range(MAX_OBJECTS):
        dx, dy = point[0] - scenes.x[:, slot, None], point[1] - scenes.y[:, slot, None]
        away = (dx * dx + dy * dy).div_(-1.25 * radius[:, slot, None] ** 2)
        sky *= 1 - 0.62 * away.exp_() * scenes.present[:, slot, None]
    return torch.where(point[2] < ON_TABLE, sky, 1.0)
