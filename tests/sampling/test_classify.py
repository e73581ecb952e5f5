"""Classifier guidance: exact where the classifier is, finite at every sigma, and only where it is asked for."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mezzotint.denoise.classifier import Classifier, init_for_training
from mezzotint.denoise.classifier_config import ClassifierConfig, Target
from mezzotint.noise import draw_noise
from mezzotint.noise.schedule import FAR
from mezzotint.sampling import ClassifierFree, Query
from mezzotint.sampling.classify import LIMIT, SCALE, Classify, guided, parse
from mezzotint.types import UserError

WANTED = Target(0, 0, 1)
SEEN, SPREAD = 0.7, 0.5
CPU = torch.device("cpu")


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The log p of having seen SEEN, of deviation SPREAD, in x0 of unit variance, given x = x0 + sigma n, as c_in x.

    x0 given x is Gaussian with mean x / (1 + sigma^2) and variance sigma^2 / (1 + sigma^2).
    """
    total = 1 + sigma.double() ** 2
    mean, variance = x.double() / total.sqrt(), SPREAD**2 + sigma.double() ** 2 / total
    likelihood = -((mean - SEEN) ** 2).flatten(1).sum(dim=1) / (2 * variance)
    return torch.stack([torch.zeros_like(likelihood), likelihood], dim=1)[:, None, None]


def posterior_mean(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x, seen]: precisions add up."""
    precision = 1 + 1 / sigma**2 + 1 / SPREAD**2
    return (x / sigma**2 + SEEN / SPREAD**2) / precision


def unguided(x: Tensor, sigma: float) -> dict[str, Tensor]:
    return {"cond": x / (1 + sigma**2)}


@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0, 4096.0])
def test_a_gaussian_s_guided_estimate_is_that_of_the_conditional_gaussian(sigma: float):
    """At scale 1 the step is Tweedie's: exact but for fp32, whose step is rounded to some 1e-7 of x0."""
    x = sigma * draw_noise([3], (1, 2, 3, 3))[0] + 0.4
    guidance = Classify(ClassifierFree(1.0), gaussian, ((WANTED, 1.0),), limit=math.inf)
    estimate = guidance.combine(unguided(x, sigma), Query(x, sigma, 0, 0.5))
    torch.testing.assert_close(estimate, posterior_mean(x, sigma), rtol=1e-4, atol=1e-5)


def test_a_guided_walk_ends_in_the_conditional_gaussian():
    """Euler with 200 steps from a sigma of 80: its error in mean and deviation is below 2%, chance's below 3%."""
    guidance = Classify(ClassifierFree(1.0), gaussian, ((WANTED, 1.0),))
    sigmas = [*torch.logspace(math.log10(80.0), -2, 200).tolist(), 0.0]
    x = 80.0 * draw_noise([1], (1, 4, 40, 40))[0]
    with torch.inference_mode():
        for step, (sigma, below) in enumerate(pairwise(sigmas)):
            x0 = guidance.combine(unguided(x, sigma), Query(x, sigma, step, below / sigma))
            x = x0 + below / sigma * (x - x0)
    precision = 1 + 1 / SPREAD**2
    assert float(x.mean()) == pytest.approx(SEEN / SPREAD**2 / precision, abs=0.03)
    assert float(x.std()) == pytest.approx(precision**-0.5, rel=0.05)


CONFIG = ClassifierConfig(
    widths=(8, 16), blocks=(1, 2), heads=2, norm_num_groups=4,
    shapes=(("sphere", "ball"), ("torus",)), colours=(("red",), ("blue", "royal blue")),
)  # fmt: skip


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Of random weights, none of them zero, that see something of everything."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier(CONFIG)
        init_for_training(network, torch.full((3, 3, 4), -2.0))
        for parameter in network.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return network.requires_grad_(False)


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6, 4096.0, FAR])
def test_the_step_is_finite_at_every_sigma(classifier: Classifier, sigma: float):
    """As large at the terminal sigma as at 14.6, not 280 times: what is clipped here is nothing."""
    guidance = Classify(ClassifierFree(1.0), classifier, ((Target(1, 1), 1.0),), limit=math.inf)
    x = math.hypot(1.0, sigma) * draw_noise([2], (1, 4, 8, 8))[0]
    nothing = {"cond": torch.zeros_like(x)}
    step = guidance.combine(nothing, Query(x, sigma, 0, 0.5))
    assert 0 < float(step.abs().max()) < 10


