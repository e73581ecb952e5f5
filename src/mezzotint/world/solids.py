"""Where a ray meets each solid, and which way the surface faces there.

Every solid lives in its own frame: its base is z = 0, its half width about 1. Rays come as origin o and direction d,
[3 n] each, directions of any length; distances t [n] are in multiples of d, infinite where the ray misses.
Cylinder, cone and sphere are quadratics, cube and pyramid intersections of half-spaces (slabs; Kay and Kajiya 1986),
the torus is met by sphere tracing its distance field (Hart 1996).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

INF = float("inf")
NEAR = 1e-3

CUBE = 0.80
CYLINDER_RADIUS, CYLINDER_HEIGHT = 0.80, 1.60
CONE_RADIUS, CONE_HEIGHT = 0.98, 1.90
TORUS_RING, TORUS_TUBE = 0.68, 0.31
PYRAMID_BASE, PYRAMID_HEIGHT = 0.92, 1.70


@dataclass(frozen=True)
class Surface:
    """A solid: how a ray meets it, how it faces, and the ball that holds it (height of the centre, radius)."""

    meet: Callable[[Tensor, Tensor], Tensor]
    normal: Callable[[Tensor], Tensor]
    centre: float
    bound: float


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both roots of a t^2 + 2 b t + c = 0, the smaller first; infinite where there is none."""
    root = (b * b - a * c).clamp_(min=-1e-12)
    real = root >= 0
    root = root.clamp_(min=0).sqrt_()
    low, high = (-b - root) / a, (-b + root) / a
    return torch.where(real, low, INF), torch.where(real, high, INF)


def _first(*candidates: Tensor) -> Tensor:
    """The nearest candidate in front of the origin."""
    best = torch.where(candidates[0] > NEAR, candidates[0], INF)
    for candidate in candidates[1:]:
        best = torch.minimum(best, torch.where(candidate > NEAR, candidate, INF))
    return best


def _sphere(o: Tensor, d: Tensor) -> Tensor:
    z = o[2] - 1
    a = d[0] ** 2 + d[1] ** 2 + d[2] ** 2
    b = o[0] * d[0] + o[1] * d[1] + z * d[2]
    c = o[0] ** 2 + o[1] ** 2 + z**2 - 1
    return _first(*_roots(a, b, c))


def _sphere_normal(p: Tensor) -> Tensor:
    return torch.stack([p[0], p[1], p[2] - 1])


def _cube(o: Tensor, d: Tensor) -> Tensor:
    enter, leave = torch.full_like(o[0], -INF), torch.full_like(o[0], INF)
    for axis, middle in ((0, 0.0), (1, 0.0), (2, CUBE)):
        inverse = 1 / d[axis]
        near, far = (middle - CUBE - o[axis]) * inverse, (middle + CUBE - o[axis]) * inverse
        enter, leave = torch.maximum(enter, torch.minimum(near, far)), torch.minimum(leave, torch.maximum(near, far))
    return torch.where((enter < leave) & (enter > NEAR), enter, INF)


def _cube_normal(p: Tensor) -> Tensor:
    q = torch.stack([p[0], p[1], p[2] - CUBE])
    face = q.abs().argmax(dim=0, keepdim=True)
    return torch.zeros_like(q).scatter_(0, face, torch.gather(q, 0, face).sign())


def _cylinder(o: Tensor, d: Tensor) -> Tensor:
    a = d[0] ** 2 + d[1] ** 2
    b = o[0] * d[0] + o[1] * d[1]
    c = o[0] ** 2 + o[1] ** 2 - CYLINDER_RADIUS**2
    side, _ = _roots(a, b, c)
    z = o[2] + side * d[2]
    side = torch.where((z >= 0) & (z <= CYLINDER_HEIGHT), side, INF)
    cap = (CYLINDER_HEIGHT - o[2]) / d[2]
    inside = (o[0] + cap * d[0]) ** 2 + (o[1] + cap * d[1]) ** 2 <= CYLINDER_RADIUS**2
    return _first(side, torch.where(inside, cap, INF))


def _cylinder_normal(p: Tensor) -> Tensor:
    cap = p[2] > CYLINDER_HEIGHT - 1e-3
    zero = torch.zeros_like(p[0])
    return torch.stack(
        [torch.where(cap, zero, p[0]), torch.where(cap, zero, p[1]), torch.where(cap, torch.ones_like(zero), zero)]
    )


