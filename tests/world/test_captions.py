"""Captions say only what is true. A reader written here, which knows nothing of the grammar's plans, reads every
caption back and holds it to its scene."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import pairwise, permutations

import pytest

from mezzotint.world import captions
from mezzotint.world.captions import (
    BEHIND,
    COLOUR_WORDS,
    FILLERS,
    IN_FRONT_OF,
    LEFT_OF,
    LIGHT_WORDS,
    MATERIAL_WORDS,
    NEXT_TO,
    NUMBER_WORDS,
    OPENINGS,
    RIGHT_OF,
    SHAPE_WORDS,
    SIZE_WORDS,
    TABLE_WORDS,
    Told,
    plural,
    tell,
)
from mezzotint.world.scene import COLOURS, MATERIALS, SHAPES, SIZES, Scene, Solid, random_scenes

Said = tuple[str, str, str, str]
"""Shape, colour, size and material; "" is unsaid."""


@dataclass(frozen=True)
class Reading:
    """What a caption says: solids in the order of its words, relations between mentions, the lamp and the table."""

    mentions: list[tuple[int, Said]]
    relations: list[tuple[int, int, str]]  # (i, j, "across" or "deep"): i is left of j, or in front of it
    near: bool
    rest: str


MEANING = {
    **{word: (0, shape) for shape, words in SHAPE_WORDS.items() for noun in words for word in (noun, plural(noun))},
    **{word: (0, "") for noun in ("object", "thing", "solid") for word in (noun, plural(noun))},
    **{word: (1, colour) for colour, words in COLOUR_WORDS.items() for word in words},
    **{word: (2, size) for size, words in SIZE_WORDS.items() for word in words},
    **{word: (3, material) for material, words in MATERIAL_WORDS.items() for word in words},
}
NUMBERS = {word: number for number, words in NUMBER_WORDS.items() for word in words}
NOUNS = [word for word, (kind, _) in MEANING.items() if kind == 0]
ADJECTIVES = [word for word, (kind, _) in MEANING.items() if kind > 0]


def either(words: list[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


MENTION = re.compile(
    rf"(?:\b(?P<number>{either([*NUMBERS, 'an', 'a', 'one'])}) )?"
    rf"(?P<adjectives>(?:\b(?:{either([*ADJECTIVES, *FILLERS])}) )*)\b(?P<noun>{either(NOUNS)})\b"
)
ADJECTIVE = re.compile(rf"\b(?:{either(ADJECTIVES)})\b")
WAYS = {words: (axis, turned) for axis, turned, several in (
    ("across", False, LEFT_OF), ("across", True, RIGHT_OF), ("deep", False, IN_FRONT_OF), ("deep", True, BEHIND)
) for words in several}  # fmt: skip


def relation(i: int, j: int, words: str) -> tuple[int, int, str]:
    axis, turned = WAYS[words]
    return (j, i, axis) if turned else (i, j, axis)


def read(text: str) -> Reading:
    text = text.lower().removesuffix(".")
    found = list(MENTION.finditer(text))
    mentions: list[tuple[int, Said]] = []
    for match in found:
        said = [MEANING[match["noun"]][1], "", "", ""]
        for word in ADJECTIVE.findall(match["adjectives"]):
            kind, value = MEANING[word]
            assert said[kind] == "", f"said twice: {text}"
            said[kind] = value
        mentions.append((NUMBERS.get(match["number"] or "", 1), (said[0], said[1], said[2], said[3])))
    between = [text[a.end() : b.start()].strip() for a, b in pairwise(found)]
    before, after = text[: found[0].start()].strip(), text[found[-1].end() :].strip()
    relations: list[tuple[int, int, str]] = []
    for i, words in enumerate(between):
        if words.removeprefix("is ") in WAYS:
            relations.append(relation(i, i + 1, words.removeprefix("is ")))
        elif words in ("is", "stands", "there is"):
            relations.append(relation(1, 0, before))  # 'left of A is B'
        elif words in ("on the left and", "on the right and"):
            other = "on the right" if "left" in words else "on the left"
            assert after.startswith(other), text
            after = after.removeprefix(other).strip()
            relations.append(relation(i, i + 1, LEFT_OF[0] if "left" in words else RIGHT_OF[0]))
        else:
            assert words in ("and", "with", "and also", ",", *NEXT_TO), f"{words!r} in {text!r}"
    if before == "from left to right:" or after.startswith((", from left to right", "in a row")):
        relations = [(i, i + 1, "across") for i in range(len(found) - 1)]
        after = after.removeprefix(", from left to right").removeprefix("in a row").strip()
    return Reading(mentions, relations, any(words in NEXT_TO for words in between), after)


def true_of(reading: Reading, scene: Scene) -> bool:
    """Whether the scene's solids, all of them, can be what the caption speaks of."""
    mention_of = [number for number, (count, _) in enumerate(reading.mentions) for _ in range(count)]
    if len(mention_of) != len(scene.solids):
        return False
    for order in permutations(scene.solids):
        fits = all(
            wanted in ("", getattr(solid, name))
            for solid, mention in zip(order, mention_of, strict=True)
            for name, wanted in zip(("shape", "colour", "size", "material"), reading.mentions[mention][1], strict=True)
        )
        if fits and all(
            (b.x - a.x > 0.35 if axis == "across" else b.y - a.y > 0.55)
            for i, j, axis in reading.relations
            for a, mention_a in zip(order, mention_of, strict=True)
            for b, mention_b in zip(order, mention_of, strict=True)
            if (mention_a, mention_b) == (i, j)
        ):
            return True
    return False


