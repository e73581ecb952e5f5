"""A prompt over the steps: which texts are read from which step on, and how much each counts. Imports no torch.

The syntax is that of AUTOMATIC1111's web UI ("Prompt editing", "Alternating Words" and "Composable Diffusion" in its
wiki; Liu et al. 2022, arXiv:2206.01714):

    [from:to:0.4]   from, and after 0.4 of the steps to; [from:to:8] after 8 steps
    [to:0.4]        nothing, and after 0.4 of the steps to
    [from::0.4]     from, and after 0.4 of the steps nothing
    [a|b|c]         a, b, c, a, ... one step each
    A AND B:0.7     two texts, each drawn towards by its weight, which may be negative

They nest. A bracket that makes none of these, or is never closed, is read as it stands, and so is all that is open
around it; a backslash takes a sign's meaning away. What brackets are left is emphasis (`text.emphasis`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mezzotint.text.emphasis import bounded


@dataclass(frozen=True)
class Part:
    """One of the texts that a phase is drawn towards."""

    text: str
    """What to read, with its emphasis."""
    weight: float
    """How much it counts; 1 is a text alone, and below 0 is away from it."""


@dataclass(frozen=True)
class Phase:
    """What is read from one step until the next phase."""

    first_step: int
    """The step that it begins with, counted from 0."""
    parts: tuple[Part, ...]
    """One text, or those that AND stands between."""


@dataclass(frozen=True)
class Kept:
    """Brackets that say nothing about steps, with what is in them."""

    inside: Sequence[Node]

    def now(self, step: int, steps: int) -> Sequence[Node]:
        """What stands there at a step."""
        del step, steps
        return self.inside


@dataclass(frozen=True)
class Switch:
    """[from:to:when]."""

    before: Sequence[Node]
    after: Sequence[Node]
    when: str

    def first(self, steps: int) -> int:
        """The first step of `after`: a number with a point is a share of the steps, and any other counts them."""
        value = float(self.when)
        share = "." in self.when or value < 1
        return int(max(0.0, min(value * steps if share else value, float(steps))))

    def now(self, step: int, steps: int) -> Sequence[Node]:
        """What stands there at a step."""
        return self.before if step < self.first(steps) else self.after


@dataclass(frozen=True)
class Turns:
    """[a|b|c]."""

    choices: Sequence[Sequence[Node]]

    def now(self, step: int, steps: int) -> Sequence[Node]:
        """What stands there at a step."""
        del steps
        return self.choices[step % len(self.choices)]


Node = str | Kept | Switch | Turns

SIGNS = re.compile(r"\\.|[^\\\[\]():|]+|.", re.DOTALL)
"""A sign without its meaning, a run of plain text, or a sign."""
CLOSES = {"(": ")", "[": "]"}
STEP = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
WEIGHT = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)\s*")
AND = re.compile(r"\bAND\b")


def phases(prompt: str, steps: int, *, weighting: str = "a1111", negative: bool = False) -> tuple[Phase, ...]:
    """What is read at each of `steps` steps, in order; the first phase begins at step 0 and no two in a row are equal.

    A weighting of none reads the whole prompt as it stands, in one phase. In what to steer away from (`negative`) AND
    is a word as any other, as in the web UI, so each phase has one part. Any text is read.
    """
    if weighting == "none":
        return (Phase(0, (Part(prompt, 1.0),)),)
    nodes = parse(prompt)
    told = [(nodes, 1.0)] if negative else weighed(nodes)
    found: list[Phase] = []
    for step in sorted({0, *changes(nodes, steps)}):
        texts = [text_at(part, step, steps) for part, _ in told]
        if len(texts) > 1:
            texts = [text.strip() for text in texts]
        parts = tuple(Part(text, weight) for text, (_, weight) in zip(texts, told, strict=True))
        if not found or found[-1].parts != parts:
            found.append(Phase(step, parts))
    return tuple(found)


def _one_empty() -> list[list[Node]]:
    return [[]]


@dataclass
class _Open:
    """A bracket that is not closed yet, and what is in it so far."""

    bracket: str
    fields: list[list[Node]] = field(default_factory=_one_empty)
    """What stands between its colons and bars."""
    between: list[str] = field(default_factory=list[str])
    """These colons and bars."""

    def as_it_stands(self) -> Iterator[Node]:
        """The bracket and what is in it, unread."""
        yield self.bracket
        for sign, nodes in zip(["", *self.between], self.fields, strict=True):
            yield sign
            yield from nodes

    def closed(self) -> Node | None:
        """What it is if it is closed here, or none where that makes nothing."""
        colons = self.between.count(":")
        bars = len(self.between) - colons
        if colons + bars == 0 or (self.bracket == "(" and (colons, bars) == (1, 0)):
            return Kept([*self.as_it_stands(), CLOSES[self.bracket]])
        if self.bracket == "(":
            return None
        if colons == 0:
            return Turns(self.fields)
        last = "".join(node if isinstance(node, str) else "[" for node in self.fields[-1])
        when = STEP.fullmatch(last)
        if bars > 0 or colons > 2 or when is None:
            return None
        return Switch(self.fields[0] if colons == 2 else [], self.fields[colons - 1], when.group(1))


def parse(prompt: str) -> list[Node]:
    """The prompt as nodes; joined at any step they are a text. One pass, so that no text takes long."""
    root: list[Node] = []
    opened: list[_Open] = []
    for sign in SIGNS.findall(prompt):
        if sign in CLOSES:
            opened.append(_Open(sign))
        elif sign in CLOSES.values():
            closed = opened[-1].closed() if opened and CLOSES[opened[-1].bracket] == sign else None
            if closed is not None:
                opened.pop()
                (opened[-1].fields[-1] if opened else root).append(closed)
            else:
                root += [node for each in opened for node in each.as_it_stands()]
                root.append(sign)
                opened.clear()
        elif sign in (":", "|") and opened:
            opened[-1].between.append(sign)
            opened[-1].fields.append([])
        else:
            (opened[-1].fields[-1] if opened else root).append(sign)
    return root + [node for each in opened for node in each.as_it_stands()]


def weighed(nodes: Sequence[Node]) -> list[tuple[list[Node], float]]:
    """The nodes between the ANDs outside all brackets, each with the weight at its end; a prompt without AND has 1."""
    joined: list[Node] = []
    for node in nodes:
        if isinstance(node, str) and joined and isinstance(joined[-1], str):
            joined[-1] += node
        else:
            joined.append(node)
    parts: list[list[Node]] = [[]]
    for node in joined:
        first, *others = AND.split(node) if isinstance(node, str) else [node]
        parts[-1].append(first)
        parts += [[other] for other in others]
    return [_with_weight(part) for part in parts] if len(parts) > 1 else [(list(nodes), 1.0)]


def _with_weight(part: list[Node]) -> tuple[list[Node], float]:
    """A part without the :0.7 that ends it, and that number, or 1."""
    last = part[-1]
    if not isinstance(last, str):
        return part, 1.0
    text, colon, number = last.rpartition(":")
    escaped = (len(text) - len(text.rstrip("\\"))) % 2 == 1
    if colon == "" or escaped or WEIGHT.fullmatch(number) is None:
        return part, 1.0
    return [*part[:-1], text], bounded(float(number))


def changes(nodes: Sequence[Node], steps: int) -> set[int]:
    """Every step at which the text may change."""
    found: set[int] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Kept):
            waiting += node.inside
        elif isinstance(node, Switch):
            found.add(node.first(steps))
            waiting += [*node.before, *node.after]
        elif isinstance(node, Turns):
            found.update(range(steps))
            waiting += [each for choice in node.choices for each in choice]
    return {step for step in found if step < steps}


def text_at(nodes: Sequence[Node], step: int, steps: int) -> str:
    """What the nodes are at a step."""
    found: list[str] = []
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            found.append(node)
        else:
            waiting += reversed(node.now(step, steps))
    return "".join(found)
