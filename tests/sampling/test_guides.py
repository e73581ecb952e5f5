"""What a request may ask for to steer by: how it is written, refused, and what it costs."""

from __future__ import annotations

from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzotint.noise import draw_noise
from mezzotint.sampling import ClassifierFree, Query
from mezzotint.sampling.guides import GUIDES, Choice, chosen, guided, needs
from mezzotint.types import UserError

V = "v_prediction"
SHAPE = (1, 4, 6, 6)
ASKS_FOR_MORE = {"pag": "pag:0", "auto": "auto:m:1"}
"""The guides that steer even where plain guidance is off, at the value at which they do not."""


def text(name: str) -> str:
    return f"{name}:other/model" if GUIDES[name].model else name


def makes_sense(names: tuple[str, ...]) -> bool:
    try:
        chosen([text(name) for name in names])
    except UserError:
        return False
    return True


COMBINATIONS = [names for count in (1, 2) for names in permutations(GUIDES, count) if makes_sense(names)]


def at(sigma: float) -> Query:
    return Query((1 + sigma) * draw_noise([77], SHAPE[1:]), sigma, 0, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apg", Choice("apg", (0.0, 15.0, -0.5))),
        ("apg:0.5", Choice("apg", (0.5, 15.0, -0.5))),
        (" apg:0:7:-0.75 ", Choice("apg", (0.0, 7.0, -0.75))),
        ("plain", Choice("plain")),
        ("cfg++", Choice("cfg++", (0.6,))),
        ("interval:0.3:5", Choice("interval", (0.3, 5.0))),
        ("rescale:0", Choice("rescale", (0.0,))),
        ("threshold:1", Choice("threshold", (1.0,))),
        ("pag:3", Choice("pag", (3.0,))),
        ("auto:weak", Choice("auto", (2.0,), "weak")),
        ("auto:weak:1.5", Choice("auto", (1.5,), "weak")),
        ("auto:owner/name:1.5", Choice("auto", (1.5,), "owner/name")),
        ("auto:C:\\models\\weak", Choice("auto", (2.0,), "C:\\models\\weak")),
        ("auto:C:/weak.safetensors:3", Choice("auto", (3.0,), "C:/weak.safetensors")),
        ("auto:2:3", Choice("auto", (3.0,), "2")),
    ],
)
def test_what_is_written_is_understood(text, expected):
    assert Choice.parse(text) == expected
    assert Choice.parse(str(expected)) == expected


def test_plain_is_no_guide():
    assert guided(["plain"], 5.0, prediction=V) == guided([], 5.0, prediction=V)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["sharpen"], 'no guide "sharpen": choose one of plain, apg, cfg'),
        (["APG"], 'no guide "APG"'),
        ([":3"], 'no guide ""'),
        (["apg:much"], 'apg has "much" for a number: write apg:ETA:THRESHOLD:MOMENTUM with eta from 0 to 1, thresh'),
        (["pag:"], 'pag has "" for a number: write pag:SCALE'),
        (["pag:nan"], 'pag has "nan"'),
        (["pag:inf"], 'pag has "inf"'),
        (["pag:3:4"], "pag has 2 values"),
        (["plain:3"], "plain has 1 value: write plain."),
        (["interval", "plain"], "plain makes no sense with interval"),
        (["pag:-1"], "The scale of the guide pag is -1; it must be from 0 to 100."),
        (["rescale:1.5"], "The share of the guide rescale is 1.5; it must be from 0 to 1."),
        (["threshold:0.2"], "from 0.5 to 1"),
        (["cfg++:6"], "The strength of the guide cfg++ is 6; it must be from 0 to 1."),
        (["interval:5:0.3"], "The low and high of the guide interval are 5 and 0.3; low must be less than high."),
        (["interval:2:2"], "low must be less than high"),
        (["interval:6"], "low must be less than high"),
        (["auto"], "auto names no model: write auto:MODEL:SCALE"),
        (["auto:3"], "auto names no model"),
        (["auto::3"], "auto names no model"),
        (["auto:m:101"], "it must be from 0 to 100"),
        (["pag", "rescale", "pag:2"], "The guide pag is named twice"),
        (["apg", "cfg++"], "The guides apg and cfg++ both take the place of plain guidance"),
        (["cfg++", "rescale", "threshold"], "cfg++ makes no sense with rescale and threshold"),
        (["pag", "apg"], "The guide apg takes the place of plain guidance: name it before pag."),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(texts, said):
    with pytest.raises(UserError) as error:
        guided(texts, 5.0, prediction=V)
    message = str(error.value)
    assert said in message
    assert message.endswith(".")
    assert "\n" not in message
    with pytest.raises(UserError):
        needs(texts)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.builds(
            ":".join,
            st.lists(
                st.one_of(
                    st.sampled_from([*GUIDES, "", "nan", "-inf", "1e999", "0x1", "1_0", "م", "٣", "0.7", "-0.5"]),
                    st.floats(-10, 10).map(repr),
                    st.text("ab:/\\ .1", max_size=6),
                ),
                max_size=5,
            ),
        ),
    )
)
def test_any_text_is_understood_or_refused(text):
    try:
        choice = Choice.parse(text)
    except UserError:
        return
    assert Choice.parse(str(choice)) == choice
    assert len(choice.values) == len(GUIDES[choice.name].parameters)


