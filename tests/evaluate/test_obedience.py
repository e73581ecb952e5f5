"""What counts as obeyed, how sure a share is, and what is asked for."""

from __future__ import annotations

import random
import re
from itertools import permutations

import pytest
import torch

from mezzotint.evaluate.judge import Found
from mezzotint.evaluate.obedience import APART, GENEVAL, obeys, overall
from mezzotint.evaluate.prompts import CATEGORIES, Task, Wanted, tasks
from mezzotint.world.scene import COLOURS, HELD_OUT_PAIRS, SHAPES, Solid, is_held_out


def found(shape: str, colour: str, x: float = 0.5, y: float = 0.5) -> Found:
    return Found(shape, colour, "large", x, y, 0.9)


CUBE, BALL = found("cube", "red", 0.2, 0.4), found("sphere", "blue", 0.7, 0.6)
RED_CUBE, BLUE_BALL, A_BALL = Wanted("cube", "red"), Wanted("sphere", "blue"), Wanted("sphere")


@pytest.mark.parametrize(
    ("wanted", "order", "there", "obeyed"),
    [
        ((RED_CUBE,), "any", (CUBE,), True),
        ((RED_CUBE,), "any", (), False),  # missing
        ((RED_CUBE,), "any", (CUBE, BALL), False),  # one too many
        ((RED_CUBE,), "any", (found("cube", "blue"),), False),  # wrong colour
        ((RED_CUBE,), "any", (found("cone", "red"),), False),  # wrong shape
        ((A_BALL,), "any", (BALL,), True),  # any colour
        ((RED_CUBE, BLUE_BALL), "any", (CUBE, BALL), True),
        ((BLUE_BALL, RED_CUBE), "any", (CUBE, BALL), True),  # order is nobody's business
        ((RED_CUBE, BLUE_BALL), "any", (found("cube", "blue"), found("sphere", "red")), False),  # colours exchanged
        ((RED_CUBE, BLUE_BALL), "any", (CUBE, CUBE), False),
        ((RED_CUBE, RED_CUBE), "any", (CUBE, CUBE), True),
        ((RED_CUBE, RED_CUBE), "any", (CUBE,), False),
        ((RED_CUBE, RED_CUBE), "any", (CUBE, CUBE, CUBE), False),
        ((RED_CUBE, BLUE_BALL), "across", (CUBE, BALL), True),
        ((RED_CUBE, BLUE_BALL), "across", (BALL, CUBE), True),  # however the judge lists them
        ((BLUE_BALL, RED_CUBE), "across", (CUBE, BALL), False),  # sides exchanged
        ((RED_CUBE, BLUE_BALL), "across", (found("cube", "red", 0.5), found("sphere", "blue", 0.5 + APART / 2)), False),
        ((BLUE_BALL, RED_CUBE), "deep", (CUBE, BALL), True),  # the nearer is lower
        ((RED_CUBE, BLUE_BALL), "deep", (CUBE, BALL), False),
        # One of any colour and one blue: the blue one must be where the blue one is wanted.
        ((A_BALL, BLUE_BALL), "across", (found("sphere", "red", 0.1), found("sphere", "blue", 0.9)), True),
        ((BLUE_BALL, A_BALL), "across", (found("sphere", "red", 0.1), found("sphere", "blue", 0.9)), False),
    ],
)
def test_obeys(wanted: tuple[Wanted, ...], order: str, there: tuple[Found, ...], obeyed: bool):
    assert obeys(wanted, there, order) is obeyed


def test_it_does_not_matter_how_the_judge_lists_them():
    wanted = (Wanted("cube", "red"), Wanted("cone"), Wanted("torus", "pink"), Wanted("cone", "blue"))
    there = [
        found("cube", "red", 0.1),
        found("cone", "white", 0.3),
        found("torus", "pink", 0.5),
        found("cone", "blue", 0.8),
    ]
    for order in permutations(there):
        assert obeys(wanted, order, "across")
        assert not obeys(wanted[::-1], order, "across")


def test_the_overall_score_is_the_mean_of_geneval_s():
    scores = {name: {"score": 0.9} for name in GENEVAL} | {"held_out": {"score": 0.0}, "colors": {"score": 0.3}}
    assert overall(scores) == pytest.approx(0.8)
    assert overall({"held_out": {"score": 0.5}}) is None
    assert overall({"counting": {"score": 0.5}}) == 0.5


def pairs(task: Task) -> list[tuple[str, str]]:
    return [(wanted.shape, wanted.colour) for wanted in task.wanted]


def solids(task: Task) -> tuple[Solid, ...]:
    return tuple(Solid(shape, colour) for shape, colour in pairs(task))


def coloured(task: Task) -> bool:
    return all(wanted.colour != "" for wanted in task.wanted)


@pytest.fixture(scope="module")
def asked() -> dict[str, list[Task]]:
    return {name: tasks(name, 150, 1) for name in CATEGORIES}


