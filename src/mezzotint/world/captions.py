"""What people would say of a scene: a grammar with many paraphrases, and what each caption asserts.

A caption names every solid of its scene, and each attribute only sometimes. `tell` also returns what was said as data,
so that a text encoder can be taught to read it back and a judge can hold a picture to it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mezzotint.world.scene import Scene, Solid
from mezzotint.world.style import OFTEN, Style, indefinite, plural
from mezzotint.world.words import (
    ALONE,
    AND,
    ANY_TABLE,
    BEHIND,
    COLOUR_WORDS,
    COMMON_OPENINGS,
    DEPTHS,
    EDGES,
    ENDINGS,
    FILLERS,
    HAS_IT,
    IN_FRONT_OF,
    IS,
    ITS,
    ITS_OWN,
    LEFT_OF,
    LIGHT_WORDS,
    MIDDLE,
    MIDDLES,
    NEXT_TO,
    NOT_OPENED,
    NOTHING_ELSE,
    NUMBERS,
    OPENINGS,
    RIGHT_OF,
    ROWS,
    SIDES,
    STANDING,
    TABLE_WORDS,
    THINGS,
    TOGETHER,
    WITH_IT,
)

SAID = ("shape", "colour", "size", "material")
"""What is said of a solid."""
UNEVEN = 0.15
"""How often one of several solids of different shapes is said with less than the others."""


@dataclass(frozen=True)
class Told:
    """A caption and what it asserts.

    solids are in the order in which the caption places them: from left to right where `order` is "across", from front
    to back where it is "deep", as named where it is "any". An attribute that the caption leaves open is "".
    """

    text: str
    solids: tuple[Solid, ...]
    order: str

    @property
    def placed(self) -> bool:
        """Whether it says where its solids stand: a list that says nothing of that is read from left to right."""
        return self.order != "any" or all(a.x <= b.x for a, b in pairwise(self.solids))

    def tells(self, attributes: Sequence[str]) -> bool:
        """Whether it tells these of every solid, and which solid it is that has them.

        What else is said of solids may tell that, or their places.
        """
        if not self.solids or not all(getattr(solid, name) for solid in self.solids for name in attributes):
            return False
        kinds = [tuple(getattr(solid, name) for name in SAID) for solid in self.solids]
        others = [tuple(getattr(solid, name) for name in SAID if name not in attributes) for solid in self.solids]
        return self.placed or len(set(others)) == len(set(kinds))


NOTHING = Told("", (), "any")
"""No caption."""

TRIES = 12
"""Captions among which a clear one is looked for; half of all are, of scenes whose colours have names."""
BACKWARD = 0.7
"""How often one that goes from right to left is preferred: of all captions one in forty does."""
FROM_THE_RIGHT = "right to left"


def tell(scene: Scene, chooser: random.Random, *, whole: bool = True) -> Told:
    """One caption of the scene, chosen by `chooser`; `whole` is False if there are solids that the scene leaves out."""
    style = replace(Style.random(chooser), whole=whole)
    uneven = style.shape and not style.bare and chooser.random() < UNEVEN
    solids = _less_said(scene.solids, chooser) if uneven else list(scene.solids)
    if chooser.random() < 0.1 and len(_groups(solids, style)) == len(solids):
        style = replace(style, definite=True)
    text, named, order = _PLANS[len(solids)](solids, style)
    table = chooser.random()
    if table < 0.3:
        words = chooser.choice(TABLE_WORDS[scene.table])
        if table < 0.03:
            words = words.replace("a ", "the ", 1)
        text = f"on {words}, {text}" if table > 0.27 else f"{text} on {words}"
    elif table < 0.34:
        text += f" {chooser.choice(ANY_TABLE)}"
    if chooser.random() < 0.07:
        text += f", {LIGHT_WORDS[scene.light]}"
    said_as_sentence = any(f" {verb} " in re.sub("(that|which) is", "", text) for verb in (*IS, "has"))
    if chooser.random() < 0.35 and not (said_as_sentence or text.startswith(NOT_OPENED)):
        if len(solids) > 1 and chooser.random() < 0.1 and ":" not in text and not text.startswith(NUMBERS):
            opening = f"{style.number(len(solids))} {plural(chooser.choice(THINGS))}{style.word((':', ','))} "
        else:
            opening = chooser.choice(COMMON_OPENINGS if chooser.random() < 0.5 else OPENINGS)
        if opening == "there is " and text.startswith(NUMBERS):
            opening = "there are "
        text = opening + text
    if chooser.random() < 0.06:
        text += f", {chooser.choice(FILLERS)}"
    if chooser.random() < 0.2:
        text = text[0].upper() + text[1:]
    if chooser.random() < 0.25:
        text += chooser.choice((*ENDINGS, *NOTHING_ELSE) if whole else ENDINGS) if chooser.random() < 0.4 else "."
    return Told(text, tuple(style.said(solid) for solid in named), order)


def tell_clearly(scene: Scene, chooser: random.Random) -> Told:
    """A caption of the scene that tells the shape and colour of every solid, and which solid it is that has them.

    It is any caption where none of several does, as of a tint that nobody would name.
    """
    drawn = [tell(scene, chooser) for _ in range(TRIES)]
    clear = [each for each in drawn if each.tells(("colour",)) and all(solid.shape for solid in each.solids)]
    backward = [each for each in clear if FROM_THE_RIGHT in each.text.lower()]
    if backward and chooser.random() < BACKWARD:
        return backward[0]
    return (clear or drawn)[0]


def _less_said(solids: Sequence[Solid], chooser: random.Random) -> list[Solid]:
    """The solids, one of them without some of what could be said of it, if their shapes tell them apart."""
    less = list(solids)
    if len({solid.shape for solid in solids}) == len(solids) > 1:
        place = chooser.randrange(len(solids))
        blank = {name: "" for name in ("colour", "size", "material") if chooser.random() < 0.6}
        less[place] = replace(less[place], **blank)
    return less


def outright(scene: Scene) -> str:
    """All that captions say of a scene's solids and its table, always in the same words and from left to right."""
    return f"{', '.join(map(_named, scene.left_to_right()))} on {TABLE_WORDS[scene.table][0]}"


