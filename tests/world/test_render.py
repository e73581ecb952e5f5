"""The ray-caster against closed forms: where things are, how large, how far, and on which side their shadows fall."""

from __future__ import annotations

import math
import os
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.world import render as module
from mezzotint.world.render import EYE, HALF_VIEW, LAMP, LOOK_AT, WALL, Rendering, render, shows_table
from mezzotint.world.scene import RADIUS, SHAPES, Scene, Scenes, Solid, gather, random_scenes
from mezzotint.world.solids import SURFACES


def axes() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The eye, and the camera's forward, right and up, in float64."""
    eye, at = torch.tensor(EYE, dtype=torch.float64), torch.tensor(LOOK_AT, dtype=torch.float64)
    forward = F.normalize(at - eye, dim=0)
    right = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return eye, forward, right, torch.linalg.cross(right, forward)


def seen_at(point: tuple[float, float, float], size: int) -> tuple[float, float]:
    """Column and row, in pixels of a square picture, at which a point of the room is seen."""
    eye, forward, right, up = axes()
    away = torch.tensor(point, dtype=torch.float64) - eye
    u, v = away @ right / (away @ forward), away @ up / (away @ forward)
    return float(size / 2 * (1 + u / HALF_VIEW)), float(size / 2 * (1 - v / HALF_VIEW))


def one(shape: str, **more: float | str) -> Scene:
    light = str(more.pop("light", "front"))
    return Scene((Solid(shape, "red", **more),), light=light)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return random_scenes(24, 9, held_out=None)


@pytest.fixture(scope="module")
def drawn(scenes: Scenes) -> Rendering:
    return render(scenes, 48)


@pytest.mark.parametrize(("x", "y", "size"), [(0.0, 0.0, "large"), (-1.2, 0.8, "small"), (0.9, -0.9, "large")])
def test_a_sphere_covers_the_area_of_its_ellipse(x: float, y: float, size: str):
    """Of a ball of angular radius a, t off the axis: pi sin^2 a cos a / (cos^2 t - sin^2 a)^(3/2)."""
    side = 192
    eye, forward, _, _ = axes()
    radius = RADIUS[size]
    away = torch.tensor([x, y, radius], dtype=torch.float64) - eye
    sin2 = radius**2 / float(away @ away)
    cos2_off = float(F.normalize(away, dim=0) @ forward) ** 2
    area = math.pi * sin2 * math.sqrt(1 - sin2) / (cos2_off - sin2) ** 1.5
    mask = render(gather([one("sphere", x=x, y=y, size=size)]), side).masks[0, 0]
    # The edge crosses about 4 x 90 samples of the picture's 384 x 384, each counted wholly or not at all.
    assert float(mask.sum()) * (2 * HALF_VIEW / side) ** 2 == pytest.approx(area, rel=5e-3)
    column, row = seen_at((x, y, radius), side)
    middle_x = (mask.sum(dim=0) * (torch.arange(side) + 0.5)).sum() / mask.sum()
    middle_y = (mask.sum(dim=1) * (torch.arange(side) + 0.5)).sum() / mask.sum()
    assert float(middle_x) == pytest.approx(column, abs=0.6)  # An ellipse's middle is a little off its ball's.
    assert float(middle_y) == pytest.approx(row, abs=0.6)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (24, 56)])
def test_the_depth_of_the_empty_room(height: int, width: int):
    eye, forward, _, up = axes()
    drawn = render(gather([Scene(())]), height, width, samples=1)
    v = -(torch.arange(height, dtype=torch.float64) + 0.5 - height / 2) * 2 * HALF_VIEW / min(height, width)
    ray = forward[:, None] + up[:, None] * v  # of length 1 along the axis
    table, wall = -eye[2] / ray[2], (WALL - eye[1]) / ray[1]
    expected = torch.where((ray[2] < 0) & (table < wall), table, wall)[:, None].expand(height, width)
    torch.testing.assert_close(drawn.depth[0].double(), expected, rtol=1e-5, atol=1e-5)
    assert drawn.masks.sum() == 0


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 64)])
def test_the_table_ends_where_the_wall_begins(height: int, width: int):
    """At the row where the edge between them is seen, right across the picture."""
    size = min(height, width)
    _, row = seen_at((0.0, WALL, 0.0), size)
    row += (height - size) / 2
    table = shows_table(height, width)
    assert table.shape == (height, width)
    above = torch.arange(height) + 0.5 < row
    assert torch.equal(table, ~above[:, None].expand(height, width))


