r"""How much each word of a text counts. Imports no torch.

weighting a1111 is the syntax of AUTOMATIC1111's web UI ("Attention/emphasis" in its wiki):

    (word)       1.1 times; [word] 1/1.1 times; nesting multiplies
    (word:1.3)   1.3 times
    \( \) \[ \]  the brackets themselves; so with \\, \: and \|, and any other backslash is left out
    (word        a bracket that is never closed reaches to the end; one that closes nothing stands for itself

weighting compel is that of the library compel (its doc/syntax.md, "Weighting"):

    word+ word++    1.1 and 1.1^2 times; word- word-- 0.9 and 0.9^2 times
    (some words)++  all of them; "some words"++ too; (some words)1.3 1.3 times; nesting multiplies
    (some words)    as some words; hot-dog and +3 as they stand
    \( \" \+        any sign after a backslash stands for itself; so does a bracket that has no other

A sign after a word weighs that word alone, one after a bracket all that is in it. In both the word BREAK in capitals
begins a new chunk (`text.chunks`). weighting none reads a text as it stands.
"""

from __future__ import annotations

import re

from mezzotint.types import WEIGHTINGS, UserError

Piece = tuple[str, float]
"""A text and how much it counts."""
BREAK: Piece = ("", 1.0)
"""A new chunk begins; no other piece is without text."""
LARGEST = 100.0
"""The most that a text may count, either way; more is this much, so that no network overflows."""

ROUND, SQUARE = 1.1, 1 / 1.1
"""What a1111's brackets multiply by."""
PLUS, MINUS = 1.1, 0.9
"""What one of compel's signs multiplies by."""

A1111_SIGNS = re.compile(
    r"""\\[()\[\]\\:|] | \\ | [(\[\])]
      | :\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\)
      | [^\\()\[\]:]+ | :""",
    re.VERBOSE,
)
COMPEL_BRACKETS = re.compile(r'\\.|[()"]', re.DOTALL)
COMPEL_WORD = re.compile(r'(?:\\.|[^\s()",.=+\\-]|[+-](?![\s()",.=+-]|\Z))+', re.DOTALL)
COMPEL_SIGNS = re.compile(r"\++|-+")
COMPEL_NUMBER = re.compile(r"[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+")
NEW_CHUNK = re.compile(r"\s*\bBREAK\b\s*")
ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def bounded(weight: float) -> float:
    """The weight, or the nearest that a text may have."""
    return max(-LARGEST, min(LARGEST, weight))


def emphasis(text: str, weighting: str) -> list[Piece]:
    """The pieces of a text in order, no two in a row of one weight, with BREAK where a new chunk begins.

    Any text is read, and every weight is finite. Raises UserError for a weighting that there is not.
    """
    if weighting == "a1111":
        return _a1111(text)
    if weighting == "compel":
        return _compel(text)
    if weighting != "none":
        raise UserError(f'The weighting is "{weighting}"; it must be one of {", ".join(WEIGHTINGS)}.')
    return [(text, 1.0)] if text != "" else []


class _Pieces:
    """Pieces being found; those from a place on can be weighed once more."""

    def __init__(self) -> None:
        self.texts: list[str | None] = []
        """None is a new chunk."""
        self.weights: list[float] = []
        self._apart = False

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, text: str, weight: float = 1.0) -> None:
        """Add a text, cut at every BREAK."""
        if self._apart and self.texts and text[:1].isalnum() and not (self.texts[-1] or " ")[-1].isspace():
            text = f" {text}"
        self._apart = False
        for number, part in enumerate(NEW_CHUNK.split(text)):
            added: list[str | None] = ([None] if number > 0 else []) + ([part] if part != "" else [])
            self.texts += added
            self.weights += [weight] * len(added)

    def part(self) -> None:
        """What comes next is no longer the same word."""
        self._apart = True

    def multiply(self, start: int, weight: float) -> None:
        """Weigh all from a place on once more."""
        weighed = [each * weight for each in self.weights[start:]]
        # As `bounded`, written out: a text of brackets alone comes here millions of times.
        self.weights[start:] = [
            LARGEST if each > LARGEST else -LARGEST if each < -LARGEST else each for each in weighed
        ]

    def merged(self, *, blank_weighs: bool) -> list[Piece]:
        """Neighbours of one weight as one piece; without `blank_weighs` white space goes with what is before it."""
        found: list[Piece] = []
        for text, weight in zip(self.texts, self.weights, strict=True):
            if text is None:
                found.append(BREAK)
                continue
            before, last = found[-1] if found and found[-1] != BREAK else ("", weight)
            joins = before != "" and (last == weight or (text.isspace() and not blank_weighs))
            if before != "" and before.isspace() and not blank_weighs:
                joins, last = True, weight
            if joins:
                found[-1] = (before + text, last)
            else:
                found.append((text, weight))
        return found


