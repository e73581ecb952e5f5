"""The nearest scene: solids are found again where they stand, and the light, and nothing else of a scene changes."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from mezzotint.world.nearest import nearest
from mezzotint.world.render import render
from mezzotint.world.scene import LIGHTS, SHAPES, Scenes, random_scenes

SIDE = 32


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return random_scenes(24, 11)


@pytest.fixture(scope="module")
def moved(scenes: Scenes) -> Scenes:
    """Every solid a little to the side, turned by a quarter of a turn or so, and in another light."""
    by = torch.rand(3, *scenes.x.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return replace(
        scenes,
        x=scenes.x + 0.2 * by[0],
        y=scenes.y + 0.2 * by[1],
        yaw=scenes.yaw + 3 * by[2],
        light=(scenes.light + 1) % len(LIGHTS),
    )


@pytest.fixture(scope="module")
def found(scenes: Scenes, moved: Scenes) -> Scenes:
    return nearest(moved, render(scenes, SIDE).pixels, torch.Generator().manual_seed(1))[0]


def off(scenes: Scenes, pixels: Tensor) -> Tensor:
    return (render(scenes, SIDE).pixels - pixels).square().flatten(1).mean(dim=1)


def test_solids_are_found_again(scenes: Scenes, moved: Scenes, found: Scenes):
    here = scenes.present
    before = torch.hypot(moved.x - scenes.x, moved.y - scenes.y)[here]
    after = torch.hypot(found.x - scenes.x, found.y - scenes.y)[here]
    assert after.mean() < before.mean() / 2
    truth = render(scenes, SIDE).pixels
    assert off(found, truth).mean() < off(moved, truth).mean() / 4


def test_edges_stand_as_they_do_in_the_picture(scenes: Scenes, found: Scenes):
    """A cube looks the same after a quarter of a turn: its yaw is told by the sine and cosine of four times it."""
    cubes = scenes.present & (scenes.shape == SHAPES.index("cube"))
    apart = torch.cos(4 * (found.yaw - scenes.yaw))[cubes]
    assert len(apart) > 5
    assert apart.median() > 0.9  # Within 6 degrees.


def test_the_light_is_found(scenes: Scenes, found: Scenes):
    assert torch.equal(found.light, scenes.light)


def test_what_is_left_is_little_where_a_scene_is_true(scenes: Scenes):
    truth = render(scenes, SIDE).pixels
    others = truth.roll(1, 0)
    _, left = nearest(scenes, truth, torch.Generator().manual_seed(2))
    _, astray = nearest(scenes, others, torch.Generator().manual_seed(2))
    assert left.shape == (len(scenes),)
    assert left.max() < 0.03  # One ray a pixel where the picture has four.
    assert astray.median() > 0.05


def test_nothing_else_changes(moved: Scenes, found: Scenes):
    for field in fields(Scenes):
        if field.name not in ("x", "y", "yaw", "light"):
            assert torch.equal(getattr(moved, field.name), getattr(found, field.name)), field.name


def test_it_is_a_function_of_its_chance(scenes: Scenes, moved: Scenes, found: Scenes):
    again, _ = nearest(moved, render(scenes, SIDE).pixels, torch.Generator().manual_seed(1))
    assert torch.equal(again.x, found.x)
    assert torch.equal(again.yaw, found.yaw)
