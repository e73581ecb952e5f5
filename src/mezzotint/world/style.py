"""How one caption speaks: what it mentions of a solid, in which words, and how it names one or several."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mezzotint.world.scene import Solid
from mezzotint.world.words import (
    AFTER,
    COLOUR_WORDS,
    COLOURED,
    EXACTLY,
    FILLERS,
    JOINTS,
    MATERIAL_WORDS,
    NUMBER_WORDS,
    ONE,
    PAIR,
    SHAPE_WORDS,
    SIZE_WORDS,
    THINGS,
)

CANONICAL = 0.75
"""How often the first of several words is taken."""
OFTEN = 0.5
"""The same of words whose others are as usual."""


@dataclass(frozen=True)
class Style:
    """What this caption mentions of every solid, and in which words."""

    chooser: random.Random
    colour: bool
    shape: bool
    size: bool
    material: bool
    bare: bool = False
    """Without articles."""
    definite: bool = False
    whole: bool = True
    """Of all solids that there are, so that one may be said to stand alone."""

    @classmethod
    def random(cls, chooser: random.Random) -> Style:
        """One by chance."""
        colour = chooser.random() < 0.5
        shape = not colour or chooser.random() < 0.95
        return cls(chooser, colour, shape, chooser.random() < 0.3, chooser.random() < 0.15, chooser.random() < 0.06)

    def word(self, words: Sequence[str], first: float = CANONICAL) -> str:
        """One of them, the first with this chance and more."""
        return words[0] if self.chooser.random() < first else self.chooser.choice(words)

    def said(self, solid: Solid) -> Solid:
        """The solid with what the caption leaves open blanked out."""
        return replace(
            solid,
            shape=solid.shape if self.shape else "",
            colour=solid.colour if self.colour else "",
            size=solid.size if self.size else "",
            material=solid.material if self.material else "",
        )

    def adjectives(self, solid: Solid, *, colour: bool = True) -> str:
        """'small shiny red', what is said of a solid before its noun, with or without its colour."""
        said, words = self.said(solid), list[str]()
        if said.size != "":
            words.append(self.word(SIZE_WORDS[said.size]))
        if said.material != "":
            words.append(self.word(MATERIAL_WORDS[said.material]))
        if said.colour != "" and colour:
            words.append(self.word(COLOUR_WORDS[said.colour]))
            if self.chooser.random() < 0.02:
                words[-1] += self.chooser.choice("- ") + self.chooser.choice(COLOURED)
        if self.chooser.random() < 0.05:
            self.chooser.shuffle(words)
        if self.chooser.random() < 0.02:
            words.insert(0, self.chooser.choice(FILLERS))
        return " ".join(words)

    def noun(self, solid: Solid) -> str:
        """'ball', or 'thing' where shapes are not said."""
        return self.word(SHAPE_WORDS[solid.shape]) if self.shape else self.word(THINGS)

    def one(self, solid: Solid) -> str:
        """'a small red ball', or 'a small ball that is red'."""
        after = not self.bare and self.said(solid).colour != "" and self.chooser.random() < 0.06
        phrase = f"{self.adjectives(solid, colour=not after)} {self.noun(solid)}".strip()
        if after:
            phrase += f" {self.word(AFTER, OFTEN)} {self.word(COLOUR_WORDS[solid.colour])}"
        if self.definite:
            return f"the {phrase}"
        article = self.chooser.random()
        if article < 0.03:
            return f"{self.word(ONE, OFTEN)} {phrase}"
        return phrase if article < 0.06 or self.bare else indefinite(phrase)

    def number(self, count: int) -> str:
        """'two', or '2'."""
        return self.word(NUMBER_WORDS[count])

    def several(self, solid: Solid, count: int) -> str:
        """'three red balls', or one of them."""
        if count == 1:
            return self.one(solid)
        number = self.word(PAIR) if count == 2 and self.chooser.random() < 0.06 else self.number(count)
        if self.chooser.random() < 0.03:
            number = f"{self.chooser.choice(EXACTLY)} {number}"
        return f"{number} {self.adjectives(solid)} {plural(self.noun(solid))}".replace("  ", " ")

    def listed(self, phrases: Sequence[str]) -> str:
        """'a, b and c'."""
        if self.chooser.random() < (0.3 if self.bare else 0.04):
            return self.joint().join(phrases)
        draw = self.chooser.random()
        last = ", " if draw < 0.15 else ", and " if draw < 0.35 and len(phrases) > 2 else " and "
        return f"{', '.join(phrases[:-1])}{last}{phrases[-1]}"

    def joint(self) -> str:
        """What stands between solids that are listed without a word between them."""
        return self.word((*JOINTS, " ") if self.bare else JOINTS, OFTEN)


def indefinite(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(noun: str) -> str:
    """The plural of a shape's word."""
    if noun == "torus":
        return "tori"
    return noun + ("es" if noun.endswith(("x", "s")) else "s")
