"""Plans -> pictures: pictures come into the loop as others leave it, and what leaves is decoded."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from mezzotint.noise.generator import generator
from mezzotint.pipeline.plan import Ask, Plan, Row
from mezzotint.pipeline.start import Start, start
from mezzotint.sampling import two_pass
from mezzotint.sampling.loop import Loop, Told
from mezzotint.types import Conditioning, Request

if TYPE_CHECKING:
    from mezzotint.pipeline import Pipeline


@dataclass(frozen=True)
class Picture:
    """A finished picture."""

    index: int
    """Its place among the requests that were asked for together."""
    request: Request
    """Everything it depends on, nothing left open: seed, size and model are those that drew it."""
    image: Image.Image
    """RGB; its `info["request"]` is the request too."""


@dataclass(frozen=True)
class Progress:
    """A picture has moved; `pipe.preview(progress.estimate)` shows how it looks so far, and `pipe.decode` in full."""

    index: int
    """Its place among the requests that were asked for together."""
    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    estimate: Tensor
    """The clean estimate [1 C h w], a latent."""
    picture: Picture | None = None
    """The picture, in its last move."""


Report = Callable[[Progress], object]
"""Told of every move; whoever returns False from it cancels that picture."""


class Cancelled(Exception):  # noqa: N818 - it is no error
    """A picture was cancelled, so there is none to return."""


def finished(progress: Iterable[Progress]) -> Iterator[Picture]:
    """The pictures among the moves."""
    return (move.picture for move in progress if move.picture is not None)


@dataclass(frozen=True)
class _Drawing:
    """A picture in work."""

    plan: Plan
    start: Start
    noise: Callable[[Sequence[int]], Tensor]
    """Draws from its stream."""


def moves(pipe: Pipeline, plans: Sequence[Plan], report: Report | None) -> Iterator[Progress]:
    """Draw side by side; every move of every picture, the last of each when it is decoded.

    `report` hears of a move before it is yielded, and cancels that picture by returning False.
    """
    pipe.before_drawing()
    loop = Loop(pipe.denoiser, max_rows=pipe.max_rows)
    waiting = deque(plans)
    live: dict[int, _Drawing] = {}
    known: dict[Ask, Conditioning] = {}
    while waiting or live:
        room = max(1, pipe.max_rows // 2) - len(live)
        coming = [waiting.popleft() for _ in range(min(room, len(waiting)))]
        drawn: list[tuple[_Drawing, Progress, Tensor]] = []
        if coming:
            plans_in_work = [*(drawing.plan for drawing in live.values()), *coming]
            known = read(pipe, [ask for plan in plans_in_work for ask in plan.asks], known)
            for plan in coming:
                drawing = _begun(pipe, plan)
                if plan.steps > 0:
                    live[_add(pipe, loop, drawing, known)] = drawing
                    continue
                latent = drawing.start.passes[0].latent  # At strength 0 it is the picture's own.
                assert latent is not None
                move = Progress(plan.index, 0, 0, latent)
                if report is None or report(move) is not False:
                    drawn.append((drawing, move, latent))
        for event in loop.turn():
            drawing = live[event.picture]
            move = Progress(drawing.plan.index, event.step, event.steps, event.estimate)
            cancelled = report is not None and report(move) is False
            if cancelled:
                loop.cancel(event.picture)
            elif event.latent is not None:
                # What a walk ends with is x0 + sigma * n, and where sigma is not 0 the decoder sees that, scaled.
                drawn.append((drawing, move, event.latent / math.hypot(1.0, drawing.plan.passes[-1].sigmas[-1])))
            else:
                yield move
            if cancelled or event.latent is not None:
                del live[event.picture]
        yield from _pictures(pipe, drawn)


@torch.inference_mode()
def read(pipe: Pipeline, asked: Sequence[Ask], known: Mapping[Ask, Conditioning]) -> dict[Ask, Conditioning]:
    """One row of conditioning for all that is asked; those already known are the same objects."""
    batches: dict[object, list[Ask]] = {}
    for ask in dict.fromkeys(asked):
        if ask not in known:
            batches.setdefault(ask if ask.alone else (ask.model, ask.words.chunks), []).append(ask)
    rows = dict(known)
    for asks in batches.values():
        model = asks[0].model
        conditioner = pipe.networks.other(model).conditioner if model else pipe.conditioner
        rows |= dict(zip(asks, conditioner([ask.words for ask in asks]).rows(), strict=True))
    return {ask: rows[ask] for ask in asked}


def _begun(pipe: Pipeline, plan: Plan) -> _Drawing:
    """A picture about to be drawn."""
    stream = generator(plan.request.seed)

    def noise(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=stream).to(pipe.device)

    return _Drawing(plan, start(pipe, plan, noise), noise)


def _add(pipe: Pipeline, loop: Loop, drawing: _Drawing, known: Mapping[Ask, Conditioning]) -> int:
    """Start a picture's walk."""
    plan, begun = drawing.plan, drawing.start
    begin = partial(plan.sampler.begin, eta=plan.request.eta, schedule=plan.schedule)
    return loop.add(
        walk=two_pass.walk(begin, begun.x, plan.passes, drawing.noise, enlarge=partial(begun.enlarged, pipe.codec)),
        steps=plan.steps,
        guidance=begun.guided(plan),
        told=told(pipe, plan, known, begun),
        exact=plan.request.exact,
    )


def told(pipe: Pipeline, plan: Plan, known: Mapping[Ask, Conditioning], begun: Start) -> dict[str, Told]:
    """What the rows of a picture are told, and who denoises them."""

    def phases(name: str, row: Row) -> tuple[tuple[int, Conditioning], ...]:
        own = begun.seen_by(row.wanted, plan.layout)
        heard: list[tuple[int, Conditioning]] = []
        done = 0
        ends = (*(step for step, _ in row.phases[1:]), plan.steps)
        for number, each in enumerate(plan.passes):
            for (step, ask), end in zip(row.phases, ends, strict=True):
                if step < done + each.steps and end > done:
                    words = own.told(known[ask], name, number, negative=ask.words.negative)
                    heard.append((max(step, done), words))
            done += each.steps
        return tuple(heard)

    return {name: Told(phases(name, row), pipe.networks.get(row.wanted)) for name, row in plan.rows.items()}


def _pictures(pipe: Pipeline, drawn: Sequence[tuple[_Drawing, Progress, Tensor]]) -> Iterator[Progress]:
    """Decode latents, those of one shape together and exact ones alone."""
    groups: dict[object, list[tuple[_Drawing, Progress, Tensor]]] = {}
    for drawing, move, latent in drawn:
        alone = drawing.plan.request.exact or drawing.start.shift is not None
        groups.setdefault(drawing.plan.index if alone else latent.shape, []).append((drawing, move, latent))
    for group in groups.values():
        images = pipe.decode(torch.cat([latent for _, _, latent in group]), shift=group[0][0].start.shift)
        for (drawing, move, _), whole in zip(group, images, strict=True):
            plan = drawing.plan
            image = plan.edit.finish(whole)
            image.info["request"] = plan.request
            picture = Picture(plan.index, plan.request, image)
            yield Progress(move.index, move.step, move.steps, move.estimate, picture)