def said_of(solid: Solid) -> Said:
    return solid.shape, solid.colour, solid.size, solid.material


@pytest.fixture(scope="module")
def told() -> list[tuple[Scene, Told, Reading]]:
    chooser = random.Random(11)
    scenes = random_scenes(1000, 21, held_out=None).describe()
    # Beside each other, and neither clearly left of nor in front of the other: what "near" is said of.
    near = Scene((Solid("cube", "red", x=-0.4), Solid("cone", "blue", size="small", x=0.4, y=0.6)))
    pairs = [(scene, tell(scene, chooser)) for scene in (*scenes * 4, *[near] * 1000)]
    return [(scene, caption, read(caption.text)) for scene, caption in pairs]


def test_a_caption_is_true_of_its_scene_and_names_every_solid(told: list[tuple[Scene, Told, Reading]]):
    for scene, caption, reading in told:
        assert true_of(reading, scene), (caption.text, scene)


def test_what_is_told_as_data_is_what_the_words_say(told: list[tuple[Scene, Told, Reading]]):
    for _, caption, reading in told:
        spoken = [said for count, said in reading.mentions for _ in range(count)]
        if caption.order == "any":
            assert reading.relations == [], caption.text
            assert sorted(map(said_of, caption.solids)) == sorted(spoken), caption.text
        else:
            assert {axis for _, _, axis in reading.relations} == {caption.order}, caption.text
            backwards = reading.relations[0][0] > reading.relations[0][1]
            mentions = reading.mentions[::-1] if backwards else reading.mentions
            assert [said for count, said in mentions for _ in range(count)] == [*map(said_of, caption.solids)]


def test_what_is_told_in_order_stands_in_order(told: list[tuple[Scene, Told, Reading]]):
    for _, caption, _ in told:
        for a, b in pairwise(caption.solids):
            if said_of(a) != said_of(b) or len(caption.solids) == 2:  # Of like ones nobody can say which is which.
                assert caption.order != "across" or b.x - a.x > 0.35, caption.text
                assert caption.order != "deep" or b.y - a.y > 0.55, caption.text