@given(st.data())
def test_every_choice_is_written_so_that_it_is_read_again(data):
    name = data.draw(st.sampled_from(list(GUIDES)))
    guide = GUIDES[name]
    values = [data.draw(st.floats(one.low, one.high)) for one in guide.parameters]
    model = data.draw(st.text("ab1:/\\.", min_size=1)) if guide.model else ""
    if guide.ascending and values[0] >= values[1]:
        return
    choice = Choice(name, tuple(values), model)
    assert Choice.parse(str(choice)) == choice


def test_every_default_is_valid():
    for name, guide in GUIDES.items():
        assert all(one.low <= one.default <= one.high for one in guide.parameters)
        assert Choice.parse(text(name)).values == tuple(one.default for one in guide.parameters)


def test_no_guide_is_plain_guidance():
    assert guided((), 5.0, (1.0, 0.5), prediction=V) == ClassifierFree(5.0, (1.0, 0.5))


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_guidance_that_is_off_costs_one_row(names, scale):
    texts = [ASKS_FOR_MORE.get(name, name) for name in names]
    guidance = guided(texts, scale, prediction=V)
    row = "cond" if scale == 1.0 else "uncond"
    (estimate,) = draw_noise([1], SHAPE[1:]).split(1)
    for sigma in (0.1, 1.0, 100.0):
        assert guidance.rows(sigma) == (row,)
        assert torch.equal(guidance.combine({row: estimate}, at(sigma)), estimate)


@pytest.mark.parametrize("names", [names for names in COMBINATIONS if names[-1] == "interval"], ids="+".join)
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("spatial", [1.0, 2.0])
def test_outside_an_interval_around_everything_one_row_is_asked_for(names, scale, spatial):
    guidance = guided([text(name) for name in names], scale, prediction=V, spatial=spatial)
    assert guidance.rows(0.2) == guidance.rows(6.0) == (("uncond",) if scale == 0.0 else ("cond",))


@pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
def test_every_combination_answers_from_the_rows_that_it_asked_for(names):
    """Also with several prompts, at scales above and below 1."""
    for scale, weights in ((5.0, (1.0,)), (0.5, (1.0, 0.7)), (1.0, (0.5, 0.5)), (0.0, (1.0, 1.0))):
        for sigma, spatial in product((4096.0, 3.0, 0.1), (1.0, 2.0)):
            guidance = guided([text(name) for name in names], scale, weights, prediction=V, spatial=spatial)
            rows = guidance.rows(sigma)
            assert len(set(rows)) == len(rows) >= 1
            estimates = dict(zip(rows, draw_noise(range(len(rows)), SHAPE[1:]).split(1), strict=True))
            combined = guidance.combine(estimates, at(sigma))
            assert combined.shape == SHAPE
            assert combined.isfinite().all()


@pytest.mark.parametrize("texts", [[], ["plain"], ["apg"], ["cfg++", "interval:0.3:1000"]])
def test_the_scale_of_what_lies_beside_the_latent_goes_with_that_of_the_words(texts):
    uncond, cond, blank = draw_noise([1, 2, 3], SHAPE[1:]).split(1)
    estimates = {"uncond": uncond, "cond": cond, "blank": blank}
    words = guided(texts, 5.0, prediction=V).combine(estimates, at(3.0))
    both = guided(texts, 5.0, prediction=V, spatial=2.5).combine(estimates, at(3.0))
    torch.testing.assert_close(both, words + 1.5 * (uncond - blank))


def test_guides_are_put_on_from_the_inside_out():
    inside = guided(["interval:0.3:5", "pag"], 5.0, prediction=V)
    assert inside.rows(100.0) == ("cond", "perturbed")
    assert guided(["pag", "interval:0.3:5"], 5.0, prediction=V).rows(100.0) == ("cond",)


def test_every_picture_has_a_guidance_of_its_own():
    one, other = (guided(["apg", "interval:0:1000"], 5.0, prediction=V) for _ in range(2))
    estimates = dict(zip(("uncond", "cond"), draw_noise([1, 2], SHAPE[1:]).split(1), strict=True))
    first = one.combine(estimates, at(1.0))
    assert not torch.equal(one.combine(estimates, at(1.0)), first)
    assert torch.equal(other.combine(estimates, at(1.0)), first)


def test_the_networks_that_are_needed_are_told():
    assert needs([]) == needs(["apg", "interval"]) == (False, None)
    assert needs(["pag"]) == (True, None)
    assert needs(["auto:owner/weak:3", "pag:2"]) == (True, "owner/weak")
    assert needs(["auto:owner/weak:1", "pag:0"]) == (False, None)
