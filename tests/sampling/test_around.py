"""Guidance around guidance: limits, closed forms, and what is asked for."""

from __future__ import annotations

import pytest
import torch

from mezzotint.noise import Prediction, draw_noise, scalings
from mezzotint.sampling import ClassifierFree, Query
from mezzotint.sampling.around import AwayFrom, Interval, Rescale, Threshold, TowardsSpatial

SHAPE = (1, 4, 6, 6)
# A few fp64 operations.
EXACT = {"rtol": 1e-10, "atol": 1e-10}
BASE = ClassifierFree(6.0)
PLAIN = BASE.unguided


def rows(*names: str) -> dict[str, torch.Tensor]:
    return dict(zip(names, draw_noise(range(len(names)), SHAPE[1:]).double().split(1), strict=True))


def at(sigma: float) -> Query:
    return Query((1 + sigma) * draw_noise([77], SHAPE[1:]).double(), sigma, 0, 0.5)


# --- the interval


def test_an_interval_over_everything_is_what_it_holds():
    guidance = Interval(BASE, PLAIN, 0.0, 1e6)
    estimates = rows("uncond", "cond")
    for sigma in (1e-3, 1.0, 4096.0):
        assert guidance.rows(sigma) == BASE.rows(sigma)
        assert torch.equal(guidance.combine(estimates, at(sigma)), BASE.combine(estimates, at(sigma)))


@pytest.mark.parametrize(("sigma", "inside"), [(0.3, False), (0.300001, True), (5.0, True), (5.000001, False)])
def test_the_lower_end_is_outside_and_the_upper_inside(sigma, inside):
    guidance = Interval(BASE, PLAIN, 0.3, 5.0)
    assert guidance.rows(sigma) == (("uncond", "cond") if inside else ("cond",))
    estimates = rows(*guidance.rows(sigma))
    expected = BASE.combine(estimates, at(sigma)) if inside else estimates["cond"]
    assert torch.equal(guidance.combine(estimates, at(sigma)), expected)


def test_outside_the_negative_prompt_stays_alone_at_scale_zero():
    base = ClassifierFree(0.0)
    assert Interval(base, base.unguided, 0.3, 5.0).rows(100.0) == ("uncond",)


# --- rescale


def output(prediction: Prediction, x0: torch.Tensor, query: Query) -> torch.Tensor:
    """What the network said where the estimate is x0."""
    c_skip, c_out, _ = scalings(prediction, query.sigma)
    return (x0 - c_skip * query.x) / c_out


@pytest.mark.parametrize("prediction", list(Prediction))
@pytest.mark.parametrize("sigma", [0.05, 1.0, 40.0])
def test_rescale_gives_the_networks_output_the_plain_deviation(prediction, sigma):
    estimates, query = rows("uncond", "cond"), at(sigma)
    guidance = Rescale(BASE, PLAIN, 1.0, prediction)
    guided = output(prediction, BASE.combine(estimates, query), query)
    plain = output(prediction, estimates["cond"], query)
    actual = output(prediction, guidance.combine(estimates, query), query)
    # Going back to the output divides by c_out, which loses a few digits.
    torch.testing.assert_close(actual.std(), plain.std(), rtol=1e-8, atol=0)
    torch.testing.assert_close(actual / actual.std(), guided / guided.std(), rtol=1e-8, atol=1e-8)


def test_rescale_by_nothing_is_what_it_holds():
    estimates, query = rows("uncond", "cond"), at(2.0)
    guided = Rescale(BASE, PLAIN, 0.0, "v_prediction").combine(estimates, query)
    assert torch.equal(guided, BASE.combine(estimates, query))


