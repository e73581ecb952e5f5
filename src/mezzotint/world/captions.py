"""What people would say of a scene: a grammar with many paraphrases, and what each caption asserts.

A caption names every solid of its scene, and each attribute only sometimes. `tell` also returns what was said as data,
so that a text encoder can be taught to read it back and a judge can hold a picture to it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from mezzotint.world.scene import Scene, Solid

SHAPE_WORDS = {
    "sphere": ("sphere", "ball", "orb"),
    "cube": ("cube", "box", "block"),
    "cylinder": ("cylinder", "can", "drum"),
    "cone": ("cone",),
    "torus": ("torus", "ring", "donut"),
    "pyramid": ("pyramid",),
}
COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange",),
    "yellow": ("yellow", "lemon"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise", "aqua"),
    "blue": ("blue", "royal blue"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white",),
    "black": ("black",),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
MATERIAL_WORDS = {"matte": ("matte", "dull"), "shiny": ("shiny", "glossy", "polished")}
TABLE_WORDS = {
    "wooden": ("a wooden table", "a wood table", "wood"),
    "stone": ("a stone table", "stone"),
    "slate": ("a slate table", "a dark table", "slate"),
    "linen": ("a linen tablecloth", "a table with a cloth", "linen"),
    "tiled": ("a tiled table", "a checkered table", "tiles"),
}
LIGHT_WORDS = {"left": "lit from the left", "right": "lit from the right", "front": "lit from the front"}
NUMBER_WORDS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
NUMBERS = tuple(word for words in NUMBER_WORDS.values() for word in words)
OPENINGS = (
    "a photo of ",
    "a picture of ",
    "an image of ",
    "a rendering of ",
    "a photograph of ",
    "a still life with ",
    "there is ",
    "please draw ",
    "draw ",
    "show me ",
)
FILLERS = ("beautiful", "nice", "simple", "3d", "high quality", "detailed", "4k", "perfect", "lovely", "plain")
CANONICAL = 0.75
"""How often the first of several words is taken."""

AS_READ = 0.9
"""How often solids that are only listed are listed from left to right, as people read a picture. A list that told
nothing of places would leave it to chance, at the highest noise, which of two solids becomes the cube."""

LEFT_OF = ("to the left of", "left of", "on the left of", "on the left side of")
RIGHT_OF = ("to the right of", "right of", "on the right of", "on the right side of")
IN_FRONT_OF = ("in front of", "before", "closer than", "below")
BEHIND = ("behind", "in back of", "further away than", "above")
NEXT_TO = ("next to", "beside", "near", "close to", "by")


@dataclass(frozen=True)
class Told:
    """A caption and what it asserts.

    solids are in the order in which the caption places them: from left to right where `order` is "across", from front
    to back where it is "deep", as named where it is "any". An attribute that the caption leaves open is "".
    """

    text: str
    solids: tuple[Solid, ...]
    order: str


def tell(scene: Scene, chooser: random.Random) -> Told:
    """One caption of the scene, chosen by `chooser`."""
    solids = list(scene.solids)
    style = _Style.random(chooser, named=all(solid.colour != "" for solid in solids))
    body, named, order = _PLANS[len(solids)](solids, style)
    text = body
    if chooser.random() < 0.3:
        text += f" on {chooser.choice(TABLE_WORDS[scene.table])}"
    if chooser.random() < 0.07:
        text += f", {LIGHT_WORDS[scene.light]}"
    if chooser.random() < 0.35 and not text.startswith(("from", *IN_FRONT_OF, *BEHIND, *LEFT_OF, *RIGHT_OF)):
        opening = chooser.choice(OPENINGS)
        if opening == "there is " and text.startswith(NUMBERS):
            opening = "there are "
        text = opening + text
    if chooser.random() < 0.06:
        text += f", {chooser.choice(FILLERS)}"
    if chooser.random() < 0.2:
        text = text[0].upper() + text[1:]
    if chooser.random() < 0.2:
        text += "."
    return Told(text, tuple(style.said(solid) for solid in named), order)


@dataclass(frozen=True)
class _Style:
    """What this caption mentions of every solid, and in which words."""

    chooser: random.Random
    colour: bool
    shape: bool
    size: bool
    material: bool

    @classmethod
    def random(cls, chooser: random.Random, *, named: bool) -> _Style:
        """`named`: whether all colours have names."""
        colour = (chooser.random() < 0.5) and named
        shape = not colour or chooser.random() < 0.95
        return cls(chooser, colour, shape, chooser.random() < 0.3, chooser.random() < 0.15)

    def word(self, words: Sequence[str]) -> str:
        return words[0] if self.chooser.random() < CANONICAL else self.chooser.choice(words)

    def said(self, solid: Solid) -> Solid:
        """The solid with what the caption leaves open blanked out."""
        return replace(
            solid,
            shape=solid.shape if self.shape else "",
            colour=solid.colour if self.colour else "",
            size=solid.size if self.size else "",
            material=solid.material if self.material else "",
        )

    def adjectives(self, solid: Solid) -> str:
        words: list[str] = []
        if self.size:
            words.append(self.word(SIZE_WORDS[solid.size]))
        if self.material:
            words.append(self.word(MATERIAL_WORDS[solid.material]))
        if self.chooser.random() < 0.02:
            words.append(self.chooser.choice(FILLERS))
        if self.colour:
            words.append(self.word(COLOUR_WORDS[solid.colour]))
        return " ".join(words)

    def noun(self, solid: Solid) -> str:
        return self.word(SHAPE_WORDS[solid.shape]) if self.shape else self.word(("object", "thing", "solid"))

    def one(self, solid: Solid) -> str:
        """'a small red ball'."""
        phrase = f"{self.adjectives(solid)} {self.noun(solid)}".strip()
        article = self.chooser.random()
        if article < 0.03:
            return f"one {phrase}"
        if article < 0.09:
            return phrase
        return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

    def several(self, solid: Solid, count: int) -> str:
        """'three red balls', or one of them."""
        if count == 1:
            return self.one(solid)
        return f"{self.word(NUMBER_WORDS[count])} {self.adjectives(solid)} {plural(self.noun(solid))}".replace(
            "  ", " "
        )


def plural(noun: str) -> str:
    """The plural of a shape's word."""
    if noun == "torus":
        return "tori"
    return noun + ("es" if noun.endswith(("x", "s")) else "s")


