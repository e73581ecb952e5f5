"""The one loop: any number of live pictures, each a sampler's coroutine, denoised side by side.

At every turn the loop takes what each picture is asking, lays all their conditioning rows in one batch with a sigma of
its own per row, calls the denoiser once per latent shape, combines each picture's rows by its guidance and sends the
estimates back. Pictures may differ in sampler, steps, guidance, seed, shape and denoiser, come between turns, rest and
go on, and be cancelled, none touching the others. The loop prints, saves and waits for nothing: whoever drives it
reads its events.

    loop = Loop(denoiser)
    loop.add(walk=sampler.walk(x, sigmas, noise), steps=20, guidance=..., told={"cond": Told.of(conditioning)})
    for event in loop:
        ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from mezzotint.denoise.attention import Projected
from mezzotint.sampling.guidance import Guidance
from mezzotint.sampling.samplers import Query, Walk
from mezzotint.types import Conditioning


class Denoises(Protocol):
    """What the loop needs of a denoiser."""

    def __call__(
        self, x: Tensor, sigma: Tensor, conditioning: Conditioning, projected: Projected | None = None
    ) -> Tensor:
        """Clean estimates [B C h w] of x [B C h w] at sigmas [B], told a conditioning of B rows."""
        ...

    def project(self, conditioning: Conditioning) -> Projected:
        """What every step reads of the conditioning's sequence."""
        ...


@dataclass(frozen=True)
class Event:
    """One picture has moved."""

    picture: int
    """The number that `Loop.add` gave."""
    step: int
    """Steps done, 0 to `steps`; a step of two evaluations makes two events."""
    steps: int
    """Steps in all."""
    estimate: Tensor
    """What the picture looks like so far: the guided clean estimate [1 C h w]."""
    latent: Tensor | None
    """The finished latent [1 C h w] in the picture's last event, none before."""


@dataclass(frozen=True)
class Told:
    """What one row of a picture's guidance is told from step to step, and who denoises it."""

    phases: tuple[tuple[int, Conditioning], ...]
    """Conditionings of one row, each with the step from which on it is told; the first from step 0."""
    denoise: Denoises | None = None
    """Another denoiser than the loop's own."""

    @classmethod
    def of(cls, conditioning: Conditioning, denoise: Denoises | None = None) -> Told:
        """The same at every step."""
        return cls(((0, conditioning),), denoise)

    def at(self, step: int) -> Conditioning:
        """What the row is told at this step."""
        return next(conditioning for first, conditioning in reversed(self.phases) if first <= step)


@dataclass
class _Live:
    walk: Walk
    query: Query
    steps: int
    guidance: Guidance
    told: Mapping[str, Told]
    exact: bool
    paused: bool = False


@dataclass(frozen=True)
class _Row:
    picture: int
    name: str
    x: Tensor
    sigma: float
    conditioning: Conditioning
    denoise: Denoises
    apart: bool
    """Whether it may lie beside rows of its own picture alone."""

    @property
    def kind(self) -> object:
        """What rows must have in common to lie in one batch."""
        shapes = (None if slot is None else slot.shape for slot in self.conditioning.slots)
        return id(self.denoise), self.picture if self.apart else None, self.x.shape, *shapes


@dataclass(frozen=True)
class _Batch:
    """Rows of conditioning side by side, and what a denoiser made of what they read."""

    denoise: Denoises
    rows: tuple[Conditioning, ...]
    conditioning: Conditioning
    projected: Projected | None