def test_the_step_goes_uphill_and_a_negative_scale_downhill(classifier: Classifier):
    target, sigma = Target(1, 2), 1.0
    x = draw_noise([5], (1, 4, 8, 8))[0]

    def log_p(x: Tensor) -> float:
        answers = classifier(x / math.sqrt(2), torch.tensor([sigma]))
        return float(answers[0, target.shape, target.colour, 1:].logsumexp(0))

    for scale in (0.01, -0.01):
        guidance = Classify(ClassifierFree(1.0), classifier, ((target, scale),))
        moved = guidance.combine({"cond": x}, Query(x, sigma, 0, 0.5))
        assert (log_p(moved) - log_p(x)) * scale > 0


def test_no_step_is_longer_than_its_limit(classifier: Classifier):
    x, sigma = draw_noise([2], (1, 4, 8, 8))[0], 2.0
    guidance = Classify(ClassifierFree(1.0), classifier, ((Target(1, 1), 1e6),))
    step = guidance.combine({"cond": torch.zeros_like(x)}, Query(x, sigma, 0, 0.5))
    assert float(step.square().mean().sqrt()) == pytest.approx(LIMIT * sigma / math.hypot(1, sigma), rel=1e-4)


def test_it_is_asked_in_inference_mode_and_leaves_what_it_was_given(classifier: Classifier):
    with torch.inference_mode():
        x = draw_noise([2], (1, 4, 8, 8))[0] * 3
        before = x.clone()
        guidance = guided(ClassifierFree(1.0), lambda _device: classifier, ["red sphere:2", "no torus"], CPU)
        assert guidance.rows(3.0) == ("cond",)
        estimate = guidance.combine({"cond": x}, Query(x, 3.0, 0, 0.5))
        assert torch.equal(x, before)
        assert estimate.shape == x.shape
        assert not torch.equal(estimate, x)
        assert not estimate.requires_grad
        assert torch.equal(estimate, guidance.combine({"cond": x}, Query(x, 3.0, 0, 0.5)))


def test_targets_add_up(classifier: Classifier):
    x, sigma = draw_noise([2], (1, 4, 8, 8))[0], 2.0
    one, other = ((Target(1, 0), 0.5), (Target(0, 2, 2), 0.25))

    def step(*targets: tuple[Target, float]) -> Tensor:
        return Classify(ClassifierFree(1.0), classifier, targets).combine({"cond": 0 * x}, Query(x, sigma, 0, 0.5))

    torch.testing.assert_close(step(one, other), step(one) + step(other), rtol=1e-4, atol=1e-6)


def test_what_is_not_asked_for_costs_nothing():
    inner = ClassifierFree(3.0)
    assert guided(inner, None, [], CPU) is inner


def test_a_model_without_one_says_so():
    with pytest.raises(UserError, match=r"no classifier to look for 'red sphere'.*train classifier"):
        guided(ClassifierFree(3.0), None, ["red sphere:2"], CPU)


@pytest.mark.parametrize(
    ("text", "words", "scale"),
    [
        ("red sphere:3.5", "red sphere", 3.5),
        ("red sphere", "red sphere", SCALE),
        (" two  cubes :-1", "two cubes", -1.0),
    ],
)
def test_a_target_is_words_and_a_scale(text: str, words: str, scale: float):
    assert parse(text) == (words, scale)


@pytest.mark.parametrize("text", ["", ":3", "red sphere:", "red:sphere", "red:nan", "red:inf", "red:1000"])
def test_a_target_that_is_none(text: str):
    with pytest.raises(UserError, match="WORDS:SCALE"):
        parse(text)