def left_of(a: Solid, b: Solid) -> bool:
    """Whether anybody would say that a stands to the left of b."""
    return b.x - a.x > max(0.55, 0.7 * abs(b.y - a.y))


def before(a: Solid, b: Solid) -> bool:
    """Whether anybody would say that a stands in front of b."""
    return b.y - a.y > max(0.55, 0.8 * abs(b.x - a.x))


_Plan = tuple[str, list[Solid], str]


def _one(solids: list[Solid], style: _Style) -> _Plan:
    return style.one(solids[0]), solids, "any"


def _alike(solids: Sequence[Solid], style: _Style) -> bool:
    return len({(s.shape, s.colour, s.size, s.material) for s in map(style.said, solids)}) == 1


def _two(solids: list[Solid], style: _Style) -> _Plan:
    chooser = style.chooser
    a, b = chooser.sample(solids, 2)
    if _alike(solids, style) and chooser.random() < 0.8:
        return style.several(a, 2), solids, "any"
    if chooser.random() < 0.4:
        for relation, first, second in ((left_of, a, b), (left_of, b, a), (before, a, b), (before, b, a)):
            if relation(first, second):
                return _related(a, b, relation, first is a, style)
    a, b = _listed(solids, chooser)
    if chooser.random() < 0.3 and _close(a, b):
        return f"{style.one(a)} {style.word(NEXT_TO)} {style.one(b)}", [a, b], "any"
    return f"{style.one(a)} {style.word(('and', 'with', 'and also'))} {style.one(b)}", [a, b], "any"


