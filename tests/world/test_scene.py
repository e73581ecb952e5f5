"""Scenes as data: pure functions of their seed, apart on the table, and honest about what training may see."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch

from mezzotint.world.colours import ALBEDO
from mezzotint.world.scene import (
    COLOURS,
    HELD_OUT_PAIRS,
    LIGHTS,
    RADIUS,
    SHAPES,
    TABLES,
    Scene,
    Scenes,
    Solid,
    disguised,
    gather,
    is_held_out,
    random_scenes,
)


def same(a: Scenes, b: Scenes) -> bool:
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Scenes))


@pytest.fixture(scope="module")
def seen() -> Scenes:
    return random_scenes(600, 3)


@pytest.fixture(scope="module")
def unseen() -> Scenes:
    return random_scenes(200, 3, held_out=True)


def test_scenes_are_a_pure_function_of_their_seed(seen: Scenes):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = random_scenes(600, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert same(seen, again)
    assert not same(seen, random_scenes(600, 4))


@pytest.mark.parametrize("count", [1, 3, 300])
def test_as_many_scenes_as_asked_for(count: int):
    assert len(random_scenes(count, 0)) == count
    assert len(random_scenes(count, 0, held_out=True)) == count


def test_training_never_sees_what_is_held_out(seen: Scenes):
    assert not any(is_held_out(scene.solids) for scene in seen.describe())
    pairs = {(solid.shape, solid.colour) for scene in seen.describe() for solid in scene.solids}
    assert pairs & HELD_OUT_PAIRS == set()
    assert len(pairs) == len(SHAPES) * len(COLOURS) - len(HELD_OUT_PAIRS)  # All others are there.


def test_held_out_is_only_what_training_never_sees(unseen: Scenes):
    described = unseen.describe()
    assert all(is_held_out(scene.solids) for scene in described)
    pairs = {(solid.shape, solid.colour) for scene in described for solid in scene.solids}
    assert pairs >= HELD_OUT_PAIRS
    # Some are held out as combinations, not for a pair.
    assert any(not {(s.shape, s.colour) for s in scene.solids} & HELD_OUT_PAIRS for scene in described)


def test_both_kinds_where_either_is_asked_for():
    kinds = Counter(is_held_out(scene.solids) for scene in random_scenes(300, 5, held_out=None).describe())
    assert kinds[True] > 30
    assert kinds[False] > 100


def nearest(reflectance: torch.Tensor) -> list[str]:
    """The names of the colours that are nearest to these [N 3], as the eye sees them."""
    seen = torch.tensor([ALBEDO[name] for name in COLOURS]) ** (1 / 2.2)
    return [COLOURS[k] for k in torch.cdist(reflectance ** (1 / 2.2), seen).argmin(dim=1).tolist()]


def test_tints_change_nothing_else_of_a_share_of_the_scenes(seen: Scenes):
    tinted = random_scenes(600, 3, tinted=0.4)
    plain = {"tint": seen.tint, "clear": seen.clear}
    assert same(seen, replace(tinted, **plain))
    changed = (tinted.tint != 0).flatten(1).any(dim=1)
    assert 0.33 < changed.float().mean() < 0.47
    assert torch.equal(seen.clear[~changed], tinted.clear[~changed])
    assert not same(tinted, random_scenes(600, 3, tinted=0.5))


def test_a_tint_stays_with_the_name_of_its_colour():
    scenes = random_scenes(3000, 5, tinted=1.0)
    table = torch.tensor([ALBEDO[name] for name in COLOURS])
    here = scenes.present
    reflectance = (table[scenes.colour] + scenes.tint)[here]
    assert reflectance.min() >= 0
    assert reflectance.max() <= 1
    names = nearest(reflectance)
    assert names == [COLOURS[k] for k in scenes.colour[here].tolist()]
    shapes = [SHAPES[k] for k in scenes.shape[here].tolist()]
    assert not set(zip(shapes, names, strict=True)) & HELD_OUT_PAIRS
    assert 0.4 < scenes.clear[here].float().mean() < 0.6
    assert scenes.tint[here].abs().amax(dim=1).mean() > 0.03  # And they are tints that can be seen.


def test_what_has_no_clear_name_is_described_without_one():
    scenes = random_scenes(40, 5, tinted=1.0)
    for row, scene in enumerate(scenes.describe()):
        named = [solid.colour != "" for solid in scene.solids]
        assert named == scenes.clear[row][scenes.present[row]].tolist()


def test_solids_of_one_name_have_one_tint_in_a_scene():
    scenes = random_scenes(300, 6, tinted=1.0)
    alike = scenes.present[:, 1] & (scenes.colour[:, 0] == scenes.colour[:, 1])
    assert alike.sum() > 20
    assert torch.equal(scenes.tint[alike, 0], scenes.tint[alike, 1])


@pytest.mark.parametrize("attributes", [("colour",), ("shape",), ("colour", "shape")])
def test_a_disguise_changes_what_it_says_and_shows_nothing_held_out(attributes: tuple[str, ...]):
    scenes = random_scenes(600, 11, tinted=0.5)
    other = disguised(scenes, 3, attributes)
    may = {*attributes, *(("tint", "clear") if "colour" in attributes else ())}
    for field in fields(scenes):
        if field.name not in may:
            assert torch.equal(getattr(other, field.name), getattr(scenes, field.name))
    named = replace(other, clear=torch.ones_like(other.clear))
    assert not any(is_held_out(scene.solids) for scene in named.describe())
    changed = [((getattr(other, name) != getattr(scenes, name)) & scenes.present).any(dim=1) for name in attributes]
    assert torch.stack(changed).any(dim=0).float().mean() > 0.98
    if len(attributes) == 2:  # Either alone, and both.
        for one, two in ((True, False), (False, True), (True, True)):
            assert ((changed[0] == one) & (changed[1] == two)).float().mean() > 0.2
    assert torch.equal(disguised(scenes, 3, attributes).colour, other.colour)
    again = disguised(scenes, 4, attributes)
    assert any(not torch.equal(getattr(again, name), getattr(other, name)) for name in attributes)


def test_colours_are_exchanged_with_their_tints_or_new_and_without():
    scenes = random_scenes(600, 11, tinted=0.5)
    other = disguised(scenes, 3, ("colour",))
    exchanged = 0
    for row in range(600):
        here = scenes.present[row]

        def looks(each: Scenes, row: int = row, here: torch.Tensor = here) -> list[tuple[int, list[float], bool]]:
            columns = (each.colour[row, here], each.tint[row, here], each.clear[row, here])
            return sorted(zip(*(column.tolist() for column in columns), strict=True))

        if looks(other) == looks(scenes):
            exchanged += not torch.equal(other.colour[row, here], scenes.colour[row, here])
        else:
            assert all(tint == [0, 0, 0] and clear for _, tint, clear in looks(other))
    assert exchanged > 50


def test_every_shape_has_one_colour_that_training_never_sees():
    assert Counter(shape for shape, _ in HELD_OUT_PAIRS) == dict.fromkeys(SHAPES, 1)


def test_held_out_does_not_depend_on_order_size_or_place():
    a, b = Solid("cube", "red"), Solid("cone", "blue", size="small", x=1.0)
    assert is_held_out((a, b)) == is_held_out((replace(b, x=-2.0), replace(a, material="shiny")))
    assert not is_held_out((a,))
    assert is_held_out((Solid("sphere", "cyan"),))


def test_about_a_tenth_of_combinations_is_held_out():
    trained = [(s, c) for s in SHAPES for c in COLOURS if (s, c) not in HELD_OUT_PAIRS]
    combinations = [(Solid(*a), Solid(*b)) for a in trained for b in trained if a <= b]
    share = sum(map(is_held_out, combinations)) / len(combinations)
    # 26 of the 256 first bytes are multiples of 10; 1485 draws leave a deviation of 0.008.
    assert share == pytest.approx(26 / 256, abs=0.025)


def test_everything_there_is_is_drawn(seen: Scenes):
    described = seen.describe()
    assert Counter(len(scene.solids) for scene in described).keys() == {1, 2, 3, 4}
    assert {scene.table for scene in described} == set(TABLES)
    assert {scene.light for scene in described} == set(LIGHTS)
    solids = [solid for scene in described for solid in scene.solids]
    assert {solid.size for solid in solids} == {"small", "large"}
    assert {solid.material for solid in solids} == {"matte", "shiny"}


def test_solids_stand_apart_and_on_the_table(seen: Scenes):
    for scene in seen.describe():
        for number, a in enumerate(scene.solids):
            assert -1.35 <= a.y <= 1.25
            assert abs(a.x) <= 1.95 + 0.2 * a.y - RADIUS[a.size] + 1e-5
            for b in scene.solids[:number]:
                reach = RADIUS[a.size] + RADIUS[b.size]
                assert ((a.x - b.x) / reach) ** 2 + ((a.y - b.y) / (1.25 * reach)) ** 2 > 1.15 - 1e-5


def test_names_and_back(seen: Scenes):
    described = seen.describe()
    again = gather(described)
    assert again.describe() == described
    assert torch.equal(again.present, seen.present)
    assert torch.equal(again.x[again.present], seen.x[seen.present])


def test_a_mirror_image_of_a_mirror_image_is_the_scene(seen: Scenes):
    assert same(seen.mirrored().mirrored(), seen)
    (scene,) = gather([Scene((Solid("cube", "red", x=0.5, yaw=0.25),), light="left")]).mirrored().describe()
    assert scene == Scene((Solid("cube", "red", x=-0.5, yaw=-0.25),), light="right")


def test_taking_some(seen: Scenes):
    assert seen.take(slice(2, 5)).describe() == seen.describe()[2:5]
    assert seen.take(torch.tensor([7, 1])).describe() == [seen.describe()[7], seen.describe()[1]]


def test_solids_are_read_from_left_to_right():
    scene = Scene((Solid("cube", "red", x=1.0), Solid("cone", "red", x=-1.0), Solid("torus", "red", x=0.0)))
    assert [solid.shape for solid in scene.left_to_right()] == ["cone", "torus", "cube"]


@pytest.mark.parametrize(
    "scene",
    [Scene((Solid("teapot", "red"),)), Scene((Solid("cube", "beige"),)), Scene((Solid("cube", "red"),) * 5)],
)
def test_what_the_world_does_not_know(scene: Scene):
    with pytest.raises(ValueError, match=r".+"):
        gather([scene])


def test_some_scenes_have_two_kinds():
    """Three or four solids of which some are alike and some are not, far more often than chance would have it."""
    scenes = random_scenes(2000, 6).describe()
    many = [
        [(s.shape, s.colour, s.size, s.material) for s in scene.solids] for scene in scenes if len(scene.solids) > 2
    ]
    two_kinds = sum(len(set(kinds)) == 2 for kinds in many)
    assert two_kinds / len(many) == pytest.approx(0.31, abs=0.05)
