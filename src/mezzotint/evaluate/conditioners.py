"""Obedience to what is given beside the words: a mask, a depth map, a silhouette, a picture.

Every conditioner is measured on rendered scenes kept out of training, by the judge that finds solids and by the sight
that estimates where they stand and how near.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mezzotint.conditioning.hints import Hint, Truth, hints
from mezzotint.evaluate import strengths
from mezzotint.evaluate.cases import Case, Look, Row, Still, Studio, caption, grey, levels, stills, wanted
from mezzotint.evaluate.judge import Found
from mezzotint.evaluate.maps import edge_energy, fade_energy, overlap, rank_correlation
from mezzotint.evaluate.obedience import obeys, pixels_of
from mezzotint.evaluate.prompts import Wanted, phrase, trained_pairs
from mezzotint.evaluate.scores import Figure, Score, counted, score
from mezzotint.vae.codec import to_uint8
from mezzotint.world.render import render
from mezzotint.world.scene import gather

C = TypeVar("C", bound=Case)

ROOM = 0.1
"""How far a mask reaches beyond its solid and the shadow on every side, as a share of the picture's shorter side."""
CLEAR = 2
"""Pixels around a mask in which no other solid is seen, lest its outline be taken for the mask's."""
SHADE = 8
"""Levels of 255 from which on a shadow is seen."""
FADE = 4
"""Pixels inside a mask's edge over which a result fades into its picture, where a latent's place is 8 pixels."""
NEAR = 0.1
"""A solid that is seen is the one asked for there, if their middles are no further apart than this share of the
picture: less than half the width of a small one."""
PLACE = 8
"""Pixels along a side of what a hint is read at, to be compared."""
TOGETHER = 32
"""Scenes in work at once."""


def inpaint(scenes: Iterator[Still], chooser: random.Random) -> Iterator[Case]:
    """A box around a solid that stands free, and its shadow, and words for another one of other shape and colour."""
    for still in scenes:
        for k in chooser.sample(range(len(still.solids)), len(still.solids)):
            traces, others = _traces(still, k), torch.cat([still.solids[:k], still.solids[k + 1 :]]).any(dim=0)
            if not others[_box(traces, CLEAR)].any():
                old = still.scene.solids[k]
                pairs = [pair for pair in trained_pairs() if pair[0] != old.shape and pair[1] != old.colour]
                yield filled(still, _box(traces), Wanted(*chooser.choice(pairs)))
                break


def filled(still: Still, box: tuple[slice, slice], asked: Wanted) -> Case:
    """The case of one solid asked for within a box of a scene. What stands elsewhere is nobody's business."""
    inside = torch.zeros_like(still.table)
    inside[box] = True
    before = torch.from_numpy(levels(still.image)).permute(2, 0, 1)

    def measure(look: Look) -> dict[str, Figure]:
        after = torch.from_numpy(levels(look.image)).permute(2, 0, 1)
        there = [one for one in look.found if _at(inside, one)]
        return {
            "asked": counted(obeys((asked,), there)),
            "kept": counted(bool((after == before)[:, ~inside].all())),
            "seam": Figure(edge_energy(after, inside), edge_energy(before, inside)),
            "fade": Figure(fade_energy(after, inside, FADE), fade_energy(before, inside, FADE)),
        }

    mask = grey(inside)
    return Case(
        prompt=phrase(asked), given={"image": still.image, "mask": mask}, shown=(still.image, mask), measure=measure
    )


def depth(scenes: Iterator[Still], chooser: random.Random) -> Iterator[Case]:
    """A scene's depth, and a caption of it."""
    for still in scenes:
        near, table = 1 / still.depth, still.table
        solids = wanted(still.scene)

        def measure(
            look: Look, near: Tensor = near, table: Tensor = table, solids: tuple[Wanted, ...] = solids
        ) -> dict[str, Figure]:
            return {
                "rank": Figure(rank_correlation(look.near[table], near[table])),
                "text": counted(obeys(solids, look.found)),
            }

        yield Case(
            prompt=caption(still.scene, chooser).text,
            given={"depth": still.depth.numpy(), "depth_kind": "metric"},
            shown=(grey(near),),
            measure=measure,
            truth=still.image,
        )