def _a1111(text: str) -> list[Piece]:
    """The pieces as AUTOMATIC1111's web UI weighs them."""
    pieces = _Pieces()
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for found in A1111_SIGNS.finditer(text):
        sign, number = found.group(0), found.group(1)
        if sign.startswith("\\"):
            pieces.put(sign[1:])
        elif sign in opened:
            opened[sign].append(len(pieces))
        elif number is not None and opened["("]:
            pieces.multiply(opened["("].pop(), bounded(float(number)))
        elif sign == ")" and opened["("]:
            pieces.multiply(opened["("].pop(), ROUND)
        elif sign == "]" and opened["["]:
            pieces.multiply(opened["["].pop(), SQUARE)
        else:
            pieces.put(sign)
    for bracket, factor in (("(", ROUND), ("[", SQUARE)):
        for start in opened[bracket]:
            pieces.multiply(start, factor)
    return pieces.merged(blank_weighs=True)


def _compel(text: str) -> list[Piece]:
    """The pieces as compel weighs them."""
    pieces = _Pieces()
    partners, starts = _partners(text), list[int]()
    place = 0
    while place < len(text):
        if place in partners:
            if partners[place] > place:
                starts.append(len(pieces))
                place += 1
            else:
                place, factor = _factor(text, place + 1, numbers=True)
                pieces.multiply(starts.pop(), factor)
            pieces.part()
            continue
        word = COMPEL_WORD.match(text, place)
        if word is None:
            pieces.put(text[place])
            place += 1
            continue
        place, factor = _factor(text, word.end(), numbers=False)
        pieces.put(ESCAPED.sub(r"\1", word.group(0)), factor)
    return pieces.merged(blank_weighs=False)


def _factor(text: str, place: int, *, numbers: bool) -> tuple[int, float]:
    """Where the weight that stands at a place ends, and what it multiplies by; the place itself and 1 without any."""
    signs = COMPEL_SIGNS.match(text, place)
    if signs is not None:
        return signs.end(), bounded((PLUS if signs.group(0)[0] == "+" else MINUS) ** len(signs.group(0)))
    number = COMPEL_NUMBER.match(text, place) if numbers else None
    return (place, 1.0) if number is None else (number.end(), bounded(float(number.group(0))))


def _partners(text: str) -> dict[int, int]:
    """The place of the other bracket or quotation mark for each that has one; what they enclose nests."""
    found: dict[int, int] = {}
    opened: list[tuple[str, int]] = []
    counts = {"(": 0, '"': 0}
    for match in COMPEL_BRACKETS.finditer(text):
        sign, place = match.group(0), match.start()
        opener = "(" if sign == ")" else sign
        if opener not in counts:
            continue
        if sign == "(" or (sign == '"' and counts[sign] == 0):
            opened.append((sign, place))
            counts[sign] += 1
        elif counts[opener] > 0:
            while True:
                other, start = opened.pop()  # What is open within is never closed, and stands for itself.
                counts[other] -= 1
                if other == opener:
                    break
            found[start], found[place] = place, start
    return found
