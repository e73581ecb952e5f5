"""Phases: what the web UI's own examples say, and what holds for any text."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mezzotint.text.prompt import Part, Phase, phases
from mezzotint.types import Request

SYNTAX = '()[]:|\\ab .5-+1AND "\n'
TEXTS = st.one_of(
    st.text(max_size=80),
    st.text(alphabet=SYNTAX, max_size=120),
    st.lists(st.sampled_from(["[a:b:3]", "[", "]", "(", ")", ":", "|", " AND ", "a", "[c|d]", ":0.5", "\\", ".4"])).map(
        "".join
    ),
)


def alone(prompt: str, steps: int = 10) -> list[tuple[int, str]]:
    """The text of every phase, where each has one part."""
    found = phases(prompt, steps)
    assert all(len(phase.parts) == 1 and phase.parts[0].weight == 1.0 for phase in found)
    return [(phase.first_step, phase.parts[0].text) for phase in found]


# The examples in get_learned_conditioning_prompt_schedules of the web UI; it counts steps from 1 and tells where a
# text ends, and here is told where it begins.
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("test", [(0, "test")]),
        ("a [b:3]", [(0, "a "), (3, "a b")]),
        ("a [b: 3]", [(0, "a "), (3, "a b")]),
        ("a [[[b]]:2]", [(0, "a "), (2, "a [[b]]")]),
        ("[(a:2):3]", [(0, ""), (3, "(a:2)")]),
        ("a [b : c : 1] d", [(0, "a b  d"), (1, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(0, "abe"), (1, "ace"), (2, "ade")]),
        ("a [unbalanced", [(0, "a [unbalanced")]),
        ("a [b:.5] c", [(0, "a  c"), (5, "a b c")]),
        ("((a][:b:c [d:3]", [(0, "((a][:b:c "), (3, "((a][:b:c d")]),
        ("[a|(b:1.1)]", [(step, ["a", "(b:1.1)"][step % 2]) for step in range(10)]),
        ("[fe|]male", [(step, ["female", "male"][step % 2]) for step in range(10)]),
        ("[fe|||]male", [(0, "female"), (1, "male"), (4, "female"), (5, "male"), (8, "female"), (9, "male")]),
    ],
)
def test_the_examples_of_the_web_ui(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert alone(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "steps", "expected"),
    [
        ("[a:b:0.4]", 20, [(0, "a"), (8, "b")]),
        ("[a:b:0.4]", 5, [(0, "a"), (2, "b")]),
        ("[a::0.4]", 5, [(0, "a"), (2, "")]),
        ("[:b:2]", 5, [(0, ""), (2, "b")]),
        ("[a:b:0]", 5, [(0, "b")]),
        ("[a:b:-3]", 5, [(0, "b")]),
        ("[a:b:5]", 5, [(0, "a")]),
        ("[a:b:99]", 5, [(0, "a")]),
        ("[a:b:1.0]", 5, [(0, "a")]),  # a share, as since 1.6 of the web UI: after all steps
        ("[a:b:1]", 5, [(0, "a"), (1, "b")]),
        ("[a:b:1e999]", 5, [(0, "a")]),
        ("[a:b:0.5]", 1, [(0, "b")]),
        ("[a|b]", 1, [(0, "a")]),
        ("[a|a] c", 4, [(0, "a c")]),  # no two phases in a row are equal
        ("[[a|b]:c:2]", 4, [(0, "a"), (1, "b"), (2, "c")]),
        ("[a|[b:c:2]]", 4, [(0, "a"), (1, "b"), (2, "a"), (3, "c")]),
    ],
)
def test_when_a_text_changes(prompt: str, steps: int, expected: list[tuple[int, str]]) -> None:
    assert alone(prompt, steps) == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "a [b:c] d",
        "[a:b:c:3]",
        "[a|b:3]",
        "(a|b)",
        "a | b : 3",
        "16:9",
        "[a:b:x]",
        "[a:b:(3)]",
        "[a:(b:3]",
        "[a \\[b:c:3\\]",
        "\\[a:b:3]",
        "[a\\|b]",
        "a trailing \\",
        "[word] (word) (word:1.3)",
        "(((((",
        "]]]))",
        "ANDROID and BRANDS",
        "",
    ],
)
def test_what_says_nothing_about_steps_is_left_as_it_stands(prompt: str) -> None:
    assert alone(prompt) == [(0, prompt)]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat :1.2 AND a dog AND a penguin :2.2", [("a cat", 1.2), ("a dog", 1.0), ("a penguin", 2.2)]),
        ("A AND B:0.7", [("A", 1.0), ("B", 0.7)]),
        ("a AND b:-.5", [("a", 1.0), ("b", -0.5)]),
        ("a:1. AND b", [("a", 1.0), ("b", 1.0)]),
        ("(a:1.3):0.5 AND b (c:2)", [("(a:1.3)", 0.5), ("b (c:2)", 1.0)]),
        ("a:1:2 AND b", [("a:1", 2.0), ("b", 1.0)]),
        ("a\\:2 AND b", [("a\\:2", 1.0), ("b", 1.0)]),
        ("a:x AND b", [("a:x", 1.0), ("b", 1.0)]),
        ("(a AND b) AND c", [("(a AND b)", 1.0), ("c", 1.0)]),
        ("(a AND b", [("(a", 1.0), ("b", 1.0)]),
        ("AND", [("", 1.0), ("", 1.0)]),
        (f"a:{'9' * 400} AND b", [("a", 100.0), ("b", 1.0)]),
    ],
)
def test_and_stands_between_parts_with_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    (phase,) = phases(prompt, 10)
    assert phase == Phase(0, tuple(Part(*part) for part in expected))


def test_parts_change_each_in_its_own_time() -> None:
    found = phases("[a:b:2] AND [c|d]:0.5", 4)
    told = [(phase.first_step, [part.text for part in phase.parts]) for phase in found]
    assert told == [(0, ["a", "c"]), (1, ["a", "d"]), (2, ["b", "c"]), (3, ["b", "d"])]
    assert {phase.parts[1].weight for phase in found} == {0.5}


def test_a_negative_is_one_part_and_no_weighting_reads_nothing() -> None:
    assert phases("a AND [b:c:1]:0.7", 2, negative=True) == (
        Phase(0, (Part("a AND b:0.7", 1.0),)),
        Phase(1, (Part("a AND c:0.7", 1.0),)),
    )
    assert phases("[a:b:1] AND c", 2, weighting="none") == (Phase(0, (Part("[a:b:1] AND c", 1.0),)),)


@given(TEXTS, st.integers(1, 12), st.booleans())
@example("[" * 2000 + ":" * 1000 + "]" * 1000, 3, False)
@example("[" * 1000 + "a" + ":1]" * 1000, 3, False)
@example("[a|" * 1000 + "b" + "]" * 1000, 3, True)
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(prompt: str, steps: int, negative: bool) -> None:
    found = phases(prompt, steps, negative=negative)
    begins = [phase.first_step for phase in found]
    assert begins[0] == 0
    assert begins == sorted(set(begins))
    assert begins[-1] < steps
    assert all(first.parts != second.parts for first, second in pairwise(found))
    assert len({len(phase.parts) for phase in found}) == 1
    assert all(math.isfinite(part.weight) for phase in found for part in phase.parts)
    if re.search(r"[\[\]()|:]|\bAND\b", prompt) is None:
        assert found == (Phase(0, (Part(prompt, 1.0),)),)


def test_the_longest_prompt_takes_no_time_to_speak_of() -> None:
    """Nothing here is searched again and again: 4000 signs at 1000 steps are a few million visits at most."""
    prompt = ("[a|" * 800 + "b" + "]" * 800 + "(" * 800)[: Request.MAX_PROMPT]
    assert len(phases(prompt, 20)) >= 1