def test_table_and_light_are_the_scene_s(told: list[tuple[Scene, Told, Reading]]):
    for scene, caption, reading in told:
        rest = reading.rest
        said = re.match(rf"on (?P<table>{either([w for words in TABLE_WORDS.values() for w in words])})\b", rest)
        if said is not None:
            assert said["table"] in TABLE_WORDS[scene.table], caption.text
            rest = rest[said.end() :]
        lit = re.match(rf", (?P<light>{either([*LIGHT_WORDS.values()])})", rest)
        if lit is not None:
            assert lit["light"] == LIGHT_WORDS[scene.light], caption.text
            rest = rest[lit.end() :]
        assert rest.strip(", ") in ("", *FILLERS), caption.text


def test_near_is_near(told: list[tuple[Scene, Told, Reading]]):
    near = [scene for scene, _, reading in told if reading.near]
    assert len(near) > 10
    for scene in near:
        a, b = scene.solids
        assert abs(a.x - b.x) < 1.8
        assert abs(a.y - b.y) < 0.9


def test_every_paraphrase_is_used(told: list[tuple[Scene, Told, Reading]]):
    everything = "\n".join(caption.text.lower() for _, caption, _ in told)
    words = [
        *(word for table in (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, MATERIAL_WORDS) for some in table.values()
          for word in some),
        *(plural(word) for words in SHAPE_WORDS.values() for word in words),
        *(word for words in TABLE_WORDS.values() for word in words),
        *LIGHT_WORDS.values(), *NUMBERS, *OPENINGS, *FILLERS, *LEFT_OF, *RIGHT_OF, *IN_FRONT_OF, *BEHIND, *NEXT_TO,
        "object", "thing", "solid", "from left to right:", "in a row", "stands", "one", "on the left and",
        "on the right and",
    ]  # fmt: skip
    assert [word for word in words if re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", everything) is None] == []
    assert ", from left to right" in everything


def test_captions_are_a_pure_function_of_the_chooser(told: list[tuple[Scene, Told, Reading]]):
    scenes = [scene for scene, _, _ in told[:60]]
    once, again = ([tell(scene, chooser) for scene in scenes] for chooser in (random.Random(5), random.Random(5)))
    random.seed(1)
    assert once == again
    assert once != [tell(scene, random.Random(6)) for scene in scenes]


def test_grammar():
    scene = Scene((Solid("sphere", "orange"),))
    texts = {tell(scene, random.Random(seed)).text.lower() for seed in range(400)}
    assert not any(re.search(r"\ba (?:orange|emerald|orb|object)|\ban (?:ball|red|sphere)", text) for text in texts)
    assert "an orange sphere" in texts
    assert plural("box") == "boxes"
    assert plural("torus") == "tori"
    assert plural("cone") == "cones"


@pytest.mark.parametrize("x", [-1.0, 1.0])
def test_relations_are_what_a_viewer_would_say(x: float):
    here, beside, beyond = Solid("cube", "red"), Solid("cone", "blue", x=x), Solid("torus", "pink", y=1.0)
    assert captions.left_of(here, beside) == (x > 0)
    assert captions.left_of(beside, here) == (x < 0)
    assert captions.before(here, beyond)
    assert not captions.before(beyond, here)
    assert not captions.left_of(here, beyond)
    assert not captions.before(here, beside)


def test_colours_without_a_name_are_not_told():
    chooser = random.Random(1)
    words = {word for names in captions.COLOUR_WORDS.values() for word in names}
    coloured = 0
    for scene in random_scenes(300, 8, tinted=1.0).describe():
        told = captions.tell(scene, chooser)
        says = any(re.search(rf"\b{word}\b", told.text.lower()) for word in words)
        assert says == any(solid.colour != "" for solid in told.solids)
        coloured += says
        if any(solid.colour == "" for solid in scene.solids):
            assert not says
    assert coloured > 20


def test_every_name_has_words():
    for names, words in ((SHAPES, SHAPE_WORDS), (COLOURS, COLOUR_WORDS), (SIZES, SIZE_WORDS)):
        assert tuple(words) == names
        assert all(name in words[name] for name in names)
    assert tuple(MATERIAL_WORDS) == MATERIALS
    tables = (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, MATERIAL_WORDS)
    flat = [word for table in tables for some in table.values() for word in some]
    assert len(flat) == len(set(flat))
