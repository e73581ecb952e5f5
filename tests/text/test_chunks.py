"""Chunks: filled to the room, cut after a comma where one is near, words whole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzotint.text import Tokenizer, WordPieceTokenizer, train_tokenizer
from mezzotint.text.chunks import EMPTY, Chunk, chunked
from mezzotint.text.words import with_words
from mezzotint.types import WEIGHTINGS

PLAIN = train_tokenizer(["a red cube, to the left of a blue sphere, b"] * 3, 600)
FIRST = 1000
WORDED = with_words(PLAIN, {"<toy>": 3, "<long>": 80}, FIRST)
TOY = list(range(FIRST, FIRST + 3))
BERT = WordPieceTokenizer(
    {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", ","])}, length=8
)
A, B, COMMA = (PLAIN.ids(text)[0] for text in ("a", "b", ","))


def lengths(text: str, tokenizer: Tokenizer = WORDED) -> list[int]:
    return [len(chunk.ids) for chunk in chunked(tokenizer, text, "a1111")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0]),
        ("a " * 75, [75]),
        ("a " * 76, [75, 1]),
        ("a " * 160, [75, 75, 10]),
        ("a " * 60 + ", " + "a " * 30, [61, 30]),  # the comma is the 61st: 15 follow it
        ("a " * 55 + ", " + "a " * 30, [56, 30]),  # the comma is among the last 20
        ("a " * 54 + ", " + "a " * 30, [75, 10]),  # and here the 21st from the end
        ("a " * 60 + ", a, " + "a " * 30, [63, 30]),
        ("a " * 74 + ", a", [75, 1]),
        ("a " * 75 + ", a", [75, 2]),  # a comma that has no room moves nothing
        ("a " * 70 + "<toy> <toy>", [73, 3]),
        ("a " * 72 + "<toy>", [75]),
        ("a " * 60 + ", " + "a " * 12 + "<toy>", [61, 15]),
        ("a <long> b", [75, 7]),  # no chunk has room for it
        ("a BREAK b", [1, 1]),
        ("BREAK a", [0, 1]),
        ("a BREAK", [1]),
        ("a BREAK BREAK b", [1, 0, 1]),
        ("(a BREAK b:1.2)", [1, 1]),
    ],
)
def test_where_chunks_end(text: str, expected: list[int]) -> None:
    assert lengths(text) == expected


def test_every_id_has_its_weight_and_none_is_lost() -> None:
    first, second = chunked(WORDED, "a (<toy> b:1.3) " + "a " * 70 + "[b]", "a1111")
    assert first == Chunk((A, *TOY, B, *[A] * 70), (1.0, *[1.3] * 4, *[1.0] * 70))
    assert second == Chunk((B,), (1 / 1.1,))
    assert chunked(PLAIN, "(a)2 b", "compel") == [Chunk((A, B), (2.0, 1.0))]
    assert chunked(PLAIN, "(a) BREAK", "none") == [
        Chunk(tuple(PLAIN.ids("(a) BREAK")), (1.0,) * len(PLAIN.ids("(a) BREAK")))
    ]


def test_a_short_plain_text_has_the_ids_that_it_always_had() -> None:
    for text in ("", "a red cube, to the left of a blue sphere", "A  Red\tcube!", "16:9", "<|endoftext|>"):
        for tokenizer in (PLAIN, WORDED, BERT, replace(PLAIN, length=40)):
            if len(tokenizer.ids(text)) <= tokenizer.room:
                (chunk,) = chunked(tokenizer, text, "a1111")
                assert [tokenizer.row(chunk.ids)] == tokenizer.encode([text])
    assert BERT.row(EMPTY.ids) == [2, 3, 0, 0, 0, 0, 0, 0]


def test_other_tokenizers_have_chunks_of_their_own_room() -> None:
    found = chunked(BERT, "a b a b , a b a", "a1111")
    assert [BERT.row(chunk.ids) for chunk in found] == [[2, 5, 6, 5, 6, 7, 3, 0], [2, 5, 6, 5, 3, 0, 0, 0]]
    assert [BERT.place(len(chunk.ids)) for chunk in found] == [1, 1]
    assert BERT.names(found[1].ids) == ["a", "b", "a"]
    assert WORDED.names([A, *TOY]) == ["a</w>", "<toy>", "<toy>", "<toy>"]


@given(
    st.one_of(st.text(max_size=200), st.text(alphabet="ab, <toy>()[]:1.5+-\\BREAK", max_size=300)),
    st.sampled_from(WEIGHTINGS),
    st.sampled_from([3, 4, 9, 77]),
)
@settings(max_examples=200, deadline=None)
def test_any_text_fits(text: str, weighting: str, length: int) -> None:
    tokenizer = replace(WORDED, length=length)
    found = chunked(tokenizer, text, weighting)
    assert found
    for chunk in found:
        row = tokenizer.row(chunk.ids)
        assert len(row) == length
        assert len(chunk.weights) == len(chunk.ids) <= tokenizer.room
        assert all(math.isfinite(weight) for weight in chunk.weights)
        assert list(chunk.ids) == row[1 : 1 + len(chunk.ids)]
        if length > 4:  # words of three ids are whole
            places = [place for place, index in enumerate(chunk.ids) if index == TOY[0]]
            assert all(list(chunk.ids[place : place + 3]) == TOY for place in places)
    if weighting == "none":
        assert [index for chunk in found for index in chunk.ids] == tokenizer.ids(text)