def test_the_depth_of_a_sphere_s_nearest_point():
    eye, forward, _, _ = axes()
    centre = torch.tensor([0.0, 0.0, RADIUS["large"]], dtype=torch.float64)
    drawn = render(gather([one("sphere")]), 160, samples=1)
    nearest = float(drawn.depth[0][drawn.masks[0, 0] > 0].min())
    assert nearest == pytest.approx(float((centre - eye) @ forward) - RADIUS["large"], abs=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_rays_end_on_the_surface(shape: str):
    """Every surface in its own words: what the ray-caster meets satisfies the solid's own equation."""
    surface = SURFACES[shape]
    generator = torch.Generator().manual_seed(0)
    aim = F.normalize(torch.randn(3, 4000, generator=generator, dtype=torch.float64), dim=0) * 0.8
    aim[2] += surface.centre
    origin = F.normalize(torch.randn(3, 4000, generator=generator, dtype=torch.float64), dim=0) * 5
    origin[2] = origin[2].abs() + 0.5
    direction = aim - origin
    t = surface.meet(origin, direction)
    met = t.isfinite()
    assert met.double().mean() > 0.3
    p = (origin + t * direction)[:, met]
    x, y, z = p
    r = (x**2 + y**2).sqrt()
    off = {
        "sphere": lambda: (x**2 + y**2 + (z - 1) ** 2).sqrt() - 1,
        "cube": lambda: torch.stack([x.abs(), y.abs(), (z - 0.8).abs()]).amax(dim=0) - 0.8,
        "cylinder": lambda: torch.maximum(r - 0.8, (z - 0.8).abs() - 0.8),
        "cone": lambda: r / 0.98 + z / 1.9 - 1,
        "torus": lambda: ((r - 0.68) ** 2 + (z - 0.31) ** 2).sqrt() - 0.31,
        "pyramid": lambda: torch.maximum(torch.maximum(x.abs(), y.abs()) / 0.92 + z / 1.7 - 1, -z),
    }[shape]()
    assert off.abs().max() < (8.1e-3 if shape == "torus" else 1e-9)  # The torus is met by walking, to 8e-3.
    # The ball around it holds it, and what is seen faces the eye.
    assert (x**2 + y**2 + (z - surface.centre) ** 2).max() < surface.bound**2 + 1e-2
    above = z > 1e-6
    facing = (surface.normal(p) * direction[:, met]).sum(dim=0)[above]
    assert (facing < 1e-2).double().mean() > (0.99 if shape == "torus" else 0.9999)


def test_nothing_is_met_behind_the_eye():
    for surface in SURFACES.values():
        origin = torch.tensor([[0.1], [-4.0], [1.1]], dtype=torch.float64)
        assert surface.meet(origin, torch.tensor([[0.0], [-1.0], [0.05]], dtype=torch.float64)).isinf().all()


def test_masks_are_shares_of_a_pixel(scenes: Scenes, drawn: Rendering):
    assert drawn.masks.min() >= 0
    assert drawn.masks.sum(dim=1).max() <= 1 + 1e-6
    assert torch.equal(drawn.masks * 4, (drawn.masks * 4).round())  # Four samples a pixel.
    area = drawn.masks.sum(dim=(2, 3))
    assert (area[~scenes.present] == 0).all()


def test_no_solid_hides_another(scenes: Scenes, drawn: Rendering):
    """Of every solid most is seen, compared with the same solid alone."""
    for row, scene in enumerate(scenes.describe()[:8]):
        alone = render(gather([Scene((solid,), scene.table, scene.light) for solid in scene.solids]), 48)
        share = drawn.masks[row][scenes.present[row]].sum(dim=(1, 2)) / alone.masks[:, 0].sum(dim=(1, 2))
        assert share.min() > 0.4


def test_pictures_are_finite_and_in_range(drawn: Rendering):
    for tensor in (drawn.pixels, drawn.depth, drawn.masks):
        assert tensor.isfinite().all()
    assert drawn.pixels.min() >= -1
    assert drawn.pixels.max() <= 1
    assert drawn.pixels.std() > 0.1
    assert drawn.depth.min() > 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 9), (64, 16), (16, 64), (5, 5)])