def test_rescale_mixes_in_proportion():
    estimates, query = rows("uncond", "cond"), at(2.0)
    none, half, full = (
        Rescale(BASE, PLAIN, share, "v_prediction").combine(estimates, query) for share in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(half, (none + full) / 2, **EXACT)


def test_rescale_of_what_has_no_deviation_is_itself():
    flat = {"uncond": torch.zeros(SHAPE), "cond": torch.ones(SHAPE)}
    query = Query(torch.zeros(SHAPE), 1.0, 0, 0.5)
    assert torch.equal(Rescale(BASE, PLAIN, 1.0, "sample").combine(flat, query), torch.full(SHAPE, 6.0))


# --- thresholding


def test_threshold_keeps_to_the_reach_of_the_plain_estimate():
    estimates = rows("uncond", "cond")
    guided = BASE.combine(estimates, at(1.0))
    share = 0.9
    s, b = guided.abs().quantile(share), estimates["cond"].abs().max()
    assert s > b, "or this tests nothing"
    actual = Threshold(BASE, PLAIN, share).combine(estimates, at(1.0))
    torch.testing.assert_close(actual.abs().max(), b, **EXACT)
    below = guided.abs() <= s
    torch.testing.assert_close(actual[below], guided[below] * b / s, **EXACT)
    torch.testing.assert_close(actual[~below], guided[~below].sign() * b, **EXACT)


def test_threshold_leaves_alone_what_is_within_reach():
    estimates = rows("cond") | {"uncond": torch.zeros(SHAPE, dtype=torch.float64)}
    weaker = ClassifierFree(0.9)
    actual = Threshold(weaker, weaker.unguided, 0.995).combine(estimates, at(1.0))
    assert torch.equal(actual, weaker.combine(estimates, at(1.0)))


def test_threshold_looks_at_every_picture_alone():
    one, other = rows("uncond", "cond"), rows("cond", "uncond")
    both = {name: torch.cat([one[name], 3 * other[name]]) for name in one}
    guidance = Threshold(BASE, PLAIN, 0.9)
    apart = [guidance.combine(one, at(1.0)), 3 * guidance.combine(other, at(1.0))]
    torch.testing.assert_close(guidance.combine(both, at(1.0)), torch.cat(apart), **EXACT)


# --- away from a worse network


def test_pag_adds_the_difference_to_the_worse():
    guidance = AwayFrom(BASE, PLAIN, "perturbed", 3.0)
    assert guidance.rows(1.0) == ("uncond", "cond", "perturbed")
    e = rows("uncond", "cond", "perturbed")
    expected = e["uncond"] + 6.0 * (e["cond"] - e["uncond"]) + 3.0 * (e["cond"] - e["perturbed"])
    torch.testing.assert_close(guidance.combine(e, at(1.0)), expected, **EXACT)


def test_autoguidance_extrapolates_from_the_weak_model():
    """Karras et al. 2024, equation 3, at guidance scale 1."""
    base = ClassifierFree(1.0)
    guidance = AwayFrom(base, base.unguided, "weak", 2.5 - 1.0)
    assert guidance.rows(1.0) == ("cond", "weak")
    e = rows("cond", "weak")
    torch.testing.assert_close(guidance.combine(e, at(1.0)), 2.5 * e["cond"] - 1.5 * e["weak"], **EXACT)


def test_every_prompt_has_a_worse_row_with_its_weight():
    base = ClassifierFree(1.0, (1.0, 0.5))
    guidance = AwayFrom(base, base.unguided, "perturbed", 2.0)
    assert guidance.rows(1.0) == ("uncond", "cond", "cond-1", "perturbed", "perturbed-1")
    e = rows(*guidance.rows(1.0))
    shift = (e["cond"] - e["perturbed"]) + 0.5 * (e["cond-1"] - e["perturbed-1"])
    torch.testing.assert_close(guidance.combine(e, at(1.0)), base.combine(e, at(1.0)) + 2.0 * shift, **EXACT)


def test_at_scale_zero_it_asks_about_the_negative_prompt():
    base = ClassifierFree(0.0)
    guidance = AwayFrom(base, base.unguided, "perturbed", 3.0)
    assert guidance.rows(1.0) == ("uncond", "perturbed-uncond")
    e = rows(*guidance.rows(1.0))
    torch.testing.assert_close(guidance.combine(e, at(1.0)), 4 * e["uncond"] - 3 * e["perturbed-uncond"], **EXACT)


def test_with_a_strength_of_nothing_no_row_is_added():
    guidance = AwayFrom(BASE, PLAIN, "weak", 0.0)
    assert guidance.rows(1.0) == BASE.rows(1.0)
    estimates = rows("uncond", "cond")
    assert torch.equal(guidance.combine(estimates, at(1.0)), BASE.combine(estimates, at(1.0)))


def test_autoguidance_of_gaussians_sharpens_around_the_same_mean():
    """Score of N(m, s^2) is (m - x) / s^2; strong w, weak 1 - w make precision w / s1^2 + (1 - w) / s0^2.

    With v = deviation^2 + sigma^2 of the noisy x, the guided estimate is x + sigma^2 (m - x) (w / v1 + (1 - w) / v0).
    """
    base, w, sigma, mean = ClassifierFree(1.0), 2.0, 0.8, 1.3
    guidance = AwayFrom(base, base.unguided, "weak", w - 1.0)
    query = at(sigma)
    v = {"cond": 0.5**2 + sigma**2, "weak": 0.9**2 + sigma**2}
    estimates = {name: query.x + sigma**2 * (mean - query.x) / v[name] for name in v}
    precision = w / v["cond"] + (1 - w) / v["weak"]
    assert precision > 1 / v["cond"]
    expected = query.x + sigma**2 * (mean - query.x) * precision
    torch.testing.assert_close(guidance.combine(estimates, query), expected, **EXACT)


# --- towards a picture


@pytest.mark.parametrize(("words", "picture"), [(7.5, 1.5), (1.0, 2.0), (0.0, 1.5), (3.0, 1.0), (1.0, 1.0)])
def test_two_scales_are_the_papers(words, picture):
    guidance = TowardsSpatial(ClassifierFree(words), picture)
    told = rows("blank", "uncond", "cond")
    blank, uncond, cond = told.values()
    asked = {name: told[name] for name in guidance.rows(3.0)}
    expected = blank + picture * (uncond - blank) + words * (cond - uncond)
    torch.testing.assert_close(guidance.combine(asked, at(3.0)), expected, **EXACT)


@pytest.mark.parametrize("weights", [(1.0,), (0.7, 0.6)])
def test_where_both_scales_are_one_nobody_is_asked_what_cancels_out(weights):
    guidance = TowardsSpatial(ClassifierFree(3.0, weights), 3.0 * sum(weights))
    told = rows("blank", "uncond", *list(ClassifierFree(3.0, weights).told))
    blank, uncond, *conds = told.values()
    assert "uncond" not in guidance.rows(3.0)
    towards = sum(weight * (cond - uncond) for weight, cond in zip(weights, conds, strict=True))
    expected = blank + guidance.scale * (uncond - blank) + 3.0 * towards
    torch.testing.assert_close(
        guidance.combine({name: told[name] for name in guidance.rows(3.0)}, at(3.0)), expected, **EXACT
    )


def test_the_picture_at_scale_one_costs_no_row():
    assert TowardsSpatial(ClassifierFree(5.0), 1.0).rows(1.0) == ("uncond", "cond")
    assert set(TowardsSpatial(ClassifierFree(5.0), 1.5).rows(1.0)) == {"uncond", "cond", "blank"}
