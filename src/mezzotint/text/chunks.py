"""A text of any length as chunks that a text encoder has room for. Imports no torch.

As AUTOMATIC1111's web UI does: a chunk is filled to the encoder's room (75 ids of CLIP's 77) and the next goes on.
Where a comma stands among its last 20 ids, what follows the comma goes to the next chunk, so that no phrase is torn.
BREAK ends a chunk. A learned word is not torn either, unless no chunk holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mezzotint.text.emphasis import BREAK, emphasis

BACKTRACK = 20
"""How far before a chunk's end a comma may stand to end it."""


class CutsText(Protocol):
    """What is asked of a tokenizer here."""

    @property
    def room(self) -> int:
        """Ids of a text that fit into a sequence."""
        ...

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone."""
        ...

    def whole(self, ids: Sequence[int]) -> Iterable[Sequence[int]]:
        """The ids in runs that must not be torn."""
        ...


@dataclass(frozen=True)
class Chunk:
    """What of a text is encoded at once."""

    ids: tuple[int, ...] = ()
    """The ids of its text, as many as there is room for or fewer; nothing begins or ends them."""
    weights: tuple[float, ...] = ()
    """How much each of them counts."""


EMPTY = Chunk()


def chunked(tokenizer: CutsText, text: str, weighting: str) -> list[Chunk]:
    """The chunks of a text, one at least. Raises UserError for a weighting that there is not."""
    comma = tokenizer.ids(",")[-1:]
    filling = _Filling(tokenizer.room, comma)
    for words, weight in emphasis(text, weighting):
        if (words, weight) == BREAK:
            filling.close()
            continue
        for run in tokenizer.whole(tokenizer.ids(words)):
            if len(run) <= tokenizer.room:
                filling.add(list(run), weight)
            else:
                for each in run:
                    filling.add([each], weight)
    if filling.ids or not filling.chunks:
        filling.close()
    return filling.chunks


class _Filling:
    """Chunks being filled."""

    def __init__(self, room: int, comma: list[int]) -> None:
        self.chunks: list[Chunk] = []
        self.ids: list[int] = []
        self._weights: list[float] = []
        self._room = room
        self._comma = comma
        self._after_comma = 0
        """Where what follows the chunk's last comma begins; 0 where it has none."""

    def add(self, run: list[int], weight: float) -> None:
        """Add ids that stay together, to the next chunk where this one has no room for them."""
        if len(self.ids) + len(run) > self._room:
            behind = len(self.ids) - self._after_comma
            near = self._after_comma > 0 and behind < BACKTRACK and behind + len(run) <= self._room
            self.close(self._after_comma if near and run != self._comma else len(self.ids))
        self.ids += run
        self._weights += [weight] * len(run)
        if run == self._comma:
            self._after_comma = len(self.ids)

    def close(self, end: int | None = None) -> None:
        """End the chunk, whose ids from `end` on go to the next one."""
        end = len(self.ids) if end is None else end
        self.chunks.append(Chunk(tuple(self.ids[:end]), tuple(self._weights[:end])))
        self.ids, self._weights, self._after_comma = self.ids[end:], self._weights[end:], 0