@pytest.mark.parametrize("category", CATEGORIES)
def test_tasks_are_a_pure_function_of_their_arguments(category: str):
    random.seed(3)
    state = random.getstate()
    once = tasks(category, 40, 7)
    assert len(once) == 40
    assert random.getstate() == state
    assert tasks(category, 40, 7) == once
    assert tasks(category, 10, 7) == once[:10]
    assert tasks(category, 40, 8) != once


def test_an_unknown_category():
    with pytest.raises(KeyError):
        tasks("singing", 1, 0)


def test_the_categories_are_geneval_s_and_ours():
    assert set(CATEGORIES) == {*GENEVAL, "held_out", "three_in_order", "reworded", "groups"}


@pytest.mark.parametrize("category", CATEGORIES)
def test_prompts_say_what_is_wanted(asked: dict[str, list[Task]], category: str):
    for task in asked[category]:
        prompt = task.prompt.removeprefix("a photo of ").replace("tori", "torus").replace("boxes", "box")
        colours, numbers = "|".join(COLOURS), {"two": 2, "three": 3, "four": 4}
        words = re.findall(
            rf"(?:({'|'.join(numbers)}) )?(?:({colours}) )?\b({'|'.join(SHAPES)})s?\b(?: that is ({colours}))?", prompt
        )
        spoken: list[Wanted] = []
        for number, before, shape, after in words:
            spoken += [Wanted(shape, before + after)] * numbers.get(number, 1)
        if re.search(r"right of|behind|to its left|right to left|in front of it", prompt):
            spoken.reverse()
        assert tuple(spoken) == task.wanted, task
        order = "across" if re.search(r"\b(left|right)\b", prompt) else "any"
        assert task.order == ("deep" if re.search(r"in front of|behind|foreground", prompt) else order)


@pytest.mark.parametrize("category", ["color_attr", "three_in_order", "reworded"])
def test_combinations_were_never_trained_though_their_pairs_were(asked: dict[str, list[Task]], category: str):
    for task in asked[category]:
        assert is_held_out(solids(task))
        assert not set(pairs(task)) & HELD_OUT_PAIRS
        assert len({wanted.shape for wanted in task.wanted}) == len({wanted.colour for wanted in task.wanted})
        assert len(task.wanted) == (3 if category == "three_in_order" else 2)


def test_whatever_tells_colours_of_several_was_never_trained(asked: dict[str, list[Task]]):
    for category in ("position", "counting", "held_out", "groups"):
        told = [task for task in asked[category] if len(task.wanted) > 1 and coloured(task)]
        assert len(told) > 20
        assert all(is_held_out(solids(task)) for task in told)


def test_pairs_held_out_are_asked_for_in_their_own_category_alone(asked: dict[str, list[Task]]):
    for category, some in asked.items():
        has = [bool(set(pairs(task)) & HELD_OUT_PAIRS) for task in some]
        assert all(has) if category == "held_out" else not any(has)
    assert {pair for task in asked["held_out"] for pair in pairs(task)} >= HELD_OUT_PAIRS


def test_every_shape_colour_count_and_relation_is_asked_for(asked: dict[str, list[Task]]):
    assert {wanted.shape for task in asked["single_object"] for wanted in task.wanted} == set(SHAPES)
    assert {wanted.colour for task in asked["colors"] for wanted in task.wanted} == set(COLOURS)
    assert {len(task.wanted) for task in asked["counting"]} == {1, 2, 3, 4}
    assert {task.order for task in asked["position"]} == {"across", "deep"}
    assert {task.order for task in asked["reworded"]} == {"any", "across", "deep"}
    assert {len(task.wanted) for task in asked["groups"]} == {3, 4}
    assert all(len(set(task.wanted)) == 2 for task in asked["groups"])
    assert all(a.shape != b.shape for category in ("two_object", "position") for a, b in
               (task.wanted for task in asked[category]))  # fmt: skip


def test_reconstruction_is_measured_on_held_out_scenes():
    """An autoencoder that gives grey for everything: the ratio is that of the scenes against grey."""
    from mezzotint.evaluate.reconstruction import reconstruction
    from mezzotint.vae.autoencoder import Autoencoder
    from mezzotint.vae.codec import Codec, from_uint8, to_uint8
    from mezzotint.vae.config import AutoencoderConfig
    from mezzotint.world.render import render
    from mezzotint.world.scene import random_scenes

    autoencoder = Autoencoder(AutoencoderConfig.of_widths(8, 8, norm_num_groups=4)).eval()
    for tensor in (autoencoder.decoder.conv_out.weight, autoencoder.decoder.conv_out.bias):
        torch.nn.init.zeros_(tensor)
    measured = reconstruction(Codec(autoencoder), 32, n=5, seed=3)
    truth = from_uint8(to_uint8(render(random_scenes(5, 770_003, held_out=True), 32).pixels))
    grey = from_uint8(to_uint8(torch.zeros_like(truth)))
    ratios = 10 * torch.log10(4 / (truth - grey).square().flatten(1).mean(dim=1))
    assert measured["psnr"] == pytest.approx(float(ratios.mean()), abs=0.01)
    assert measured["low"] < measured["psnr"] < measured["high"]