def _named(solid: Solid) -> str:
    return " ".join(word for word in (solid.size, solid.material, solid.colour, solid.shape) if word != "")


def up_to(scene: Scene, solid: Solid) -> str:
    """What `outright` says up to one of the scene's solids, whose name ends it."""
    told = scene.left_to_right()
    return ", ".join(map(_named, told[: told.index(solid) + 1]))


def left_of(a: Solid, b: Solid) -> bool:
    """Whether anybody would say that a stands to the left of b."""
    return b.x - a.x > max(0.55, 0.7 * abs(b.y - a.y))


def before(a: Solid, b: Solid) -> bool:
    """Whether anybody would say that a stands in front of b."""
    return b.y - a.y > max(0.55, 0.8 * abs(b.x - a.x))


_Plan = tuple[str, list[Solid], str]


def _one(solids: list[Solid], style: Style) -> _Plan:
    """One alone, and now and then where it stands."""
    text, x, draw = style.one(solids[0]), solids[0].x, style.chooser.random()
    if draw < 0.05 and style.whole:
        text += f" {style.chooser.choice(ALONE)}"
    elif draw < 0.15 and abs(x) < 0.4:
        text += f" {style.chooser.choice(MIDDLE)}"
    elif draw < 0.15 and abs(x) > 0.8:
        text += f" {EDGES[x > 0]}"
    return text, solids, "any"


def _alike(solids: Sequence[Solid], style: Style) -> bool:
    return len({(s.shape, s.colour, s.size, s.material) for s in map(style.said, solids)}) == 1


def _all_alike(solids: list[Solid], style: Style) -> _Plan:
    """'three red cubes', and now and then how they stand."""
    text, row = style.several(solids[0], len(solids)), sorted(solids, key=lambda solid: solid.x)
    if style.chooser.random() < 0.15:
        if len(row) > 2 and _in_a_row(row):
            text += " in a row"
        elif all(_close(a, b) for a, b in pairwise(row)):
            text += f" {style.chooser.choice(TOGETHER)}"
    return text, solids, "any"