class Loop:
    """Live pictures around one denoiser, and others that some of their rows may want.

    No call of a denoiser has more than `max_rows` rows, and those of an exact picture have its own rows alone (decision
    0020). What rows read is projected once for every tensor `sequence`, so pictures of one prompt should share it.
    """

    def __init__(self, denoise: Denoises, *, max_rows: int = 16) -> None:
        self._denoise = denoise
        self._max_rows = max_rows
        self._live: dict[int, _Live] = {}
        self._numbers = count()
        self._projected: dict[tuple[int, ...], tuple[Conditioning, Projected]] = {}
        self._batches: list[_Batch] = []

    def __len__(self) -> int:
        """Pictures that are live, paused ones among them."""
        return len(self._live)

    def __iter__(self) -> Iterator[Event]:
        """Turn until no picture moves, one event at a time."""
        while not all(live.paused for live in self._live.values()):
            yield from self.turn()

    def add(self, *, walk: Walk, steps: int, guidance: Guidance, told: Mapping[str, Told], exact: bool = False) -> int:
        """Bring a picture in, at any time between turns, and return its number.

        `walk` is a sampler's coroutine that has not begun, of so many steps, around a latent [1 C h w]; whatever noise
        it adds comes from a stream of the picture's own. `told` holds one row for every name that its guidance may ask.
        An `exact` picture is the same to the last bit in any company.
        """
        number = next(self._numbers)
        self._live[number] = _Live(walk, next(walk), steps, guidance, told, exact)
        return number

    def cancel(self, picture: int) -> None:
        """Drop a picture between turns; one that has finished, or was dropped, stays so."""
        live = self._live.pop(picture, None)
        if live is not None:
            live.walk.close()

    def pause(self, picture: int) -> None:
        """Let a picture rest from the next turn on. Raises KeyError for one that is not live, as `resume` does."""
        self._live[picture].paused = True

    def resume(self, picture: int) -> None:
        """Let a picture go on where it rested."""
        self._live[picture].paused = False

    @torch.inference_mode()
    def turn(self) -> list[Event]:
        """Answer what every live picture is asking that is not paused: one event each."""
        moving = [number for number, live in self._live.items() if not live.paused]
        estimates: dict[int, dict[str, Tensor]] = {number: {} for number in moving}
        batches: list[_Batch] = []
        for rows in self._chunks(moving):
            batch = self._batch(rows[0].denoise, tuple(row.conditioning for row in rows))
            batches.append(batch)
            x = torch.cat([row.x for row in rows])
            sigma = torch.tensor([row.sigma for row in rows], device=x.device)
            answers = batch.denoise(x, sigma, batch.conditioning, batch.projected)
            for row, answer in zip(rows, answers.split(1), strict=True):
                estimates[row.picture][row.name] = answer
        self._batches = batches
        events = [self._send(number, estimates[number]) for number in moving]
        self._forget()
        return events

    def _chunks(self, moving: Sequence[int]) -> Iterator[list[_Row]]:
        """Every row that is asked for, together with those of its kind, as many at a time as a batch takes."""
        groups: dict[object, list[_Row]] = {}
        for number in moving:
            live = self._live[number]
            query = live.query
            for name in live.guidance.rows(query.sigma):
                told = live.told[name]
                denoise = self._denoise if told.denoise is None else told.denoise
                row = _Row(number, name, query.x, query.sigma, told.at(query.step), denoise, live.exact)
                groups.setdefault(row.kind, []).append(row)
        for rows in groups.values():
            for start in range(0, len(rows), self._max_rows):
                yield rows[start : start + self._max_rows]

    def _batch(self, denoise: Denoises, rows: tuple[Conditioning, ...]) -> _Batch:
        """The rows side by side: those of the turn before where they are the same objects in the same order."""
        for batch in self._batches:
            same = batch.denoise is denoise and len(batch.rows) == len(rows)
            if same and all(a is b for a, b in zip(batch.rows, rows, strict=True)):
                return batch
        conditioning = Conditioning.cat(rows)
        projected = None
        if conditioning.sequence is not None:
            projected = Projected.cat([self._project(denoise, row) for row in rows])
        return _Batch(denoise, rows, conditioning, projected)

    def _project(self, denoise: Denoises, row: Conditioning) -> Projected:
        key = (id(denoise), *_read(row))
        if key not in self._projected:
            # The row is kept beside its projection, so that its tensors' ids cannot pass to others.
            self._projected[key] = (row, denoise.project(row))
        return self._projected[key][1]

    def _send(self, number: int, estimates: Mapping[str, Tensor]) -> Event:
        """Send a picture its estimate and take its next question, or its latent."""
        live = self._live[number]
        estimate = live.guidance.combine(estimates, live.query)
        try:
            live.query = live.walk.send(estimate)
        except StopIteration as end:
            del self._live[number]
            return Event(number, live.steps, live.steps, estimate, end.value)
        return Event(number, live.query.step, live.steps, estimate, None)

    def _forget(self) -> None:
        """Drop what was projected for pictures that have left."""
        rows = [told for live in self._live.values() for told in live.told.values()]
        told = {_read(conditioning) for row in rows for _, conditioning in row.phases}
        self._projected = {key: value for key, value in self._projected.items() if key[1:] in told}
        if not self._live:
            self._batches = []


def _read(row: Conditioning) -> tuple[int, ...]:
    """Which tensors of a row are read by cross-attention."""
    return id(row.sequence), id(row.pictures), id(row.weights)
