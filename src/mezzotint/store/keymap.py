"""Where our tensors lie in files of another layout: names, and slices, transposes and shapes that differ.

A map tells, for every tensor of a module, its piece of a foreign tensor. It is read in one direction to load and in the
other to save, so what is saved and loaded again is equal to the bit. Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mezzotint.types import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """One of our tensors as part of a foreign one."""

    source: str
    """The foreign tensor's name."""
    part: int = 0
    """Which of the equal parts that the foreign tensor's first axis is cut into."""
    parts: int = 1
    """How many parts there are: query, key and value are often one tensor of three."""
    transposed: bool = False
    """Whether the foreign matrix is ours with rows and columns exchanged."""
    convolution: bool = False
    """Whether the foreign tensor is written as a 1x1 convolution where ours is a matrix."""


KeyMap = Mapping[str, Piece]
"""Our names, and where each tensor lies."""


def prefixed(places: KeyMap, prefix: str) -> KeyMap:
    """The same map for a file where every foreign name begins with `prefix`."""
    return {name: replace(piece, source=prefix + piece.source) for name, piece in places.items()}


def sources(places: KeyMap) -> set[str]:
    """The foreign tensors that a map reads."""
    return {piece.source for piece in places.values()}


def shape_of(piece: Piece, foreign: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the piece, for the foreign tensor's shape; trailing ones of a 1x1 convolution are left out.

    Raises UserError where the first axis cannot be cut into so many parts.
    """
    if piece.parts > 1 and (not foreign or foreign[0] % piece.parts != 0):
        raise UserError(f"{piece.source} has shape {list(foreign)}, which cannot be cut into {piece.parts} parts.")
    own = (foreign[0] // piece.parts, *foreign[1:]) if piece.parts > 1 else foreign
    if piece.convolution and len(own) == 4 and own[2:] == (1, 1):
        own = own[:2]
    return own[::-1] if piece.transposed else own


def taken(piece: Piece, foreign: Tensor) -> Tensor:
    """Our tensor, a view of the foreign one. Raises UserError as `shape_of`."""
    shape_of(piece, tuple(foreign.shape))
    own = foreign.chunk(piece.parts)[piece.part] if piece.parts > 1 else foreign
    if piece.convolution and own.ndim == 4 and own.shape[2:] == (1, 1):
        own = own[:, :, 0, 0]
    return own.T if piece.transposed else own


def given(tensors: Mapping[str, Tensor], places: KeyMap) -> dict[str, Tensor]:
    """The foreign tensors by name, contiguous, put together of ours.

    Raises KeyError for a tensor of ours that has no place, and for a foreign one of which a part is not there.
    """
    import torch

    pieces: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        piece = places[name]
        foreign = tensor.T if piece.transposed else tensor
        if piece.convolution and foreign.ndim == 2:
            foreign = foreign[:, :, None, None]
        pieces.setdefault(piece.source, {})[piece.part] = foreign
    counts = {piece.source: piece.parts for piece in places.values()}
    whole = {source: [parts[part] for part in range(counts[source])] for source, parts in pieces.items()}
    return {source: (torch.cat(parts) if len(parts) > 1 else parts[0]).contiguous() for source, parts in whole.items()}
