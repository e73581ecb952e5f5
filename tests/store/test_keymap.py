"""Pieces of foreign tensors: what is taken from them and given back is equal to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from mezzotint.store.keymap import KeyMap, Piece, given, shape_of, taken
from mezzotint.types import UserError

FOREIGN = {
    "in_proj": torch.arange(36.0).reshape(9, 4),
    "projection": torch.arange(6.0).reshape(2, 3),
    "conv": torch.arange(6.0).reshape(2, 3, 1, 1),
    "plain": torch.arange(5.0),
}
PLACES: KeyMap = {
    "q": Piece("in_proj", 0, 3),
    "k": Piece("in_proj", 1, 3),
    "v": Piece("in_proj", 2, 3),
    "text_projection": Piece("projection", transposed=True),
    "to_out": Piece("conv", convolution=True),
    "norm": Piece("plain"),
}


def test_each_piece_is_ours():
    ours = {name: taken(piece, FOREIGN[piece.source]) for name, piece in PLACES.items()}
    assert torch.equal(ours["k"], FOREIGN["in_proj"][3:6])
    assert torch.equal(ours["text_projection"], FOREIGN["projection"].T)
    assert torch.equal(ours["to_out"], FOREIGN["conv"][:, :, 0, 0])
    assert torch.equal(ours["norm"], FOREIGN["plain"])
    assert all(tensor.data_ptr() >= FOREIGN[PLACES[name].source].data_ptr() for name, tensor in ours.items())


def test_the_way_back_is_equal_to_the_bit():
    back = given({name: taken(piece, FOREIGN[piece.source]) for name, piece in PLACES.items()}, PLACES)
    assert back.keys() == FOREIGN.keys()
    assert all(torch.equal(back[name], tensor) and back[name].is_contiguous() for name, tensor in FOREIGN.items())


@settings(max_examples=50, deadline=None)
@examples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.booleans(), st.booleans())
def test_a_tensor_of_any_shape_comes_back(parts: int, rows: int, columns: int, transposed: bool, convolution: bool):
    foreign = torch.arange(parts * rows * columns).reshape(parts * rows, columns, *([1, 1] if convolution else []))
    places = {str(part): Piece("x", part, parts, transposed, convolution) for part in reversed(range(parts))}
    ours: dict[str, Tensor] = {name: taken(piece, foreign) for name, piece in places.items()}
    assert all(tuple(ours[name].shape) == shape_of(piece, tuple(foreign.shape)) for name, piece in places.items())
    assert torch.equal(given(ours, places)["x"], foreign)


def test_a_matrix_in_the_place_of_a_convolution_is_read_as_it_is():
    """Autoencoders of Stable Diffusion have their attention as either."""
    assert torch.equal(taken(Piece("conv", convolution=True), FOREIGN["projection"]), FOREIGN["projection"])


def test_what_cannot_be_cut_is_told():
    with pytest.raises(UserError, match=r"in_proj has shape \[9, 4\].*2 parts"):
        taken(Piece("in_proj", 0, 2), FOREIGN["in_proj"])
    with pytest.raises(UserError, match=r"in_proj has shape \[\]"):
        shape_of(Piece("in_proj", 0, 3), ())


def test_a_part_that_is_not_there_is_no_tensor():
    ours = {name: taken(PLACES[name], FOREIGN["in_proj"]) for name in ("q", "v")}
    with pytest.raises(KeyError):
        given(ours, PLACES)
    with pytest.raises(KeyError):
        given({"unknown": torch.zeros(1)}, PLACES)
