"""Learned words are found where they stand alone, and leave every other text as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mezzotint.text import Tokenizer, train_tokenizer
from mezzotint.text.words import WordedTokenizer, with_words
from mezzotint.types import UserError

PLAIN = train_tokenizer(["a red cube to the left of a blue sphere", "a cube in the style of a cube, twice"], 600)
FIRST = 1000
"""The encoder may have more rows than the vocabulary has tokens."""
WORDS = {"<cat-toy>": 1, "Style": 3, "my  own Word": 2, "café": 1}
TOKENIZER = with_words(PLAIN, WORDS, FIRST)
CAT, STYLE, MINE, CAFE = [1000], [1001, 1002, 1003], [1004, 1005], [1006]


def test_a_word_becomes_as_many_ids_as_it_has_vectors() -> None:
    a, cube = PLAIN.ids("a"), PLAIN.ids("cube")
    assert TOKENIZER.ids("a <cat-toy> cube") == [*a, *CAT, *cube]
    assert TOKENIZER.ids("style") == STYLE
    assert TOKENIZER.vocab_size == 1007
    (row,) = TOKENIZER.encode(["a style"])
    assert row[: 1 + len(a) + 4] == [TOKENIZER.bos_id, *a, *STYLE, TOKENIZER.eos_id]
    assert len(row) == 77


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("STYLE", STYLE),
        ("style,style", [*STYLE, *PLAIN.ids(","), *STYLE]),
        ("styles", PLAIN.ids("styles")),
        ("restyle", PLAIN.ids("restyle")),
        ("style2", PLAIN.ids("style2")),
        ("a<CAT-toy>a", [*PLAIN.ids("a"), *CAT, *PLAIN.ids("a")]),
        ("my own word", MINE),
        ("My\n own\tWORD.", [*MINE, *PLAIN.ids(".")]),
        ("my own", PLAIN.ids("my own")),
        ("cafe\u0301", CAFE),
        ("\u017ftyle", STYLE),  # the long s, which is an s whose case is left out of account
        ("", []),
    ],
)
def test_where_a_word_is_found(text: str, ids: list[int]) -> None:
    assert TOKENIZER.ids(text) == ids


def test_the_longest_word_counts() -> None:
    tokenizer = with_words(PLAIN, {"red": 1, "red cube": 1}, FIRST)
    assert tokenizer.ids("red cube red") == [1001, 1000]


def test_a_part_of_a_word_in_the_vocabulary_stays_what_it_is() -> None:
    """'cube' is a piece of the vocabulary too: only where it stands alone is it the learned word."""
    tokenizer = with_words(PLAIN, {"cube": 1}, FIRST)
    assert tokenizer.ids("cubes cube") == [*PLAIN.ids("cubes"), 1000]


def test_ids_are_told_back() -> None:
    ids = TOKENIZER.ids("a Red <cat-toy> in my own word style, style")
    assert TOKENIZER.decode(ids) == "a red <cat-toy> in my  own Word Style , Style"
    assert TOKENIZER.decode([*STYLE, *STYLE]) == "Style Style"
    assert TOKENIZER.decode(STYLE[1:]) == "Style"  # cut in its middle
    assert TOKENIZER.tokens("a style") == ["a</w>", "Style", "Style", "Style"]
    with pytest.raises(UserError, match="no token 5000"):
        TOKENIZER.decode([5000])


def test_a_word_is_not_to_be_torn() -> None:
    ids = TOKENIZER.ids("a style style cube")
    assert [list(run) for run in TOKENIZER.whole(ids)] == [[ids[0]], STYLE, STYLE, [ids[-1]]]
    assert [list(run) for run in PLAIN.whole(PLAIN.ids("a cube"))] == [[index] for index in PLAIN.ids("a cube")]


def test_without_words_it_is_the_plain_one_again() -> None:
    assert with_words(PLAIN, {}, FIRST) is PLAIN
    again = with_words(TOKENIZER, {}, FIRST)
    assert type(again) is Tokenizer
    assert again == PLAIN
    assert again.ids("a <cat-toy> style") == PLAIN.ids("a <cat-toy> style")
    assert WordedTokenizer(PLAIN.vocabulary, PLAIN.merges).ids("a style") == PLAIN.ids("a style")


def test_what_is_saved_is_the_plain_one(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path) == PLAIN


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"": 1}, "empty"),
        ({" \n": 1}, "empty"),
        ({"cat": 0}, "empty"),
        ({"cat": 1, "CAT": 1}, "already"),
        ({"<|endoftext|>": 1}, "already"),
    ],
)
def test_words_that_cannot_be_are_refused(words: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_words(PLAIN, words, FIRST)


def test_ids_of_the_vocabulary_are_not_given_to_words() -> None:
    with pytest.raises(ValueError, match="within the vocabulary"):
        with_words(PLAIN, {"cat": 1}, 5)


CALM = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


@CALM
@given(st.text(max_size=60))
def test_any_text_without_a_word_is_what_it_was(text: str) -> None:
    if TOKENIZER._pattern.search(text) is None:
        assert TOKENIZER.ids(text) == PLAIN.ids(text)


# Python takes some control characters for blanks which the tokenizer does not.
LETTERS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@CALM
@given(LETTERS, st.text(max_size=20), st.text(max_size=20))
@example("İ", "", "")
@example("a a", "a", "")
def test_any_word_is_found_between_blanks(word: str, before: str, after: str) -> None:
    try:
        tokenizer = with_words(PLAIN, {word: 2}, FIRST)
    except UserError:
        return  # blank, or a special token
    ids = tokenizer.ids(f"{before} {word} {after}")
    assert [1000, 1001] in [ids[place : place + 2] for place in range(len(ids))]
    assert tokenizer.ids(word) == [1000, 1001]