def _two(solids: list[Solid], style: Style) -> _Plan:
    chooser = style.chooser
    a, b = chooser.sample(solids, 2)
    if _alike(solids, style) and chooser.random() < 0.8:
        return _all_alike(solids, style)
    if _of_one_shape(solids, style) and chooser.random() < 0.3:
        return _apart(_groups(_listed(solids), style), style)
    if chooser.random() < 0.45:
        for relation, first, second in ((left_of, a, b), (left_of, b, a), (before, a, b), (before, b, a)):
            if relation(first, second):
                return _related(a, b, relation, first is a, style)
    a, b = _listed(solids)
    if chooser.random() < 0.4 and _close(a, b):
        return _beside(a, b, style), [a, b], "any"
    if chooser.random() < 0.04 and "" not in (style.said(a).colour, style.said(b).colour) and a.shape != b.shape:
        parts = [f"the {style.noun(solid)} is {style.word(COLOUR_WORDS[solid.colour])}" for solid in (a, b)]
        told = [Solid(solid.shape if style.shape else "", solid.colour, "", "", solid.x, solid.y) for solid in (a, b)]
        return " and ".join(parts), told, "any"
    if chooser.random() < (0.5 if style.bare else 0.12):
        return f"{style.one(a)}{style.joint()}{style.one(b)}", [a, b], "any"
    return f"{style.one(a)} {style.word(AND)} {style.one(b)}", [a, b], "any"


def _listed(solids: Sequence[Solid]) -> list[Solid]:
    """The solids in the order in which a caption lists them where it tells nothing of their places.

    That is from left to right, as people read a picture: if it were by chance, nothing would decide at the highest
    noise which of two solids becomes the cube.
    """
    return sorted(solids, key=lambda solid: solid.x)


def _close(a: Solid, b: Solid) -> bool:
    return abs(a.y - b.y) < 0.9 and abs(a.x - b.x) < 1.8


def _beside(a: Solid, b: Solid, style: Style) -> str:
    one, other, draw = style.one(a), style.one(b), style.chooser.random()
    if draw < 0.15:
        return f"{one} and {other} {style.chooser.choice(TOGETHER)}"
    verb = f"{style.word(IS)} " if draw < 0.3 else ""
    return f"{one} {verb}{style.word(NEXT_TO, OFTEN)} {other}"


def _related(a: Solid, b: Solid, relation: Callable[[Solid, Solid], bool], a_first: bool, style: Style) -> _Plan:
    """'a is left of b', said from either side; a and b are named in this order."""
    across, chooser = relation is left_of, style.chooser
    forward, backward = (LEFT_OF, RIGHT_OF) if across else (IN_FRONT_OF, BEHIND)
    words, turned = (forward, backward) if a_first else (backward, forward)
    one, other = style.one(a), style.one(b)
    first, second = (one, other) if a_first else (other, one)
    draw = chooser.random()
    if draw < 0.24:
        text = f"{one} {style.word(words, OFTEN)} {other}"
    elif draw < 0.30:
        text = f"{one} {style.word(STANDING, OFTEN)} {style.word(words, OFTEN)} {other}"
    elif draw < 0.42:
        text = f"{one} {style.word(IS)} {style.word(words, OFTEN)} {other}"
    elif draw < 0.48:
        text = f"{style.word(words, OFTEN)} {other} {style.word((*IS, 'there is'), OFTEN)} {one}"
    elif draw < 0.58:
        text = chooser.choice(HAS_IT).format(a=other, b=one, its=style.word(ITS_OWN[turned], OFTEN))
    elif draw < 0.68:
        text = chooser.choice(WITH_IT).format(a=other, b=one, its=chooser.choice(ITS[turned]))
    elif draw < 0.86 or not across:
        text = chooser.choice(SIDES if across else DEPTHS).format(a=first, b=second)
    else:
        text = _told_across([first, second], style)
    return text, [a, b] if a_first else [b, a], "across" if across else "deep"


def _told_across(phrases: list[str], style: Style) -> str:
    """'from left to right: a and b', or from right to left."""
    form = style.word(ROWS, OFTEN)
    if style.chooser.random() < 0.6:
        return form.format(row=style.listed(phrases))
    return form.replace("left to right", FROM_THE_RIGHT).format(row=style.listed(phrases[::-1]))