_CONE_SLOPE = (CONE_RADIUS / CONE_HEIGHT) ** 2


def _cone(o: Tensor, d: Tensor) -> Tensor:
    z = o[2] - CONE_HEIGHT
    a = d[0] ** 2 + d[1] ** 2 - _CONE_SLOPE * d[2] ** 2
    b = o[0] * d[0] + o[1] * d[1] - _CONE_SLOPE * z * d[2]
    c = o[0] ** 2 + o[1] ** 2 - _CONE_SLOPE * z**2
    roots = _roots(a, b, c)
    heights = [o[2] + root * d[2] for root in roots]
    on_cone = [
        torch.where((height >= 0) & (height <= CONE_HEIGHT), root, INF)
        for root, height in zip(roots, heights, strict=True)
    ]
    return _first(*on_cone)


def _cone_normal(p: Tensor) -> Tensor:
    return torch.stack([p[0], p[1], _CONE_SLOPE * (CONE_HEIGHT - p[2])])


def _torus_distance(p: Tensor) -> Tensor:
    ring = (p[0] ** 2 + p[1] ** 2).sqrt_().sub_(TORUS_RING)
    return (ring.square_() + (p[2] - TORUS_TUBE) ** 2).sqrt_().sub_(TORUS_TUBE)


def _torus(o: Tensor, d: Tensor) -> Tensor:
    """Start where the ray enters the slab that holds the torus, walk by the distance to it, give up past the slab."""
    length = d.square().sum(dim=0).sqrt_()
    top, bottom = (2 * TORUS_TUBE - o[2]) / d[2], -o[2] / d[2]
    enter, leave = torch.minimum(top, bottom).clamp_(min=NEAR), torch.maximum(top, bottom)
    inverse = 1 / length
    t = enter
    for _ in range(20):
        t = t + _torus_distance(o + t * d) * inverse
    hit = (_torus_distance(o + t * d) < 8e-3) & (t < leave + 1e-3) & (t > NEAR)
    return torch.where(hit, t, INF)


def _torus_normal(p: Tensor) -> Tensor:
    ring = (p[0] ** 2 + p[1] ** 2).sqrt_().clamp_(min=1e-6)
    along = 1 - TORUS_RING / ring
    return torch.stack([p[0] * along, p[1] * along, p[2] - TORUS_TUBE])


_PYRAMID_TILT = PYRAMID_BASE / PYRAMID_HEIGHT


def _pyramid(o: Tensor, d: Tensor) -> Tensor:
    """Four half-spaces s x + tilt z <= base and the ground."""
    enter, leave = torch.full_like(o[0], -INF), torch.full_like(o[0], INF)
    for axis in (0, 1):
        for sign in (-1.0, 1.0):
            speed = sign * d[axis] + _PYRAMID_TILT * d[2]
            t = (PYRAMID_BASE - sign * o[axis] - _PYRAMID_TILT * o[2]) / speed
            enter = torch.where(speed < 0, torch.maximum(enter, t), enter)
            leave = torch.where(speed > 0, torch.minimum(leave, t), leave)
    ground = -o[2] / d[2]
    enter = torch.where(d[2] > 0, torch.maximum(enter, ground), enter)
    leave = torch.where(d[2] < 0, torch.minimum(leave, ground), leave)
    return torch.where((enter < leave) & (enter > NEAR), enter, INF)


def _pyramid_normal(p: Tensor) -> Tensor:
    sideways = p[0].abs() > p[1].abs()
    zero = torch.zeros_like(p[0])
    tilt = torch.full_like(zero, _PYRAMID_TILT)
    return torch.stack([torch.where(sideways, p[0].sign(), zero), torch.where(sideways, zero, p[1].sign()), tilt])


SURFACES: dict[str, Surface] = {
    "sphere": Surface(_sphere, _sphere_normal, 1.0, 1.0),
    "cube": Surface(_cube, _cube_normal, CUBE, CUBE * 3**0.5),
    "cylinder": Surface(_cylinder, _cylinder_normal, CYLINDER_HEIGHT / 2, (CYLINDER_RADIUS**2 + 0.64) ** 0.5),
    "cone": Surface(_cone, _cone_normal, 0.70, 1.2045),
    "torus": Surface(_torus, _torus_normal, TORUS_TUBE, TORUS_RING + TORUS_TUBE),
    "pyramid": Surface(_pyramid, _pyramid_normal, 0.36, 1.351),
}
"""Every solid of the world, by name."""