def silhouette(scenes: Iterator[Still], chooser: random.Random) -> Iterator[Case]:
    """What a scene's solids cover, white on black, and a caption of it."""
    for still in scenes:
        solid = still.solids.any(dim=0)

        def measure(look: Look, still: Still = still, solid: Tensor = solid) -> dict[str, Figure]:
            solids, pairs = still.scene.solids, matched(still.middles, look.found)
            return {
                "overlap": Figure(overlap(look.solid, solid)),
                "colours": counted(sum(solids[k].colour == one.colour for k, one in pairs), len(solids)),
                "shapes": counted(sum(solids[k].shape == one.shape for k, one in pairs), len(solids)),
            }

        yield Case(
            prompt=caption(still.scene, chooser).text,
            given={"silhouette": grey(solid)},
            shown=(grey(solid),),
            measure=measure,
            truth=still.image,
        )


def image_prompt(scenes: Iterator[Still], chooser: random.Random) -> Iterator[Case]:
    """A picture in place of words."""
    for still in scenes:
        asked = Counter((solid.shape, solid.colour) for solid in still.scene.solids)

        def measure(look: Look, asked: Counter[tuple[str, str]] = asked) -> dict[str, Figure]:
            found = Counter((one.shape, one.colour) for one in look.found)
            return {
                "solids": counted((asked & found).total(), asked.total()),
                "same": counted(asked == found),
            }

        yield Case(
            prompt="",
            given={"image_prompt": [still.image]},
            shown=(still.image,),
            measure=measure,
            truth=still.image,
        )


