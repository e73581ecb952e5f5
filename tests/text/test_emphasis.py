"""Emphasis: the examples of the web UI and of compel, and what holds for any text."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mezzotint.text.emphasis import BREAK, LARGEST, Piece, emphasis
from mezzotint.types import WEIGHTINGS, UserError

SYNTAX = '()[]:\\ab .5-+1",=\nBREAK '
TEXTS = st.one_of(st.text(max_size=80), st.text(alphabet=SYNTAX, max_size=120))


# The examples of parse_prompt_attention in the web UI, and what follows from its rules.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        ("\\(literal\\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.5730000000000004),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641000000000006),
                (".", 1.1),
            ],
        ),
        ("[a] [[b]]", [("a", 1 / 1.1), (" ", 1.0), ("b", 1 / 1.1 / 1.1)]),
        ("(a: 1.3 )", [("a", 1.3)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(a:.5)", [("a", 0.5)]),
        ("a:1.3)", [("a:1.3)", 1.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("[a:1.3)", [("a:1.3)", 1 / 1.1)]),
        ("a) b]", [("a) b]", 1.0)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.1 / 1.1), (" c", 1 / 1.1)]),
        ("a\\\\ \\b \\: \\", [("a\\ b : ", 1.0)]),
        ("a BREAK b", [("a", 1.0), BREAK, ("b", 1.0)]),
        ("(a BREAK b:1.2), BREAKFAST break", [("a", 1.2), BREAK, ("b", 1.2), (", BREAKFAST break", 1.0)]),
        ("BREAK BREAK", [BREAK, BREAK]),
        ("BRE(AK:1)", [("BREAK", 1.0)]),
        (f"(a:{'9' * 400}) ((b:99):-99)", [("a", LARGEST), (" ", 1.0), ("b", -LARGEST)]),
        ("", []),
    ],
)
def test_a1111(text: str, expected: list[Piece]) -> None:
    found = emphasis(text, "a1111")
    assert [words for words, _ in found] == [words for words, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected], rel=1e-15)


# The examples of doc/syntax.md and of test/test_prompt_parser.py of compel. White space at the ends of pieces, which no
# tokenizer sees, is kept here and not there.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fire flames", [("fire flames", 1)]),
        ("fire (flames)", [("fire flames", 1)]),
        ("cat hot-dog eating", [("cat hot-dog eating", 1)]),
        ("(flames)0.5", [("flames", 0.5)]),
        ("(fire flames)0.5", [("fire flames", 0.5)]),
        ("(flames)+", [("flames", 1.1)]),
        ("flames+", [("flames", 1.1)]),
        ('"flames"+', [("flames", 1.1)]),
        ("flames-", [("flames", 0.9)]),
        ("(flames)--", [("flames", 0.9**2)]),
        ("(flowers)--- flames+++", [("flowers", 0.9**3), ("flames", 1.1**3)]),
        ("(pretty flowers)+, the flames are too hot", [("pretty flowers", 1.1), (", the flames are too hot", 1)]),
        ("flowers fire++ flames", [("flowers", 1), ("fire", 1.1**2), ("flames", 1)]),
        ("fire (flames (trees)1.5)2.0", [("fire", 1), ("flames", 2.0), ("trees", 3.0)]),
        ("a man (picking apricots+)++", [("a man", 1), ("picking", 1.1**2), ("apricots", 1.1**3)]),
        ("a man (picking (apricots)1.3)1.1", [("a man", 1), ("picking", 1.1), ("apricots", 1.3 * 1.1)]),
        ("a badly formed +test prompt", [("a badly formed +test prompt", 1)]),
        ("a badly (formed test prompt", [("a badly (formed test prompt", 1)]),
        ("a badly (formed +test )prompt", [("a badly formed +test prompt", 1)]),
        ("(((a badly (formed +test )prompt", [("(((a badly formed +test prompt", 1)]),
        ("(a (ba)dly (f)ormed +test +prompt", [("(a ba dly f ormed +test +prompt", 1)]),
        ("hamburger ((kaiser roll))", [("hamburger kaiser roll", 1)]),
        ("mountain \\(man\\)", [("mountain (man)", 1)]),
        ("mountain (\\(man\\))+", [("mountain", 1), ("(man)", 1.1)]),
        ('\\"mountain\\" (\\(man\\))1.1', [('"mountain"', 1), ("(man)", 1.1)]),
        ('(\\"mountain\\")+ (\\(man\\))+', [('"mountain" (man)', 1.1)]),
        ('(\\"mountain\\")1.1 (\\(man\\))0.9', [('"mountain"', 1.1), ("(man)", 0.9)]),
        ('hairy ("mountain, man" with a beard+)+', [("hairy", 1), ("mountain, man with a", 1.1), ("beard", 1.1**2)]),
        ("middle age,fantasy++ style", [("middle age,", 1), ("fantasy", 1.1**2), ("style", 1)]),
        ("(happy camper:0.3)", [("happy camper:0.3", 1)]),
        ("(test1, 1test, test1test)", [("test1, 1test, test1test", 1)]),
        # What follows from its grammar.
        ("(a) 1.5", [("a 1.5", 1)]),
        ("(a)+-", [("a", 1.1), ("-", 1)]),
        ("a - b -- c", [("a - b -- c", 1)]),
        ("c\\+\\+", [("c++", 1)]),
        ("(a)2nd", [("a", 2.0), ("nd", 1)]),
        ("(a)0", [("a", 0.0)]),
        ('a 5" nail', [('a 5" nail', 1)]),
        ("a BREAK b+", [("a", 1), BREAK, ("b", 1.1)]),
        ("(a)" + "9" * 400 + " b" + "+" * 400, [("a b", LARGEST)]),
        ("a trailing\\", [("a trailing\\", 1)]),
        ("", []),
    ],
)
def test_compel(text: str, expected: list[Piece]) -> None:
    found = [(words.strip(), weight) for words, weight in emphasis(text, "compel")]
    assert [words for words, _ in found] == [words for words, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected], rel=1e-15)


def test_none_reads_a_text_as_it_stands() -> None:
    assert emphasis("(a:1.3) BREAK b+ \\(", "none") == [("(a:1.3) BREAK b+ \\(", 1.0)]
    assert emphasis("", "none") == []
    with pytest.raises(UserError, match="one of a1111, compel, none"):
        emphasis("a", "comfy")


def plain(text: str) -> list[str]:
    """The signs of a text that no syntax has."""
    return re.findall(r'[^\s()\[\]:\\"+\-.,0-9]', text.replace("BREAK", ""))


@given(TEXTS, st.sampled_from(WEIGHTINGS))
@example("(" * 4000, "a1111")
@example("(a" * 1300, "a1111")
@example("(" * 2000 + ")" * 2000, "compel")
@example("((a:0):" + "9" * 400 + ")", "a1111")
@settings(max_examples=400, deadline=None)
def test_any_text_is_read_and_no_word_is_lost(text: str, weighting: str) -> None:
    found = emphasis(text, weighting)
    assert all(math.isfinite(weight) and abs(weight) <= LARGEST for _, weight in found)
    assert all(piece == BREAK or piece[0] != "" for piece in found)
    neighbours = list(pairwise(found))
    assert all(BREAK in pair or pair[0][1] != pair[1][1] for pair in neighbours)
    assert plain(" ".join(words for words, _ in found)) == plain(text)


@given(st.text(alphabet=st.characters(exclude_characters='()[]:\\"+-'), max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_plain_text_is_one_piece(text: str) -> None:
    if re.search(r"\bBREAK\b", text) is None:
        expected = [(text, 1.0)] if text else []
        assert [emphasis(text, weighting) for weighting in WEIGHTINGS] == [expected] * 3