def test_any_size(scenes: Scenes, height: int, width: int):
    some = render(scenes.take(slice(3)), height, width)
    assert some.pixels.shape == (3, 3, height, width)
    assert some.depth.shape == (3, height, width)
    assert some.masks.shape == (3, 4, height, width)
    assert all(tensor.isfinite().all() for tensor in (some.pixels, some.depth))


def test_a_longer_side_shows_more_of_the_same(scenes: Scenes):
    square, wide = (render(scenes.take(slice(4)), 32, width) for width in (32, 48))
    assert torch.equal(wide.masks[..., 8:-8], square.masks)
    torch.testing.assert_close(wide.depth[..., 8:-8], square.depth, rtol=1e-6, atol=1e-6)


def test_no_scenes_is_an_empty_table_each():
    pixels = render(gather([Scene((), table) for table in ("wooden", "slate")]), 16).pixels
    assert pixels[0].mean() > pixels[1].mean()


@pytest.mark.parametrize("size", [20, 21])
def test_one_scene_leaves_no_trace_in_the_next(size: int):
    """What the camera sees of the empty room is kept between calls, and must stay empty."""
    empty = gather([Scene(())])
    before = render(empty, size)
    render(gather([one("cube")]), size)
    after = render(empty, size)
    assert torch.equal(before.depth, after.depth)
    assert torch.equal(before.pixels, after.pixels)


def test_the_same_to_the_last_bit_alone_and_in_company(scenes: Scenes, drawn: Rendering, monkeypatch):
    again = render(scenes, 48)
    assert torch.equal(again.pixels, drawn.pixels)
    alone = render(scenes.take(slice(5, 6)), 48)
    assert torch.equal(alone.pixels[0], drawn.pixels[5])
    assert torch.equal(alone.masks[0], drawn.masks[5])
    monkeypatch.setattr(module, "RAYS_IN_WORK", 48 * 48 * 4)  # One scene at a time.
    assert torch.equal(render(scenes.take(slice(6)), 48).pixels, drawn.pixels[:6])


@pytest.mark.parametrize("rows", [20, 1])
def test_bands_of_rows_make_the_same_picture(scenes: Scenes, drawn: Rendering, monkeypatch, rows: int):
    monkeypatch.setattr(module, "RAYS_IN_WORK", rows * 48 * 4)
    few = render(scenes.take(slice(6)), 48)
    # How many numbers are in work together decides how the last bit of a sine is rounded.
    torch.testing.assert_close(few.pixels, drawn.pixels[:6], rtol=0, atol=1e-5)
    torch.testing.assert_close(few.depth, drawn.depth[:6], rtol=0, atol=1e-5)
    torch.testing.assert_close(few.masks, drawn.masks[:6])


def test_resolution_changes_nothing_but_detail(scenes: Scenes):
    """64 pixels of 2 x 2 samples and 128 of one are the same rays; only the lamp's points differ."""
    some = scenes.take(slice(6))
    coarse, fine = render(some, 64, samples=2), render(some, 128, samples=1)
    assert torch.equal(F.avg_pool2d(fine.masks, 2), coarse.masks)
    assert torch.equal(-F.max_pool2d(-fine.depth, 2), coarse.depth)
    larger = F.avg_pool2d(render(some, 128).pixels, 2)
    error = (larger - coarse.pixels).square().mean()
    assert 10 * math.log10(4 / error) > 30


def test_mirrored_scenes_show_the_mirror_image(scenes: Scenes, drawn: Rendering):
    mirrored = render(scenes.mirrored(), 48)
    torch.testing.assert_close(mirrored.depth.flip(2), drawn.depth, rtol=1e-5, atol=1e-5)
    # A ray that grazes an edge may fall on either side of it.
    assert ((mirrored.masks.flip(3) - drawn.masks).abs() > 1e-6).float().mean() < 1e-4
    # The table's grain is not symmetrical and the two lamps differ in tint.
    error = (mirrored.pixels.flip(3) - drawn.pixels).square().mean(dim=(1, 2, 3))
    assert (10 * torch.log10(4 / error)).min() > 22
    far = (mirrored.pixels - drawn.pixels).square().mean(dim=(1, 2, 3))
    assert (far > 2 * error).float().mean() > 0.9