def _in_a_row(solids: Sequence[Solid]) -> bool:
    return all(b.x - a.x > 0.35 for a, b in pairwise(solids))


def _row(solids: list[Solid], style: Style) -> _Plan:
    """Three or four told from left to right."""
    phrases = [style.one(solid) for solid in solids]
    draw = style.chooser.random()
    if draw < 0.6:
        text = _told_across(phrases, style)
    elif draw < 0.7:
        text = f"{style.listed(phrases)} in a row"
    elif draw < 0.85 and len(phrases) == 3:
        text = style.chooser.choice(MIDDLES).format(a=phrases[0], b=phrases[1], c=phrases[2])
    # A chain of relations, told from either end.
    elif style.chooser.random() < 0.6:
        text = f" {style.word(LEFT_OF, OFTEN)} ".join(phrases)
    else:
        text = f" {style.word(RIGHT_OF, OFTEN)} ".join(reversed(phrases))
    return text, solids, "across"


def _many(solids: list[Solid], style: Style) -> _Plan:
    """Three or four: all alike, in groups, in a row, or just listed."""
    chooser = style.chooser
    if _alike(solids, style) and chooser.random() < 0.85:
        return _all_alike(solids, style)
    groups = _groups(_listed(solids), style)
    if _of_one_shape(solids, style) and chooser.random() < 0.3:
        return _apart(groups, style)
    if 1 < len(groups) < len(solids) and chooser.random() < 0.7:
        return _grouped(groups, style)
    row = _listed(solids)
    if _in_a_row(row) and chooser.random() < 0.8:
        return _row(row, style)
    return style.listed([style.one(solid) for solid in row]), row, "any"


def _groups(solids: Sequence[Solid], style: Style) -> list[list[Solid]]:
    groups: dict[tuple[str, str, str, str], list[Solid]] = {}
    for solid in solids:
        said = style.said(solid)
        groups.setdefault((said.shape, said.colour, said.size, said.material), []).append(solid)
    return list(groups.values())


def _grouped(groups: list[list[Solid]], style: Style) -> _Plan:
    """'two red cubes and a ball', with 'to the left of' where all of one group are, and said from either side.

    The groups come in the order of the first solid of each from the left.
    """
    phrases = [style.several(group[0], len(group)) for group in groups]
    named = [solid for group in groups for solid in group]
    if len(groups) > 2:
        return style.listed(phrases), named, "any"
    one, other = phrases
    if not all(left_of(a, b) for a in groups[0] for b in groups[1]):
        return f"{one} {style.word(AND)} {other}", named, "any"
    if style.chooser.random() < 0.5:
        return f"{one} {style.word(LEFT_OF, OFTEN)} {other}", named, "across"
    return f"{other} {style.word(RIGHT_OF, OFTEN)} {one}", named, "across"


def _of_one_shape(solids: Sequence[Solid], style: Style) -> bool:
    """Whether the solids are told apart by adjectives alone."""
    said = [style.said(solid) for solid in solids]
    return len({each.shape for each in said}) == 1 and all(each.colour for each in said) and not _alike(solids, style)


def _apart(groups: list[list[Solid]], style: Style) -> _Plan:
    """'three balls: two red and one blue', or 'a red and a blue ball'."""
    named = [solid for group in groups for solid in group]
    noun = style.noun(named[0])
    adjectives = [style.adjectives(group[0]) for group in groups]
    if len(groups) == len(named) and style.chooser.random() < 0.5:
        phrases = [*map(indefinite, adjectives)]
        return f"{', '.join(phrases[:-1])} and {phrases[-1]} {noun}", named, "any"
    counts = ["one" if len(group) == 1 else style.number(len(group)) for group in groups]
    parts = style.listed([f"{count} {words}" for count, words in zip(counts, adjectives, strict=True)])
    return f"{style.number(len(named))} {plural(noun)}{style.word((':', ','))} {parts}", named, "any"


_PLANS: dict[int, Callable[[list[Solid], Style], _Plan]] = {1: _one, 2: _two, 3: _many, 4: _many}