def _listed(solids: Sequence[Solid], chooser: random.Random) -> list[Solid]:
    """The solids in the order in which a caption lists them where it tells nothing of their places."""
    if chooser.random() < AS_READ:
        return sorted(solids, key=lambda solid: solid.x)
    return chooser.sample(solids, len(solids))


def _close(a: Solid, b: Solid) -> bool:
    return abs(a.y - b.y) < 0.9 and abs(a.x - b.x) < 1.8


def _related(a: Solid, b: Solid, relation: Callable[[Solid, Solid], bool], a_first: bool, style: _Style) -> _Plan:
    """'a is left of b', said from either side; a and b are named in this order."""
    across = relation is left_of
    forward, backward = (LEFT_OF, RIGHT_OF) if across else (IN_FRONT_OF, BEHIND)
    words = style.word(forward if a_first else backward)
    one, other = style.one(a), style.one(b)
    text = f"{one} {words} {other}"
    draw = style.chooser.random()
    if across and draw < 0.08:
        text = f"{one} on the {'left' if a_first else 'right'} and {other} on the {'right' if a_first else 'left'}"
    elif draw < 0.14:
        text = f"{words} {other} {style.word(('is', 'stands', 'there is'))} {one}"
    elif draw < 0.2:
        text = f"{one} is {words} {other}"
    return text, [a, b] if a_first else [b, a], "across" if across else "deep"


def _in_a_row(solids: Sequence[Solid]) -> bool:
    return all(b.x - a.x > 0.35 for a, b in pairwise(solids))


def _row(solids: list[Solid], style: _Style) -> _Plan:
    """Three or four told from left to right."""
    phrases = [style.one(solid) for solid in solids]
    listed = f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    draw = style.chooser.random()
    if draw < 0.45:
        text = f"from left to right: {listed}"
    elif draw < 0.65:
        text = f"{listed}, from left to right"
    elif draw < 0.75:
        text = f"{listed} in a row"
    # A chain of relations, told from either end.
    elif style.chooser.random() < 0.6:
        text = f" {style.word(LEFT_OF)} ".join(phrases)
    else:
        text = f" {style.word(RIGHT_OF)} ".join(reversed(phrases))
    return text, solids, "across"


def _many(solids: list[Solid], style: _Style) -> _Plan:
    """Three or four: all alike, in groups, in a row, or just listed."""
    chooser = style.chooser
    if _alike(solids, style) and chooser.random() < 0.85:
        return style.several(solids[0], len(solids)), solids, "any"
    groups = _groups(_listed(solids, chooser), style)
    if 1 < len(groups) < len(solids) and chooser.random() < 0.7:
        return _grouped(groups, style)
    row = sorted(solids, key=lambda solid: solid.x)
    if _in_a_row(row) and chooser.random() < 0.8:
        return _row(row, style)
    listed = _listed(solids, chooser)
    phrases = [style.one(solid) for solid in listed]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}", listed, "any"


def _groups(solids: Sequence[Solid], style: _Style) -> list[list[Solid]]:
    groups: dict[tuple[str, str, str, str], list[Solid]] = {}
    for solid in solids:
        said = style.said(solid)
        groups.setdefault((said.shape, said.colour, said.size, said.material), []).append(solid)
    return list(groups.values())


def _grouped(groups: list[list[Solid]], style: _Style) -> _Plan:
    """'two red cubes and a ball', with 'to the left of' where all of one group are."""
    phrases = [style.several(group[0], len(group)) for group in groups]
    named = [solid for group in groups for solid in group]
    if len(groups) == 2:
        one, other = groups
        if all(left_of(a, b) for a in one for b in other):
            return f"{phrases[0]} {style.word(LEFT_OF)} {phrases[1]}", named, "across"
        if all(left_of(b, a) for a in one for b in other):
            return f"{phrases[0]} {style.word(RIGHT_OF)} {phrases[1]}", [*other, *one], "across"
        return f"{phrases[0]} {style.word(('and', 'with'))} {phrases[1]}", named, "any"
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}", named, "any"


_PLANS: dict[int, Callable[[list[Solid], _Style], _Plan]] = {1: _one, 2: _two, 3: _many, 4: _many}
