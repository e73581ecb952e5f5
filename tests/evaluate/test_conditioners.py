"""Conditioners measured on pictures that are known: the scenes themselves, scenes changed by hand, and rubbish."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.evaluate import conditioners, strengths
from mezzotint.evaluate.cases import Look, Still, Studio, caption, grey, stills, wanted
from mezzotint.evaluate.conditioners import KINDS, check, depth, filled, image_prompt, inpaint, lines, matched, measured
from mezzotint.evaluate.conditioners import silhouette as silhouettes
from mezzotint.evaluate.judge import Found, load_judge
from mezzotint.evaluate.prompts import Wanted
from mezzotint.pipeline import Picture, Pipeline
from mezzotint.store.sight import load_sight
from mezzotint.types import Request, UserError
from mezzotint.vae.codec import to_uint8
from mezzotint.world.captions import Told
from mezzotint.world.render import render
from mezzotint.world.scene import HELD_OUT_PAIRS, Scene, Solid, gather, is_held_out, random_scenes

SIDE = 64
N = 6


@cache
def begun(seed: int, size: tuple[int, int]) -> list[Still]:
    """The first scenes, rendered once for all tests."""
    return list(islice(stills(seed, size), 4 * N))


@pytest.fixture(scope="module", autouse=True)
def _few_scenes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mezzotint.evaluate.cases.BLOCK", 4 * N)
        patch.setattr(conditioners, "stills", lambda seed, size: iter(begun(seed, size)))
        yield


@pytest.fixture(scope="module")
def scenes(_few_scenes: None) -> list[Still]:
    return begun(0, (SIDE, SIDE))[: 2 * N]


class Painter:
    """A pipeline that draws whatever it is told to; pictures come in another order than they were asked for."""

    def __init__(self, paint: Callable[[int, Any], Image.Image], side: int = SIDE) -> None:
        self.size = (side, side)
        self.paint = paint
        self.asked: list[Any] = []

    def request(self, prompt: str, **fields: Any) -> Any:
        return SimpleNamespace(prompt=prompt, **fields)

    def draw(self, requests: list[Any]) -> Iterator[Picture]:
        self.asked += requests
        for index, request in reversed(list(enumerate(requests))):
            yield Picture(index, request, self.paint(request.seed % 1_000_003 % 100_000, request))


class Knowing(Studio):
    """Sees what is truly there in pictures of some scenes, and nothing in others."""

    known: list[Still]

    def look(self, image: Image.Image) -> Look:
        for still in self.known:
            if still.image.tobytes() == image.tobytes():
                return seen(still)
        return Look(image, (), torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE).bool())


def seen(still: Still) -> Look:
    found = tuple(
        Found(solid.shape, solid.colour, solid.size, x, y, 1.0)
        for solid, (x, y) in zip(still.scene.solids, still.middles, strict=True)
    )
    return Look(still.image, found, 1 / still.depth, still.solids.any(dim=0))


def knowing(scenes: list[Still], paint: Callable[[int, Any], Image.Image]) -> Knowing:
    pipe: Any = Painter(paint)
    nobody: Any = None
    studio = Knowing(pipe, nobody, nobody)
    studio.known = scenes
    return studio


def values(told: dict[str, Any]) -> dict[str, float]:
    return {name: score["score"] for name, score in lines(told)}


def test_scenes_are_kept_out_of_training_and_begin_alike(scenes: list[Still]) -> None:
    assert all(is_held_out(still.scene.solids) for still in scenes)
    again = list(islice(stills(0, (SIDE, SIDE)), 3))
    assert [still.image.tobytes() for still in again] == [still.image.tobytes() for still in scenes[:3]]
    assert next(stills(1, (SIDE, SIDE))).image.tobytes() != scenes[0].image.tobytes()
    wide = next(stills(0, (80, 48)))
    assert wide.image.size == (80, 48)
    assert wide.depth.shape == wide.table.shape == wide.solids.shape[1:] == (48, 80)


def test_a_still_is_true(scenes: list[Still]) -> None:
    for still in scenes:
        drawn = render(gather([still.scene]), SIDE)
        assert np.array_equal(np.asarray(still.image), to_uint8(drawn.pixels)[0].numpy())
        assert len(still.solids) == len(still.middles) == len(still.scene.solids)
        for mask, (x, y), solid in zip(still.solids, still.middles, still.scene.solids, strict=True):
            rows, columns = mask.nonzero().float().add(0.5).div(SIDE).unbind(dim=1)
            assert (float(columns.mean()), float(rows.mean())) == pytest.approx((x, y), abs=0.02)
            assert (x - 0.5) * solid.x >= -0.02  # What stands to the left is seen on the left.
        assert still.table[-1].all()
        assert not still.table[0][~still.solids.any(dim=0)[0]].any()
        assert still.table[still.solids.any(dim=0)].all()


def test_captions_leave_no_doubt_which_is_of_which_colour() -> None:
    chooser = random.Random(0)
    for scene in random_scenes(60, 3, held_out=True).describe():
        told = caption(scene, chooser)
        assert sorted((s.shape, s.colour) for s in told.solids) == sorted(
            (one.shape, one.colour) for one in wanted(scene)
        )
        for shape in {solid.shape for solid in told.solids}:
            alike = [solid for solid in told.solids if solid.shape == shape]
            if len({solid.colour for solid in alike}) > 1 and told.order == "any":
                assert [solid.x for solid in told.solids] == sorted(solid.x for solid in told.solids)


def test_a_list_in_no_order_is_no_caption_where_colours_need_places(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = Solid("cube", "red", x=-1), Solid("cube", "blue", x=1)
    said = iter([Told("bad", (right, left), "any"), Told("worse", (replace(left, colour=""), right), "any"),
                 Told("good", (left, right), "any")])  # fmt: skip
    monkeypatch.setattr("mezzotint.evaluate.cases.tell", lambda *_: next(said))
    assert caption(Scene((left, right)), random.Random(0)).text == "good"


# What a perfect model comes to.


@pytest.mark.parametrize("name", ["depth", "silhouette", "image-prompt"])
def test_the_scenes_themselves_are_perfect(scenes: list[Still], name: str) -> None:
    told = measured(knowing(scenes, lambda row, _: scenes[row].image), name, N)
    assert told["n"] == N
    for score in told["scores"].values():
        assert score["score"] == score["high"] == score["real"] == 1.0
    solids = sum(len(still.scene.solids) for still in scenes[:N])
    counts = {name: score["n"] for name, score in told["scores"].items()}
    assert counts in (
        {"rank": N, "text": N},
        {"overlap": N, "colours": solids, "shapes": solids},
        {"solids": solids, "same": N},
    )


@pytest.mark.parametrize("name", ["depth", "silhouette", "image-prompt"])
def test_nothing_drawn_is_worth_nothing(scenes: list[Still], name: str) -> None:
    told = measured(knowing(scenes, lambda *_: Image.new("RGB", (SIDE, SIDE))), name, N)
    for score in told["scores"].values():
        assert score["score"] == score["low"] == 0.0
        assert score["real"] == 1.0


def test_another_scene_is_far_from_what_was_asked_for(scenes: list[Still]) -> None:
    others = {
        name: measured(knowing(scenes, lambda row, _: scenes[row + 1].image), name, N)
        for name in ("depth", "silhouette")
    }
    assert values(others["depth"])["text"] == 0
    assert 0.3 < values(others["depth"])["rank"] < 0.9  # It is the same table.
    assert values(others["silhouette"])["overlap"] < 0.5
    assert values(others["silhouette"])["colours"] < 0.5


@pytest.mark.parametrize("name", ["edges", "silhouette", "depth"])
def test_any_hint_is_measured_by_what_it_is_of_the_result(scenes: list[Still], monkeypatch, name: str) -> None:
    monkeypatch.delitem(KINDS, name, raising=False)
    itself = values(measured(knowing(scenes, lambda row, _: scenes[row].image), name, N))
    other = values(measured(knowing(scenes, lambda row, _: scenes[row + 1].image), name, N))
    assert itself == {"match": pytest.approx(1.0), "text": 1.0}
    assert other["match"] < 0.9
    assert other["text"] == 0


def test_the_shipped_judge_and_sight_know_the_scenes_themselves() -> None:
    """A tolerance of two wrong of all: they are networks."""
    truth = begun(3, (128, 128))
    pipe: Any = Painter(lambda row, _: truth[row].image, side=128)
    studio = Studio(pipe, load_judge()[0], load_sight(), seed=3)
    for name, least in {
        "depth": {"rank": 0.95, "text": 0.7},
        "silhouette": {"overlap": 0.85, "colours": 0.8, "shapes": 0.8},
    }.items():
        told = measured(studio, name, N)["scores"]
        assert {name: score["score"] for name, score in told.items() if score["score"] < least[name]} == {}
        assert all(score["score"] == score["real"] for score in told.values())


# What single pictures come to.


def test_depth_is_compared_where_there_are_solids_and_table(scenes: list[Still]) -> None:
    (case,) = islice(depth(iter(scenes), random.Random(0)), 1)
    truth, wall = seen(scenes[0]), ~scenes[0].table
    assert np.array_equal(case.given["depth"], scenes[0].depth.numpy())
    assert case.given["depth_kind"] == "metric"
    other_wall = replace(truth, near=truth.near.masked_fill(wall, 9.0))
    assert wall.any()
    assert case.measure(other_wall)["rank"].got == pytest.approx(1)
    assert case.measure(replace(truth, near=truth.near.double().exp()))["rank"].got == pytest.approx(1)
    assert case.measure(replace(truth, near=-truth.near))["rank"].got == pytest.approx(-1)
    assert case.measure(replace(truth, found=(*truth.found, truth.found[0])))["text"].got == 0


def test_silhouettes_count_solids_by_where_they_are(scenes: list[Still]) -> None:
    still = next(still for still in scenes if len({solid.colour for solid in still.scene.solids}) == 2)
    (case,) = silhouettes(iter([still]), random.Random(0))
    shape = case.given["silhouette"]
    assert set(np.unique(shape)) == {0, 255}
    assert np.array_equal(np.asarray(shape) > 0, still.solids.any(dim=0).numpy())
    truth = seen(still)
    k = len(truth.found)
    # The first one's colour on the others: only that one is right. All have their shapes.
    painted = tuple(replace(one, colour=truth.found[0].colour) for one in truth.found)
    same = sum(one.colour == truth.found[0].colour for one in truth.found)
    figures = case.measure(replace(truth, found=painted))
    assert (figures["colours"].got, figures["colours"].of, figures["shapes"].got) == (same, k, k)
    # Colours that have changed places are wrong though all are there.
    turned = tuple(
        replace(one, x=other.x, y=other.y) for one, other in zip(truth.found, truth.found[::-1], strict=True)
    )
    assert case.measure(replace(truth, found=turned))["colours"].got < k
    # Half of what is covered is half the overlap.
    half = truth.solid.clone()
    half[::2] = False
    share = int(half.sum()) / int(truth.solid.sum())
    assert case.measure(replace(truth, solid=half))["overlap"].got == pytest.approx(share)


def test_solids_are_matched_by_their_places() -> None:
    def at(x: float, y: float) -> Found:
        return Found("cube", "red", "large", x, y, 1.0)

    near, nearer, far = at(0.24, 0.2), at(0.21, 0.2), at(0.9, 0.9)
    assert matched([(0.2, 0.2), (0.5, 0.5)], [near, nearer, far]) == [(0, nearer)]
    assert sorted(matched([(0.2, 0.2), (0.25, 0.2)], [near, nearer])) == [(0, nearer), (1, near)]
    assert matched([], [near]) == matched([(0.2, 0.2)], []) == []


def test_a_picture_recurs_as_far_as_its_solids_do() -> None:
    solids = (Solid("cube", "red", x=-1), Solid("cube", "red"), Solid("cone", "blue", x=1))
    still: Any = SimpleNamespace(scene=Scene(solids), image=Image.new("RGB", (8, 8)))
    (case,) = image_prompt(iter([still]), random.Random(0))
    assert (case.prompt, case.given) == ("", {"image_prompt": [still.image]})

    def come_to(*found: tuple[str, str]) -> tuple[float, float, float]:
        there = tuple(Found(shape, colour, "large", 0.5, 0.5, 1.0) for shape, colour in found)
        figures = case.measure(Look(still.image, there, torch.zeros(1), torch.zeros(1)))
        return figures["solids"].got, figures["solids"].of, figures["same"].got

    assert come_to(("cone", "blue"), ("cube", "red"), ("cube", "red")) == (3, 3, 1)
    assert come_to(("cone", "blue"), ("cube", "red"), ("cube", "red"), ("cube", "red")) == (3, 3, 0)
    assert come_to(("cube", "red"), ("cone", "red")) == (1, 3, 0)
    assert come_to() == (0, 3, 0)


# Inpainting.


def test_a_mask_holds_one_solid_that_stands_free_and_another_is_asked_for() -> None:
    some = begun(0, (32, 32))
    cases = list(inpaint(iter(some), random.Random(0)))
    assert 4 < len(cases) < len(some)
    many = {still.image.tobytes(): still for still in some}
    counts = set()
    for case in cases:
        still = many[case.given["image"].tobytes()]
        inside = np.asarray(case.given["mask"]) > 0
        (k,) = [k for k, solid in enumerate(still.solids.numpy()) if (solid & inside).any()]
        counts.add(len(still.solids))
        old, mask = still.scene.solids[k], still.solids[k].numpy()
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        assert inside.sum() == len(rows) * len(columns)  # A box,
        for line, own in ((rows, np.flatnonzero(mask.any(axis=1))), (columns, np.flatnonzero(mask.any(axis=0)))):
            assert line[0] <= max(0, own[0] - 3)  # with at least a tenth of 32 pixels around the solid,
            assert line[-1] >= min(31, own[-1] + 3)
        # which leaves nothing of it outside, of its shadow neither.
        rest = tuple(solid for solid in still.scene.solids if solid is not old)
        bare = to_uint8(render(gather([replace(still.scene, solids=rest)]), 32).pixels)[0].numpy().astype(int)
        assert np.abs(bare - np.asarray(still.image))[~inside].max() <= 8
        article, colour, shape = case.prompt.split()
        assert article == ("an" if colour == "orange" else "a")
        assert shape != old.shape
        assert colour != old.colour
        assert (shape, colour) not in HELD_OUT_PAIRS
    assert counts >= {1, 2}


def test_what_stands_outside_the_mask_is_nobodys_business(scenes: list[Still]) -> None:
    box = (slice(16, 48), slice(32, 64))
    case = filled(scenes[0], box, Wanted("cube", "red"))
    inside = Found("cube", "red", "large", 0.6, 0.5, 1.0)

    def asked(*found: Found) -> float:
        return case.measure(replace(seen(scenes[0]), found=found))["asked"].got

    assert asked(inside) == asked(inside, replace(inside, x=0.4)) == asked(inside, replace(inside, y=0.8)) == 1
    assert asked() == asked(replace(inside, x=0.4)) == 0
    assert asked(replace(inside, colour="blue")) == asked(replace(inside, shape="cone")) == 0
    assert asked(inside, replace(inside, x=0.9)) == 0
    assert asked(replace(inside, x=1.0, y=0.26)) == 1


def test_the_picture_itself_has_no_seam_and_nothing_that_was_asked_for() -> None:
    pipe: Any = Painter(lambda _, request: request.image, side=128)
    told = measured(Studio(pipe, load_judge()[0], load_sight(), seed=3), "inpaint", N)
    assert values(told) == {"asked": 0.0, "kept": 1.0, "seam": 1.0, "fade": 1.0}
    assert told["scores"]["seam"]["low"] == told["scores"]["seam"]["high"] == 1.0
    assert "real" not in told["scores"]["asked"]


def test_a_scene_with_the_solid_changed_is_what_was_asked_for() -> None:
    """Rendered anew with another solid in the same place, and put into the mask alone."""
    originals = begun(3, (128, 128))

    def paint(_: int, request: Any) -> Image.Image:
        still = next(one for one in originals if one.image.tobytes() == request.image.tobytes())
        inside = torch.from_numpy(np.asarray(request.mask) > 0)
        k = next(k for k, solid in enumerate(still.solids) if (solid & inside).any())
        _, colour, shape = request.prompt.split()
        solids = list(still.scene.solids)
        solids[k] = replace(solids[k], shape=shape, colour=colour)
        anew = render(gather([replace(still.scene, solids=tuple(solids))]), 128)
        return Image.composite(Image.fromarray(to_uint8(anew.pixels)[0].numpy()), request.image, request.mask)

    pipe: Any = Painter(paint, side=128)
    told = measured(Studio(pipe, load_judge()[0], load_sight(), seed=3), "inpaint", N)
    assert values(told)["asked"] >= 0.8
    assert values(told)["kept"] == 1.0
    # The mask holds its shadow too, and what is left of that is too faint to be seen.
    assert values(told)["seam"] == pytest.approx(1, abs=0.02)
    assert values(told)["fade"] == pytest.approx(1, abs=0.1)


def test_a_seam_is_seen_and_so_is_a_pixel_outside() -> None:
    def paint(row: int, request: Any) -> Image.Image:
        brighter = request.image.point(lambda value: value // 2 + 128)
        result = Image.composite(brighter, request.image, request.mask)
        if row % 2 == 0:
            result.putpixel((0, 0), tuple(value ^ 1 for value in result.getpixel((0, 0))))
        return result

    pipe: Any = Painter(paint)
    told = measured(Studio(pipe, load_judge()[0], load_sight()), "inpaint", 4)
    assert values(told)["kept"] == 0.5
    assert values(told)["seam"] > 3
    assert values(told)["fade"] > 1.5


# Image to image.


def test_a_change_by_strength_and_its_curve(scenes: list[Still]) -> None:
    """A picture that becomes the other one step by step, and is it at the end; colours drift by a level a round."""

    def paint(row: int, request: Any) -> Image.Image:
        if request.strength == strengths.ROUND_STRENGTH:
            return request.image if request.keep_colours else request.image.point(lambda value: max(0, value - 1))
        return Image.blend(request.image, scenes[2 * row + 1].image, request.strength)

    studio = knowing(scenes, paint)
    told = measured(studio, "image", N)
    assert len(studio.pipe.asked) == N * KINDS["image"].pictures  # pyright: ignore[reportAttributeAccessIssue]
    change, obeyed = ([score["score"] for score in told["curve"][name].values()] for name in ("change", "obeyed"))
    assert list(told["curve"]["change"]) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert change[0] == 0
    whole = np.mean(
        [
            np.abs(np.asarray(a.image, dtype=float) - np.asarray(b.image)).mean()
            for a, b in zip(scenes[::2], scenes[1::2], strict=True)
        ]
    )
    assert change == pytest.approx([share * whole for share in strengths.STRENGTHS], abs=0.6)
    assert obeyed == [0, 0, 0, 0, 0, 1]
    assert told["monotone"] == {"change": True, "obeyed": True}
    assert told["scores"]["drift"]["score"] == 0
    lost = [np.minimum(np.asarray(still.image), strengths.ROUNDS).mean() for still in scenes[::2]]
    assert told["scores"]["drift uncorrected"]["score"] == pytest.approx(np.mean(lost), abs=0.01)
    assert 9 < np.mean(lost) <= 10


def test_a_curve_that_falls_is_told_of(scenes: list[Still]) -> None:
    def paint(row: int, request: Any) -> Image.Image:
        there = request.strength in (0.6, 0.8)
        return scenes[2 * row + 1].image if there else request.image

    told = measured(knowing(scenes, paint), "image", N)
    assert told["monotone"] == {"change": False, "obeyed": False}


def test_rounds_differ_in_their_noise_and_strengths_do_not(scenes: list[Still]) -> None:
    studio = knowing(scenes, lambda _, request: request.image)
    measured(studio, "image", 2)
    asked: list[Any] = studio.pipe.asked  # pyright: ignore[reportAttributeAccessIssue]
    rounds = [request for request in asked if request.strength == strengths.ROUND_STRENGTH]
    assert {request.seed for request in asked if request not in rounds} == {0, 1}
    for keep in (True, False):
        assert len({request.seed for request in rounds if request.keep_colours is keep}) == 2 * strengths.ROUNDS
    # A picture that is drawn over and over is told as what it is.
    first, _ = strengths.cases(iter(scenes[:4]), random.Random("image 0"))
    assert {request.prompt for request in rounds if request.seed % 100_000 == 0} == {first.own}


# With a pipeline.


def test_every_row_is_watched_and_every_picture_counted(scenes: list[Still]) -> None:
    studio = knowing(scenes, lambda row, _: scenes[row].image)
    pictures, rows = [], []
    studio.drawn = lambda: pictures.append(1)
    measured(studio, "silhouette", N, rows.append)
    assert len(pictures) == len(rows) == N
    assert [row.request.seed for row in rows] == list(range(N))
    assert all(row.drawn == (scenes[place].image,) for place, row in enumerate(rows))
    assert all(row.case.shown[0].size == (SIDE, SIDE) and row.worth == 1 for row in rows)


def test_scenes_in_work_are_few_at_a_time(scenes: list[Still], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(knowing(scenes, lambda row, _: scenes[row].image), "silhouette", N)
    monkeypatch.setattr(conditioners, "TOGETHER", 4)
    assert measured(knowing(scenes, lambda row, _: scenes[row].image), "silhouette", N) == whole


def test_what_a_model_cannot_be_given_is_told_before_anything_is_drawn(tiny_parts: Any) -> None:
    nobody: Any = None
    studio = Studio(Pipeline.of(tiny_parts), nobody, nobody)
    for name in ("image", "inpaint"):
        check(studio, name)
    for name in ("depth", "silhouette"):
        with pytest.raises(UserError, match=f"reads no {name}"):
            check(studio, name)
    if "image_prompt" not in Request.__dataclass_fields__:
        with pytest.raises(UserError, match="reads image-prompt"):
            check(studio, "image-prompt")


def test_grey() -> None:
    assert np.asarray(grey(torch.tensor([[False, True]])))[0].tolist() == [0, 255]
    assert np.asarray(grey(torch.tensor([[2.0, 3.0, 4.0]])))[0].tolist() == [0, 128, 255]
