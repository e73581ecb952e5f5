"""The classifier: what it can be asked, by which words, and what it answers before and without knowledge."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from mezzotint.denoise.classifier import Classifier, init_for_training, log_likelihood
from mezzotint.denoise.classifier_config import ClassifierConfig, Target
from mezzotint.training.recipes import RECIPES, recipe_named
from mezzotint.training.settings import STILL_LIFE
from mezzotint.types import UserError
from mezzotint.world.scene import COLOURS, SHAPES
from mezzotint.world.style import plural

CONFIG = ClassifierConfig(
    widths=(8, 16), blocks=(1, 2), heads=2, norm_num_groups=4, shapes=STILL_LIFE.shapes, colours=STILL_LIFE.colours
)
PRIOR = torch.linspace(-3, 1, 7 * 11 * 4).view(7, 11, 4)


@pytest.fixture
def fresh() -> Classifier:
    classifier = Classifier(CONFIG)
    init_for_training(classifier, PRIOR)
    return classifier


def test_before_training_it_answers_by_the_prior(fresh: Classifier):
    answers = fresh(torch.randn(2, 4, 8, 8), torch.tensor([0.1, 30.0]))
    expected = torch.cat([torch.zeros(7, 11, 1), PRIOR], dim=2).log_softmax(dim=2)
    torch.testing.assert_close(answers, expected.expand(2, -1, -1, -1))


def test_where_x_is_noise_it_answers_by_the_prior_whatever_it_learned(fresh: Classifier):
    """The evidence has a weight of 1 / 4096 there, and here it is of the order of 10."""
    for parameter in fresh.requires_grad_(False).parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 4, 8, 8)
    near, far = fresh(x, torch.tensor([1.0])), fresh(x, torch.tensor([4096.0]))
    expected = torch.cat([torch.zeros(7, 11, 1), PRIOR], dim=2).log_softmax(dim=2)
    assert float((far[0] - expected).abs().max()) < 0.05
    assert float((near[0] - expected).abs().max()) > 0.5


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (16, 16)])
def test_any_size_will_do(fresh: Classifier, size: tuple[int, int]):
    answers = fresh(torch.randn(1, 4, *size), torch.ones(1))
    torch.testing.assert_close(answers.exp().sum(dim=-1), torch.ones(1, 7, 11))


def test_present_is_any_number_but_none(fresh: Classifier):
    answers = fresh(torch.randn(1, 4, 4, 4), torch.ones(1))
    present = log_likelihood(answers, Target(1, 2)).exp()
    torch.testing.assert_close(present, 1 - log_likelihood(answers, Target(1, 2, 0)).exp())
    several = sum(log_likelihood(answers, Target(1, 2, number)).exp() for number in range(1, 5))
    torch.testing.assert_close(present, several)


@pytest.mark.parametrize(
    ("words", "target"),
    [
        ("red sphere", Target(1, 1)),
        ("a Red  Ball", Target(1, 1)),
        ("spheres", Target(1, 0)),
        ("red", Target(0, 1)),
        ("an orange solid", Target(0, 2)),
        ("royal blue donuts", Target(5, 6)),
        ("two red spheres", Target(1, 1, 2)),
        ("no boxes", Target(2, 0, 0)),
        ("3 tori", Target(5, 0, 3)),
        ("four things", Target(0, 0, 4)),
        ("one object", Target(0, 0, 1)),
    ],
)
def test_words(words: str, target: Target):
    assert STILL_LIFE.target(words) == target


def test_every_word_of_the_world_is_known():
    for place, (shape, words) in enumerate(zip(SHAPES, STILL_LIFE.shapes, strict=True)):
        assert words[0] == shape
        for word in words:
            assert STILL_LIFE.target(word) == STILL_LIFE.target(plural(word)) == Target(place + 1, 0)
    for place, (colour, words) in enumerate(zip(COLOURS, STILL_LIFE.colours, strict=True)):
        assert words[0] == colour
        assert all(STILL_LIFE.target(f"{word} cube") == Target(2, place + 1) for word in words)


@pytest.mark.parametrize(
    "words", ["", "two", "a", "mauve cube", "red cube sphere", "cube red", "big cube", "five cubes"]
)
def test_words_that_it_does_not_know(words: str):
    with pytest.raises(UserError, match=r"red, orange.*sphere, cube"):
        STILL_LIFE.target(words)


def test_it_counts_only_so_far():
    with pytest.raises(UserError, match="counts to 2"):
        replace(CONFIG, most=2).target("three cubes")


def test_a_config_is_json():
    assert ClassifierConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


@pytest.mark.parametrize(
    "change",
    [
        {"widths": (8,)}, {"blocks": (0, 1)}, {"widths": (8, 18)}, {"heads": 0}, {"most": 9}, {"shapes": (("a", "a"),)},
        {"colours": ((),)}, {"in_channels": 0},
    ],
)  # fmt: skip
def test_a_config_that_cannot_be(change: dict[str, Any]):
    with pytest.raises(UserError, match="classifier"):
        replace(CONFIG, **change)


def test_another_s_config_is_not_read():
    with pytest.raises(UserError, match="ResNet"):
        ClassifierConfig.from_dict({"_class_name": "ResNet"})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_s_classifier_is_small(name: str):
    network = recipe_named(name).classifier.network
    with torch.device("meta"):
        classifier = Classifier(network)
    assert sum(parameter.numel() for parameter in classifier.parameters()) < 1_500_000