def of_hint(hint: Hint, scenes: Iterator[Still], chooser: random.Random) -> Iterator[Case]:
    """What a hint is of a scene, and a caption of it: for hints without a measure of their own."""

    def read(image: Image.Image, depth: Tensor, solid: Tensor) -> tuple[Tensor, Tensor]:
        truth = Truth(pixels_of(image)[None], depth[None, None], solid[None, None].float())
        plane = hint.known(truth)
        return plane[0, 0], hint.reads(plane, (plane.shape[2] // PLACE, plane.shape[3] // PLACE))

    for still in scenes:
        plane, asked = read(still.image, still.depth, still.solids.any(dim=0))
        as_given = {"colours": still.image, "mask": plane.clamp(0, 1).numpy(), "depth": plane.numpy()}[hint.kind]

        def measure(look: Look, still: Still = still, asked: Tensor = asked) -> dict[str, Figure]:
            _, told = read(look.image, 1 / look.near.clamp(min=1e-6), look.solid)
            return {
                "match": Figure(rank_correlation(told, asked)),
                "text": counted(obeys(wanted(still.scene), look.found)),
            }

        yield Case(
            prompt=caption(still.scene, chooser).text,
            given={"hint": {hint.name: as_given}},
            shown=(grey(plane),),
            measure=measure,
            truth=still.image,
        )


def once(studio: Studio, cases: Sequence[tuple[int, Case]]) -> list[Row]:
    """Every case drawn once; the first thing that is measured is what it is worth."""
    requests = [studio.request(case.prompt, row, case.given) for row, case in cases]
    rows: list[Row] = []
    for (_, case), request, image in zip(cases, requests, studio.draw(requests), strict=True):
        look = studio.look(image)
        figures = case.measure(look)
        rows.append(Row(case, request, (image,), look.found, figures, next(iter(figures.values())).value))
    return rows


def scored(figures: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    """The scores by their names."""
    return {"scores": {name: score(each) for name, each in figures.items()}}


@dataclass(frozen=True)
class Kind(Generic[C]):
    """How a conditioner is measured."""

    cases: Callable[[Iterator[Still], random.Random], Iterator[C]]
    draw: Callable[[Studio, Sequence[tuple[int, C]]], list[Row]] = once
    told: Callable[[Mapping[str, Sequence[Figure]]], dict[str, Any]] = scored
    pictures: int = 1
    """How many are drawn for a scene."""


KINDS: dict[str, Kind[Any]] = {
    "image": Kind(strengths.cases, strengths.draw, strengths.told, strengths.PICTURES),
    "inpaint": Kind(inpaint),
    "depth": Kind(depth),
    "silhouette": Kind(silhouette),
    "image-prompt": Kind(image_prompt),
}
"""Conditioners with a measure of their own, by name."""


def names() -> tuple[str, ...]:
    """All that can be measured: these, and every other hint."""
    return (*KINDS, *(name for name in hints() if name not in KINDS))


def kind_of(name: str) -> Kind[Any]:
    """How one of the `names` is measured."""
    return KINDS[name] if name in KINDS else Kind(partial(of_hint, hints()[name]))


def check(studio: Studio, name: str) -> None:
    """Raise UserError where the model cannot be given what this conditioner is."""
    case = next(_cases(studio, name))
    studio.pipe.check(studio.request(case.prompt, 0, case.given))


def measured(studio: Studio, name: str, n: int, watch: Callable[[Row], object] = lambda _: None) -> dict[str, Any]:
    """{"n", "scores": {name: {"score", "low", "high", "n"}}} of a conditioner on n scenes, and more of some.

    A score has a "real" too where there is a picture that would be perfect: what the same measure gives of it. `watch`
    sees every row. Raises UserError as `check`.
    """
    kind = kind_of(name)
    cases = enumerate(islice(_cases(studio, name), n))
    figures: dict[str, list[Figure]] = {}
    real: dict[str, list[Figure]] = {}
    while some := list(islice(cases, TOGETHER)):
        for row in kind.draw(studio, some):
            _add(figures, row.figures)
            if row.case.truth is not None:
                _add(real, row.case.measure(studio.look(row.case.truth)))
            watch(row)
    told = kind.told(figures)
    for measure, each in real.items():
        told["scores"][measure]["real"] = score(each)["score"]
    return {"n": n, **told}


def lines(told: Mapping[str, Any]) -> Iterator[tuple[str, Score]]:
    """All scores of a conditioner with what to call them."""
    yield from told["scores"].items()
    for measure, points in told.get("curve", {}).items():
        yield from ((f"{measure} at {strength}", one) for strength, one in points.items())


def matched(asked: Sequence[tuple[float, float]], found: Sequence[Found]) -> list[tuple[int, Found]]:
    """What was found at places x, y: pairs of a place's number and what is there, the nearest first, each once."""
    away = sorted(
        (float(np.hypot(one.x - x, one.y - y)), k, index)
        for k, (x, y) in enumerate(asked)
        for index, one in enumerate(found)
    )
    pairs: dict[int, int] = {}
    for distance, k, index in away:
        if distance <= NEAR and k not in pairs and index not in pairs.values():
            pairs[k] = index
    return [(k, found[index]) for k, index in pairs.items()]


def _cases(studio: Studio, name: str) -> Iterator[Case]:
    scenes = stills(studio.seed, studio.pipe.size)
    return kind_of(name).cases(scenes, random.Random(f"{name} {studio.seed}"))


def _add(figures: dict[str, list[Figure]], of_one: Mapping[str, Figure]) -> None:
    for name, figure in of_one.items():
        figures.setdefault(name, []).append(figure)


def _traces(still: Still, k: int) -> Tensor:
    """Where the scene's picture would be another without its solid k, [H W] bools: the solid, and its shadow."""
    without = replace(still.scene, solids=(*still.scene.solids[:k], *still.scene.solids[k + 1 :]))
    bare = to_uint8(render(gather([without]), *still.table.shape).pixels)[0].numpy()
    return torch.from_numpy(np.abs(levels(still.image) - bare).max(axis=2) > SHADE) | still.solids[k]


def _box(place: Tensor, more: int = 0) -> tuple[slice, slice]:
    """Rows and columns around a place, bools [H W], with room and so many pixels more on every side."""
    room = round(ROOM * min(place.shape)) + more
    sides = [place.any(dim=1 - axis).nonzero()[:, 0] for axis in (0, 1)]
    spans = [(int(side[0]) - room, int(side[-1]) + room + 1) for side in sides]
    rows, columns = (
        slice(max(0, low), min(high, whole)) for (low, high), whole in zip(spans, place.shape, strict=True)
    )
    return rows, columns


def _at(inside: Tensor, one: Found) -> bool:
    """Whether the middle of a solid lies inside, [H W] bools."""
    height, width = inside.shape
    return bool(inside[min(int(one.y * height), height - 1), min(int(one.x * width), width - 1)])