@pytest.mark.parametrize(("light", "side"), [("left", 1), ("right", -1)])
def test_shadows_fall_away_from_the_lamp(light: str, side: int):
    """A place on the table is in shadow where the ray to the lamp passes within a radius of the ball's centre."""
    size, radius = 96, RADIUS["large"]
    lamp = LAMP[light]
    drawn = render(gather([one("sphere", light=light), Scene((), light=light)]), size)
    grey = ((drawn.pixels + 1) / 2).mean(dim=1)

    def share(x: float, y: float) -> float:
        column, row = (int(value) for value in seen_at((x, y, 0.0), size))
        assert drawn.masks[0, 0, row, column] == 0, "the ball hides the place"
        return float(grey[0, row, column] / grey[1, row, column])

    # From here the ray passes 2.1 radii above the middle of the ball's foot, 0.7 radii from its centre.
    x, y = (-(2.1 * radius) / lamp[2] * component for component in lamp[:2])
    assert math.copysign(1, x) == side
    assert share(x, y) < 0.85
    assert share(-x, y) > 0.93


def test_a_lamp_s_side_of_a_ball_is_brighter():
    drawn = render(gather([one("sphere", light=light) for light in ("left", "right", "front")]), 64)
    weight = drawn.masks[:, 0]
    red = (drawn.pixels[:, 0] + 1) * weight
    half = [(part.sum(dim=(1, 2))) for part in (red[..., :32], red[..., 32:])]
    difference = (half[0] - half[1]) / (half[0] + half[1])
    assert difference[0] > 0.05
    assert difference[1] < -0.05
    assert abs(float(difference[2])) < 0.03


def test_shiny_solids_gleam_and_colours_are_what_they_are_called():
    balls = render(gather([one("sphere", material=material) for material in ("matte", "shiny")]), 64)
    matte, shiny = (balls.pixels[:, 1:] * (balls.masks[:, :1] == 1)).amax(dim=(1, 2, 3))  # Red has no other light.
    assert shiny > matte + 0.2
    scenes = gather([Scene((Solid("cube", colour),), "stone", "front") for colour in ("red", "green", "blue", "white")])
    drawn = render(scenes, 48)
    weight = (drawn.masks[:, 0] == 1).float()[:, None]
    mean = ((drawn.pixels + 1) / 2 * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    assert mean[:3].argmax(dim=1).tolist() == [0, 1, 2]
    assert (mean[:3].amax(dim=1) > 2 * mean[:3].median(dim=1).values * 0.9).all()
    assert mean[3].min() > 0.5


def test_edges_are_smooth(drawn: Rendering):
    partial = (drawn.masks > 0) & (drawn.masks < 1)
    assert partial.any()
    finest = render(drawn.scenes.take(slice(2)), 16, samples=4).masks
    assert (finest * 16).unique().numel() > 6


@pytest.mark.slow
def test_five_hundred_scenes_a_second():
    """At 64 x 64 on two cores that have nothing else to do."""
    if (os.cpu_count() or 1) < 2 or os.getloadavg()[0] > 0.7:
        pytest.skip("needs two idle cores")
    scenes = random_scenes(512, 1)
    render(scenes.take(slice(64)), 64)
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        render(scenes, 64)
        best = min(best, time.perf_counter() - began)
    assert len(scenes) / best >= 500


def test_how_far_from_a_point_a_line_passes():
    chance = torch.Generator().manual_seed(3)
    points, centres = torch.randn(3, 7, generator=chance), torch.randn(5, 3, generator=chance)
    directions = F.normalize(torch.randn(2, 3, 7, generator=chance), dim=1)
    found = module._powers(centres) @ module._passing(points, directions)  # pyright: ignore[reportPrivateUsage]
    away = centres.T[:, :, None] - points[:, None]
    for line, squared in zip(directions, found, strict=True):
        beside = torch.linalg.cross(away, line[:, None].expand_as(away), dim=0)
        torch.testing.assert_close(squared, beside.square().sum(dim=0), rtol=1e-4, atol=1e-4)
