"""The one loop: any number of live pictures, each a sampler's coroutine, denoised side by side.

At every turn the loop takes what each picture is asking, lays all their conditioning rows in one batch with a sigma of
its own per row, calls the denoiser once per latent shape, combines each picture's rows by its guidance and sends the
estimates back. Pictures may differ in sampler, steps, guidance, seed and shape, come between turns, and be cancelled,
none touching the others. The loop prints, saves and waits for nothing: whoever drives it reads its events.

    loop = Loop(denoiser)
    loop.add(x=..., sigmas=..., sampler=..., stream=..., guidance=..., conditioning=...)
    for event in loop:
        ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from torch import Generator, Tensor

from mezzotint.denoise.attention import ProjectedText
from mezzotint.sampling.guidance import Guidance
from mezzotint.sampling.samplers import Query, Sampler, Walk
from mezzotint.types import Conditioning


class Denoises(Protocol):
    """What the loop needs of a denoiser."""

    def __call__(
        self, x: Tensor, sigma: Tensor, conditioning: Conditioning, projected: ProjectedText | None = None
    ) -> Tensor:
        """Clean estimates [B C h w] of x [B C h w] at sigmas [B], told a conditioning of B rows."""
        ...

    def project(self, conditioning: Conditioning) -> ProjectedText:
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


@dataclass
class _Live:
    walk: Walk
    query: Query
    steps: int
    guidance: Guidance
    conditioning: Mapping[str, Conditioning]


@dataclass(frozen=True)
class _Row:
    picture: int
    name: str
    x: Tensor
    sigma: float
    conditioning: Conditioning


@dataclass(frozen=True)
class _Batch:
    """Rows of conditioning side by side, and what the U-Net made of their text."""

    rows: tuple[Conditioning, ...]
    conditioning: Conditioning
    projected: ProjectedText | None


class Loop:
    """Live pictures around one denoiser.

    No call of the denoiser has more than `max_rows` rows. Text is projected once for every Conditioning object, so
    pictures that share a prompt should share the object.
    """

    def __init__(self, denoise: Denoises, *, max_rows: int = 16) -> None:
        self._denoise = denoise
        self._max_rows = max_rows
        self._live: dict[int, _Live] = {}
        self._numbers = count()
        self._projected: dict[int, tuple[Conditioning, ProjectedText]] = {}
        self._batches: list[_Batch] = []

    def __len__(self) -> int:
        """Pictures that are live."""
        return len(self._live)

    def __iter__(self) -> Iterator[Event]:
        """Turn until no picture is live, one event at a time."""
        while self._live:
            yield from self.turn()

    def add(
        self,
        *,
        x: Tensor,
        sigmas: Sequence[float],
        sampler: Sampler,
        stream: Generator,
        guidance: Guidance,
        conditioning: Mapping[str, Conditioning],
    ) -> int:
        """Bring a picture in, at any time between turns, and return its number.

        x [1 C h w] has noise of deviation sigmas[0], at least two sigmas descend, `stream` is the picture's own and
        supplies whatever noise its sampler adds, and `conditioning` holds one row for every name its guidance may ask.
        """

        def noise() -> Tensor:
            return torch.randn(x.shape, generator=stream).to(x)

        walk = sampler.walk(x, sigmas, noise)
        number = next(self._numbers)
        self._live[number] = _Live(walk, next(walk), len(sigmas) - 1, guidance, conditioning)
        return number

    def cancel(self, picture: int) -> None:
        """Drop a picture between turns; one that has finished, or was dropped, stays so."""
        live = self._live.pop(picture, None)
        if live is not None:
            live.walk.close()

    @torch.inference_mode()
    def turn(self) -> list[Event]:
        """Answer what every live picture is asking: one event each."""
        estimates: dict[int, dict[str, Tensor]] = {number: {} for number in self._live}
        batches: list[_Batch] = []
        for rows in self._chunks():
            batch = self._batch(tuple(row.conditioning for row in rows))
            batches.append(batch)
            x = torch.cat([row.x for row in rows])
            sigma = torch.tensor([row.sigma for row in rows], device=x.device)
            answers = self._denoise(x, sigma, batch.conditioning, batch.projected)
            for row, answer in zip(rows, answers.split(1), strict=True):
                estimates[row.picture][row.name] = answer
        self._batches = batches
        events = [self._send(number, estimates[number]) for number in list(self._live)]
        self._forget()
        return events

    def _chunks(self) -> Iterator[list[_Row]]:
        """Every row that is asked for, together with those of its shape, `max_rows` at a time."""
        groups: dict[object, list[_Row]] = {}
        for number, live in self._live.items():
            x, sigma = live.query.x, live.query.sigma
            for name in live.guidance.rows(sigma):
                told = live.conditioning[name]
                slots = (told.sequence, told.pooled, told.spatial)
                key = (x.shape, *(None if slot is None else slot.shape for slot in slots))
                groups.setdefault(key, []).append(_Row(number, name, x, sigma, told))
        for rows in groups.values():
            for start in range(0, len(rows), self._max_rows):
                yield rows[start : start + self._max_rows]

    def _batch(self, rows: tuple[Conditioning, ...]) -> _Batch:
        """The rows side by side: those of the turn before where they are the same objects in the same order."""
        for batch in self._batches:
            if len(batch.rows) == len(rows) and all(a is b for a, b in zip(batch.rows, rows, strict=True)):
                return batch
        conditioning = Conditioning(
            sequence=_side_by_side([row.sequence for row in rows]),
            pooled=_side_by_side([row.pooled for row in rows]),
            spatial=_side_by_side([row.spatial for row in rows]),
        )
        projected = None
        if conditioning.sequence is not None:
            projected = ProjectedText.cat([self._project(row) for row in rows])
        return _Batch(rows, conditioning, projected)

    def _project(self, row: Conditioning) -> ProjectedText:
        if id(row) not in self._projected:
            # The row is kept beside its projection, so that its id cannot pass to another.
            self._projected[id(row)] = (row, self._denoise.project(row))
        return self._projected[id(row)][1]

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
        told = {id(row) for live in self._live.values() for row in live.conditioning.values()}
        self._projected = {key: value for key, value in self._projected.items() if key in told}
        if not self._live:
            self._batches = []


def _side_by_side(slots: list[Tensor | None]) -> Tensor | None:
    """One slot of several conditionings, which all fill it or all leave it empty."""
    filled = [slot for slot in slots if slot is not None]
    return torch.cat(filled) if filled else None
