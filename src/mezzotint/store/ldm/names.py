"""What the maps of all parts are made with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from typing import TypeVar

from mezzotint.store.keymap import Piece
from mezzotint.types import UserError

Value = TypeVar("Value")

LDM = "latent diffusion names"
"""What the layout of a U-Net's or autoencoder's names is called."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a file's tensors, by name."""


def layer(ours: str, theirs: str, *, convolution: bool = False) -> dict[str, Piece]:
    """The weight and bias of one layer. `convolution`: theirs is a 1x1 convolution where ours is linear."""
    return {
        f"{ours}.weight": Piece(f"{theirs}.weight", convolution=convolution),
        f"{ours}.bias": Piece(f"{theirs}.bias"),
    }


def under(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors whose names begin with `prefix`, by what follows it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """The shape of a tensor that tells of a part's size. Raises UserError unless it is there and has `rank` sides."""
    if name not in shapes:
        raise UserError(f"The tensor {name} is missing, which tells of the model's size: get the file again.")
    if len(shapes[name]) != rank:
        raise UserError(f"The tensor {name} has shape {list(shapes[name])}; a model has {rank} sides there.")
    return shapes[name]


def length(shapes: Shapes, pattern: str) -> int:
    """How many numbers from 0 up give the name of a tensor when they are put into `pattern`."""
    return next(number for number in count() if pattern.format(number) not in shapes)


def only(values: Iterable[Value], otherwise: str) -> Value:
    """The one value that all are. Raises UserError, saying `otherwise`, where they differ."""
    distinct = set(values)
    if len(distinct) != 1:
        raise UserError(otherwise)
    return distinct.pop()
