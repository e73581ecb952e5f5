"""What obedience is measured on: prompts with the solids that a picture must show, by GenEval's categories.

(Ghosh et al. 2023, "GenEval", arXiv:2310.11513.) Everything is a pure function of (category, n, seed). Where colours
are told, the combination is one that training never saw (`world.scene.is_held_out`), except where it is one solid
alone, which makes no combination.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mezzotint.world.scene import COLOURS, HELD_OUT_PAIRS, SHAPES, Solid, is_held_out
from mezzotint.world.style import indefinite, plural
from mezzotint.world.words import NUMBER_WORDS


@dataclass(frozen=True)
class Wanted:
    """A solid that must be there; "" is any."""

    shape: str
    colour: str = ""


@dataclass(frozen=True)
class Task:
    """A prompt, the solids that must be there and no others, and where they must stand.

    order: "any"; "across" from left to right as listed; "deep" the first in front of the second.
    """

    prompt: str
    wanted: tuple[Wanted, ...]
    order: str = "any"


def tasks(category: str, n: int, seed: int) -> list[Task]:
    """N tasks of a category, each prompt as often as chance has it. Raises KeyError for an unknown category."""
    chooser = random.Random(f"{category} {seed}")
    make = CATEGORIES[category]
    return [make(chooser) for _ in range(n)]


def phrase(one: Wanted) -> str:
    """'a red cube'."""
    return indefinite(f"{one.colour} {one.shape}".strip())


def _opening(chooser: random.Random) -> str:
    return chooser.choice(("", "a photo of "))


def _single(chooser: random.Random) -> Task:
    one = Wanted(chooser.choice(SHAPES))
    return Task(_opening(chooser) + phrase(one), (one,))


def _colors(chooser: random.Random) -> Task:
    one = Wanted(*_pair(chooser))
    return Task(_opening(chooser) + phrase(one), (one,))


def _two(chooser: random.Random) -> Task:
    a, b = (Wanted(shape) for shape in chooser.sample(SHAPES, 2))
    return Task(f"{_opening(chooser)}{phrase(a)} and {phrase(b)}", (a, b))


def _counting(chooser: random.Random) -> Task:
    count = chooser.randint(1, 4)
    coloured = chooser.random() < 0.5
    if not coloured:
        return _counted(chooser, count, Wanted(chooser.choice(SHAPES)))
    candidates = [pair for pair in trained_pairs() if count == 1 or is_held_out((Solid(*pair),) * count)]
    return _counted(chooser, count, Wanted(*chooser.choice(candidates)))


def _counted(chooser: random.Random, count: int, one: Wanted) -> Task:
    return Task(_opening(chooser) + _several(count, one), (one,) * count)


def _several(count: int, one: Wanted) -> str:
    """'two red cubes', or 'a red cube'."""
    if count == 1:
        return phrase(one)
    return f"{NUMBER_WORDS[count][0]} {one.colour} {plural(one.shape)}".replace("  ", " ")


def _color_attr(chooser: random.Random) -> Task:
    a, b = _combination(chooser, 2)
    return Task(f"{_opening(chooser)}{phrase(a)} and {phrase(b)}", (a, b))


RELATIONS = {
    "left of": ("across", False),
    "to the left of": ("across", False),
    "right of": ("across", True),
    "to the right of": ("across", True),
    "in front of": ("deep", False),
    "behind": ("deep", True),
}
"""Words, the order they speak of, and whether what is named first comes last in it."""


def _position(chooser: random.Random) -> Task:
    if chooser.random() < 0.5:
        a, b = (Wanted(shape) for shape in chooser.sample(SHAPES, 2))
    else:
        a, b = _combination(chooser, 2)
    words = chooser.choice(list(RELATIONS))
    order, turned = RELATIONS[words]
    return Task(f"{_opening(chooser)}{phrase(a)} {words} {phrase(b)}", (b, a) if turned else (a, b), order)


def _held_out(chooser: random.Random) -> Task:
    """A colour and shape that were never seen together, alone or beside another solid."""
    one = Wanted(*chooser.choice(sorted(HELD_OUT_PAIRS)))
    if chooser.random() < 0.5:
        return Task(_opening(chooser) + phrase(one), (one,))
    other = Wanted(*_pair(chooser, but=one.shape))
    a, b = chooser.sample((one, other), 2)
    return Task(f"{_opening(chooser)}{phrase(a)} and {phrase(b)}", (a, b))


def _three(chooser: random.Random) -> Task:
    a, b, c = _combination(chooser, 3)
    return Task(f"from left to right: {phrase(a)}, {phrase(b)} and {phrase(c)}", (a, b, c), "across")


REWORDED = (
    ("{the_a} is to the left of {the_b}", "across"),
    ("{the_b} stands to the right of {the_a}", "across"),
    ("{b} with {a} to its left", "across"),
    ("{a}, and to its right {b}", "across"),
    ("on the left {a}, on the right {b}", "across"),
    ("{a} is on the left, {b} is on the right", "across"),
    ("{a} to the left and {b} to the right", "across"),
    ("from right to left: {b}, {a}", "across"),
    ("{the_a} is in front of {the_b}", "deep"),
    ("{b} with {a} in front of it", "deep"),
    ("{a} in the foreground, {b} in the background", "deep"),
    ("{the_a} and {the_b}", "any"),
    ("{a_that} and {b_that}", "any"),
    ("can you draw {a} next to {b}?", "any"),
    ("two things: {a} and {b}", "any"),
    ("I would like to see {a} as well as {b}, please", "any"),
)
"""Ways to ask for a and b, and the order in which they must stand; some are words that no caption uses."""


def _reworded(chooser: random.Random) -> Task:
    a, b = _combination(chooser, 2)
    words, order = chooser.choice(REWORDED)
    the = {f"the_{name}": f"the {one.colour} {one.shape}" for name, one in (("a", a), ("b", b))}
    that = {f"{name}_that": f"a {one.shape} that is {one.colour}" for name, one in (("a", a), ("b", b))}
    return Task(words.format(a=phrase(a), b=phrase(b), **the, **that), (a, b), order)


def _groups(chooser: random.Random) -> Task:
    """Three or four solids of two kinds."""
    while True:
        one, other = _combination(chooser, 2)
        m, n = chooser.choice(((1, 2), (2, 1), (2, 2), (1, 3), (3, 1)))
        wanted = (one,) * m + (other,) * n
        if is_held_out(tuple(Solid(solid.shape, solid.colour) for solid in wanted)):
            return Task(f"{_opening(chooser)}{_several(m, one)} and {_several(n, other)}", wanted)


def trained_pairs() -> Iterator[tuple[str, str]]:
    """Every (shape, colour) that training sees."""
    return ((shape, colour) for shape in SHAPES for colour in COLOURS if (shape, colour) not in HELD_OUT_PAIRS)


def _pair(chooser: random.Random, but: str = "") -> tuple[str, str]:
    return chooser.choice([pair for pair in trained_pairs() if pair[0] != but])


def _combination(chooser: random.Random, count: int) -> Sequence[Wanted]:
    """Solids of different shapes and colours whose pairs training saw, but never together."""
    while True:
        chosen = [Wanted(*_pair(chooser)) for _ in range(count)]
        apart = len({one.shape for one in chosen}) == len({one.colour for one in chosen}) == count
        if apart and is_held_out(tuple(Solid(one.shape, one.colour) for one in chosen)):
            return chosen


CATEGORIES: dict[str, Callable[[random.Random], Task]] = {
    "single_object": _single,
    "two_object": _two,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
    "held_out": _held_out,
    "three_in_order": _three,
    "reworded": _reworded,
    "groups": _groups,
}
"""GenEval's six, pairs never trained, three different solids from left to right, other words, and two kinds."""
