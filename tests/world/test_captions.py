"""Captions say only what is true. A reader written here, which knows nothing of the grammar's plans, reads every
caption back and holds it to its scene."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import pytest

from mezzotint.world import captions
from mezzotint.world.captions import NOTHING, Told, outright, tell, tell_clearly
from mezzotint.world.scene import COLOURS, MATERIALS, SHAPES, SIZES, Scene, Solid, random_scenes
from mezzotint.world.style import plural
from mezzotint.world.words import (
    ALONE,
    AND,
    ANY_TABLE,
    BEHIND,
    COLOUR_WORDS,
    COLOURED,
    COMMON_OPENINGS,
    ENDINGS,
    EXACTLY,
    FILLERS,
    IN_FRONT_OF,
    IS,
    ITS_OWN,
    JOINTS,
    LEFT_OF,
    LIGHT_WORDS,
    MATERIAL_WORDS,
    MIDDLE,
    NEXT_TO,
    NOTHING_ELSE,
    NUMBER_WORDS,
    ONE,
    OPENINGS,
    PAIR,
    RIGHT_OF,
    SHAPE_WORDS,
    SIZE_WORDS,
    STANDING,
    TABLE_WORDS,
    THINGS,
    TOGETHER,
)

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
    **{word: (0, "") for noun in THINGS for word in (noun, plural(noun))},
    **{word: (1, colour) for colour, words in COLOUR_WORDS.items() for word in words},
    **{word: (2, size) for size, words in SIZE_WORDS.items() for word in words},
    **{word: (3, material) for material, words in MATERIAL_WORDS.items() for word in words},
}
NUMBERS = {word: number for number, words in NUMBER_WORDS.items() for word in words}
NOUNS = [word for word, (kind, _) in MEANING.items() if kind == 0]
ADJECTIVES = [word for word, (kind, _) in MEANING.items() if kind > 0]


def either(words: list[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_NUMBER = rf"(?:(?:\b(?:{either([*EXACTLY])}) )?\b(?P<number>{either([*NUMBERS, *PAIR, *ONE, 'an', 'a', 'the'])}) )?"
_ADJECTIVE = rf"\b(?:{either(ADJECTIVES)})\b"
_COLOURED = rf"(?:[- ](?:{either([*COLOURED])}))?"
_ADJECTIVES = rf"(?P<adjectives>(?:\b(?:{either([*ADJECTIVES, *FILLERS])}){_COLOURED} )*)"
_NO_MORE = rf"(?![- ](?:{either([*MEANING, *FILLERS, *COLOURED])})\b)"
_AFTER = rf"(?: (?:(?:that |which )?is|in) (?P<after>{_ADJECTIVE}){_NO_MORE})?"
MENTION = re.compile(
    rf"{_NUMBER}{_ADJECTIVES}(?:\b(?P<noun>{either(NOUNS)})\b{_AFTER}|(?P<last>{_ADJECTIVE}){_COLOURED})"
)
ADJECTIVE = re.compile(_ADJECTIVE)
COUNTED = re.compile(rf"(?P<number>{either([*NUMBERS])}) (?:{either([*map(plural, THINGS)])})[:,] ")
TABLES = {word: name for name, words in TABLE_WORDS.items() for word in words}
TABLES |= {word.replace("a ", "the ", 1): name for word, name in TABLES.items()}
ON_TABLE = re.compile(rf"on (?P<table>{either([*TABLES])}), ")
WAYS = {words: (axis, turned) for axis, turned, several in (
    ("across", False, LEFT_OF), ("across", True, RIGHT_OF), ("deep", False, IN_FRONT_OF), ("deep", True, BEHIND)
) for words in several}  # fmt: skip
WAYS_OF_IT = {words: WAYS[several[0]] for several, some in ITS_OWN.items() for words in some}
ROW_AFTERWARDS = r"(?:from )?(?:left|right) to (?:left|right)[:,]"
ROW = r",? ?from (?:left|right) to (?:left|right)|in a row"
FORMS = {
    "across": (
        "0 on the left and 1 on the right", "0 on the left, 1 on the right",
        "0 is on the left and 1 is on the right", "1 on the right and 0 on the left",
        "on the left 0, on the right 1", "on the left is 0 and on the right is 1",
        "on the right 1, on the left 0", "left 0, right 1", "0 on the left, and 1 on the right",
        "0 is on the left; 1 is on the right", "on the left side 0, on the right side 1",
        "on the left there is 0, on the right there is 1", "on the right there is 1, on the left there is 0",
        "on the right is 1 and on the left is 0",
        "0 on the left, 1 in the center and 2 on the right", "on the left 0, in the center 1, on the right 2",
        "1 in the centre, 0 on the left and 2 on the right", "1 with 0 on its left and 2 on its right",
        "1 to the right of 0 and to the left of 2",
        "0 on the left, 1 in the middle and 2 on the right", "on the left 0, in the middle 1, on the right 2",
        "1 in the middle, 0 on the left and 2 on the right", "1 between 0 and 2",
    ),
    "deep": (
        "0 in front and 1 behind", "0 in the foreground and 1 in the background", "in front 0, behind it 1",
        "in the foreground 0, in the background 1", "1 in the background and 0 in the foreground",
    ),
}  # fmt: skip
"""What stands first in the order is 0."""


def relation(i: int, j: int, way: tuple[str, bool]) -> tuple[int, int, str]:
    axis, turned = way
    return (j, i, axis) if turned else (i, j, axis)


def chain(places: list[int], axis: str) -> list[tuple[int, int, str]]:
    return [(a, b, axis) for a, b in pairwise(places)]


def read(text: str) -> Reading:
    text = text.lower().removesuffix(".")
    for ending in (*ENDINGS, *NOTHING_ELSE):
        text = text.removesuffix(ending)
    for opening in sorted((*COMMON_OPENINGS, *OPENINGS, "there are "), key=len, reverse=True):
        if text.startswith(opening):
            text = text.removeprefix(opening)
            break
    rest = ""
    if (table := ON_TABLE.match(text)) is not None:
        rest, text = f"on {table['table']}", text[table.end() :]
    total = 0
    counted = COUNTED.match(text)  # 'two things: a cube and a ball', but not 'two things: one red and one blue'
    if counted is not None and any(match["noun"] for match in MENTION.finditer(text[counted.end() :])):
        total, text = NUMBERS[counted["number"]], text[counted.end() :]
    found = list(MENTION.finditer(text))
    mentions: list[tuple[int, Said]] = []
    nouns = [match["noun"] for match in found]
    if len(found) > 1 and nouns[0] is not None and nouns[1] is None:  # 'three balls: two red and one blue'
        opening, text = text[: found[0].start()], text[found[0].end() :].lstrip(":, ")
        found = list(MENTION.finditer(text))
        assert {match["noun"] for match in found} == {None}, text
        heading, text = nouns[0], opening + text
        found = list(MENTION.finditer(text))
    else:
        heading = nouns[-1]  # 'a red and a blue ball'
    for match in found:
        said = [MEANING[match["noun"] or heading][1], "", "", ""]
        for word in ADJECTIVE.findall(f"{match['adjectives']} {match['after'] or ''} {match['last'] or ''}"):
            kind, value = MEANING[word]
            assert said[kind] == "", f"said twice: {text}"
            said[kind] = value
        number = 2 if match["number"] in PAIR else NUMBERS.get(match["number"] or "", 1)
        mentions.append((number, (said[0], said[1], said[2], said[3])))
    assert total in (0, sum(number for number, _ in mentions)), text
    between = [text[a.end() : b.start()].strip() for a, b in pairwise(found)]
    before, after = text[: found[0].start()].strip(), text[found[-1].end() :].strip()
    skeleton = f"{before} @" + "".join(f" {words} @" for words in between) + f" {after}"
    for axis, forms in FORMS.items():
        for form in forms:
            pattern = re.escape(re.sub(r"\d", "@", form).replace("@,", "@ ,").strip())
            if match := re.fullmatch(rf"\s*{pattern}(?P<rest>(?: ?,.*| on .*| )?)", skeleton):
                order = [int(digit) for digit in re.findall(r"\d", form)]
                relations = chain([order.index(place) for place in range(len(order))], axis)
                return Reading(mentions, relations, False, rest + match["rest"].lstrip())
    relations: list[tuple[int, int, str]] = []
    listed = 0
    for i, words in enumerate(between):
        bare = re.sub(rf"^(?:{either([*IS, *STANDING])}) (?=.)", "", words)
        of_it = re.sub(r"^(?:and|,) ", "", words)
        if bare in WAYS:
            relations.append(relation(i, i + 1, WAYS[bare]))
        elif of_it in WAYS_OF_IT:
            relations.append(relation(i + 1, i, WAYS_OF_IT[of_it]))
        elif bare in NEXT_TO:
            listed += 1
        elif words in (*IS, "there is"):
            relations.append(relation(1, 0, WAYS[before]))  # 'left of A is B'
        else:
            assert words in (*AND, *(joint.strip() for joint in JOINTS), ", and", "", "has"), f"{words!r} in {text!r}"
            listed += 1
    for words in sorted(WAYS_OF_IT, key=len, reverse=True) if len(found) > 1 else ():
        if re.match(rf"{words}\b(?! of it)", after):
            relations.append(relation(1, 0, WAYS_OF_IT[words]))
            after = after.removeprefix(words).strip()
            break
    row = re.fullmatch(ROW_AFTERWARDS, before) or re.match(ROW, after)
    if row is not None:
        assert listed == len(between), text
        places = list(range(len(found)))
        relations = chain(places[::-1] if "to left" in row[0] else places, "across")
        after = after[row.end() :].strip() if row.string is after else after
    near = any(words.endswith(NEXT_TO) for words in between)
    if (together := re.match(rf"{either([*TOGETHER])}", after)) is not None:
        near, after = True, after[together.end() :].strip()
    return Reading(mentions, relations, near, rest + after)


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
    pairs = [(scene, tell(scene, chooser)) for scene in (*scenes * 8, *[near] * 1000)]
    return [(scene, caption, read(caption.text)) for scene, caption in pairs]


def test_a_caption_is_true_of_its_scene_and_names_every_solid(told: list[tuple[Scene, Told, Reading]]):
    for scene, caption, reading in told:
        assert true_of(reading, scene), (caption.text, scene)


def test_what_is_said_outright_is_all_there_is_to_say():
    for scene in random_scenes(300, 22, held_out=None).describe():
        reading = read(outright(scene))
        assert true_of(reading, scene), outright(scene)
        assert [said for _, said in reading.mentions] == [said_of(solid) for solid in scene.left_to_right()]
        assert TABLES[reading.rest.removeprefix("on ")] == scene.table


def test_what_is_told_as_data_is_what_the_words_say(told: list[tuple[Scene, Told, Reading]]):
    for _, caption, reading in told:
        spoken = [said for count, said in reading.mentions for _ in range(count)]
        if caption.order == "any":
            assert reading.relations == [], caption.text
            assert sorted(map(said_of, caption.solids)) == sorted(spoken), caption.text
        else:
            assert {axis for _, _, axis in reading.relations} == {caption.order}, caption.text
            follows = {i: j for i, j, _ in reading.relations}
            places = list(follows.keys() - follows.values())
            while places[-1] in follows:
                places.append(follows[places[-1]])
            mentions = [reading.mentions[place] for place in places]
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
        if len(scene.solids) == 1:
            (x,) = (solid.x for solid in scene.solids)
            where = {**dict.fromkeys(MIDDLE, abs(x) < 0.4), "on the left": x < -0.8, "on the right": x > 0.8}
            stands = re.search(either([*ALONE, *where]), rest)
            if stands is not None:
                assert where.get(stands[0], True), caption.text
                rest = (rest[: stands.start()] + rest[stands.end() :]).strip()
        said = re.match(rf"on (?P<table>{either([*TABLES])})\b", rest)
        if said is not None:
            assert TABLES[said["table"]] == scene.table, caption.text
            rest = rest[said.end() :]
        for words in ANY_TABLE:
            rest = rest.removeprefix(words)
        lit = re.match(rf", (?P<light>{either([*LIGHT_WORDS.values()])})", rest)
        if lit is not None:
            assert lit["light"] == LIGHT_WORDS[scene.light], caption.text
            rest = rest[lit.end() :]
        assert rest.strip(", ") in ("", *FILLERS), caption.text


def test_near_is_near(told: list[tuple[Scene, Told, Reading]]):
    near = [scene for scene, _, reading in told if reading.near]
    assert len(near) > 10
    for scene in near:
        for a, b in pairwise(scene.left_to_right()):
            assert abs(a.x - b.x) < 1.8
            assert abs(a.y - b.y) < 0.9


def test_every_paraphrase_is_used(told: list[tuple[Scene, Told, Reading]]):
    everything = "\n".join(caption.text.lower() for _, caption, _ in told)
    words = [
        *(word for table in (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, MATERIAL_WORDS) for some in table.values()
          for word in some),
        *(plural(word) for words in SHAPE_WORDS.values() for word in words),
        *(word for words in TABLE_WORDS.values() for word in words),
        *LIGHT_WORDS.values(), *NUMBERS, *COMMON_OPENINGS, *OPENINGS, *FILLERS, *LEFT_OF, *RIGHT_OF, *IN_FRONT_OF,
        *BEHIND, *NEXT_TO, *IS, *AND, *ANY_TABLE, *WAYS_OF_IT, "object", "thing", "solid", "from left to right:",
        "right to left:", "from right to left", "in a row", "the", "that is", "which is", "in red",
        *ONE, *PAIR, *EXACTLY, *ALONE, *MIDDLE, *TOGETHER, *STANDING, *COLOURED, "from left to right,", "has a",
    ]  # fmt: skip
    assert [word for word in words if re.search(rf"(?<!\w){re.escape(word.strip())}(?!\w)", everything) is None] == []
    assert all(ending in everything for ending in (", from left to right", *ENDINGS, *NOTHING_ELSE))
    forms = [re.sub(r"\d", "[^,]+", form) for forms in FORMS.values() for form in forms]
    assert [form for form in forms if re.search(rf"^{form}", everything, re.MULTILINE) is None] == []
    assert [joint for joint in JOINTS if joint not in everything] == []
    apart = ("^two [a-z]+: one ", "^three [a-z]+: (?:two|one) ", "^a [a-z]+ and a [a-z]+ [a-z]+$")
    assert [form for form in apart if re.search(form, everything, re.MULTILINE) is None] == []


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
    words = {word for names in COLOUR_WORDS.values() for word in names}
    coloured = 0
    for scene in random_scenes(300, 8, tinted=1.0).describe():
        told = captions.tell(scene, chooser)
        says = any(re.search(rf"\b{word}\b", told.text.lower()) for word in words)
        assert says == any(solid.colour != "" for solid in told.solids)
        coloured += says
        if all(solid.colour == "" for solid in scene.solids):
            assert not says
    assert coloured > 20


def test_what_is_said_of_a_part_does_not_say_that_it_is_all():
    scene = Scene((Solid("cube", "red"),))
    said = re.compile(either([*ALONE, *NOTHING_ELSE]))
    for whole in (True, False):
        texts = [tell(scene, random.Random(seed), whole=whole).text for seed in range(400)]
        assert any(said.search(text) for text in texts) is whole


def test_one_solid_is_said_with_less_than_another():
    scene = Scene((Solid("cube", "red", x=-1.0), Solid("cone", "blue", x=1.0)))
    told = [tell(scene, random.Random(seed)) for seed in range(600)]
    uneven = [each for each in told if {solid.colour for solid in each.solids} in ({"red", ""}, {"blue", ""})]
    assert len(uneven) > 15
    texts = "\n".join(each.text.lower() for each in uneven)
    assert re.search(r"\bcube [a-z ]+ blue cone\b", texts)
    alike = replace(scene, solids=(Solid("cube", "red", x=-1.0), Solid("cube", "blue", x=1.0)))
    colours = [[solid.colour != "" for solid in tell(alike, random.Random(seed)).solids] for seed in range(300)]
    assert all(len(set(each)) == 1 for each in colours)  # Or nobody could say which of them is the red one.


def test_every_name_has_words():
    for names, words in ((SHAPES, SHAPE_WORDS), (COLOURS, COLOUR_WORDS), (SIZES, SIZE_WORDS)):
        assert tuple(words) == names
        assert all(name in words[name] for name in names)
    assert tuple(MATERIAL_WORDS) == MATERIALS
    tables = (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS, MATERIAL_WORDS)
    flat = [word for table in tables for some in table.values() for word in some]
    assert len(flat) == len(set(flat))


@pytest.mark.parametrize(
    ("first", "second", "order", "attributes", "expected"),
    [
        (Solid("cube", "red", x=1), Solid("cone", "blue", x=-1), "any", ("colour",), True),
        (Solid("cube", "red", x=1), Solid("cone", "blue", x=-1), "any", ("colour", "shape"), False),
        (Solid("cube", "red", x=1), Solid("cube", "blue", x=-1), "any", ("colour",), False),
        (Solid("cube", "red", x=-1), Solid("cube", "blue", x=1), "any", ("colour",), True),
        (Solid("cube", "red", x=1), Solid("cube", "blue", x=-1), "deep", ("colour",), True),
        (Solid("cube", "red", x=1), Solid("cube", "red", x=-1), "any", ("colour", "shape"), True),
        (Solid("cube", "red", "small", x=1), Solid("cube", "blue", "large", x=-1), "any", ("colour",), True),
        (Solid("cube", "", x=-1), Solid("cone", "blue", x=1), "any", ("colour",), False),
        (Solid("", "red", x=-1), Solid("cone", "blue", x=1), "any", ("colour",), True),
        (Solid("", "red", x=-1), Solid("cone", "blue", x=1), "any", ("colour", "shape"), False),
    ],
)
def test_whether_a_caption_tells_which_has_what(
    first: Solid, second: Solid, order: str, attributes: tuple[str, ...], expected: bool
):
    assert Told("", (first, second), order).tells(attributes) is expected
    assert not NOTHING.tells(attributes)


def test_what_is_told_clearly_is_told_of_every_solid():
    chooser, tinted = random.Random(4), 0
    scenes = [*random_scenes(300, 31).describe(), *random_scenes(100, 32, tinted=1.0).describe()]
    seen: list[Told] = []
    for scene in scenes:
        told = tell_clearly(scene, chooser)
        if all(solid.colour for solid in scene.solids):
            seen.append(told)
        else:
            assert len(told.solids) == len(scene.solids)
            assert true_of(read(told.text), scene)
            tinted += 1
    assert tinted > 20
    clear = [told for told in seen if told.tells(("colour",)) and all(solid.shape for solid in told.solids)]
    assert len(clear) > 0.97 * len(seen)
    by_chance = [tell(scene, chooser) for scene in scenes[:300] for _ in range(10)]

    def backward(captions: list[Told]) -> float:
        return sum("right to left" in told.text.lower() for told in captions) / len(captions)

    assert backward(clear) > 2 * backward(by_chance) > 0
    scene = scenes[0]
    assert tell_clearly(scene, random.Random(1)) == tell_clearly(scene, random.Random(1))
