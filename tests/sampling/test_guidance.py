"""Plain guidance and what takes its place: closed forms on Gaussians, limits, and the papers' updates written out."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mezzotint.noise import draw_noise
from mezzotint.sampling import SAMPLERS, ClassifierFree, Query
from mezzotint.sampling.guidance import PlusPlus, Projected, source, worse

ANYWHERE = Query(torch.zeros(1, 4, 2, 2), 1.0, 0, 0.5)
SIGMAS = [20.0, 8.0, 3.0, 1.0, 0.3, 0.0]
# A few fp64 operations a step.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def rows(*names: str) -> dict[str, torch.Tensor]:
    """A random estimate for every name."""
    return dict(zip(names, draw_noise(range(len(names)), (1, 4, 2, 2)).double().split(1), strict=True))


def gaussian(x: torch.Tensor, sigma: float, mean: torch.Tensor, deviation: float = 0.5) -> torch.Tensor:
    """The exact clean estimate where x0 is N(mean, deviation^2)."""
    return (deviation**2 * x + sigma**2 * mean) / (deviation**2 + sigma**2)


def walked(guidance, means: dict[str, torch.Tensor], x: torch.Tensor, sampler: str = "euler") -> torch.Tensor:
    """Where a walk ends whose rows are Gaussians with these means."""
    walk = SAMPLERS[sampler].walk(x, SIGMAS, lambda: torch.zeros_like(x))
    query = next(walk)
    while True:
        estimates = {name: gaussian(query.x, query.sigma, means[name]) for name in guidance.rows(query.sigma)}
        try:
            query = walk.send(guidance.combine(estimates, query))
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_it_extrapolates_from_uncond_through_cond(scale):
    guidance = ClassifierFree(scale)
    assert guidance.rows(1.0) == ("uncond", "cond")
    estimates = rows("uncond", "cond")
    expected = (1 - scale) * estimates["uncond"] + scale * estimates["cond"]
    torch.testing.assert_close(guidance.combine(estimates, ANYWHERE), expected)


def test_one_row_where_the_other_is_moot():
    estimates = rows("uncond", "cond")
    assert ClassifierFree(1.0).rows(1.0) == ("cond",)
    assert torch.equal(ClassifierFree(1.0).combine(estimates, ANYWHERE), estimates["cond"])
    assert ClassifierFree(0.0).rows(1.0) == ("uncond",)
    assert torch.equal(ClassifierFree(0.0).combine(estimates, ANYWHERE), estimates["uncond"])


def test_guiding_estimates_is_guiding_noise():
    sigma, x = 3.0, draw_noise([0], (1, 4, 2, 2))[0].double()
    eps = rows("uncond", "cond")
    guidance = ClassifierFree(4.0)
    guided = guidance.combine({name: x - sigma * noise for name, noise in eps.items()}, ANYWHERE)
    torch.testing.assert_close(guided, x - sigma * guidance.combine(eps, ANYWHERE), **EXACT)


def test_several_prompts_are_a_weighted_conjunction():
    guidance = ClassifierFree(5.0, (1.0, 0.7, -0.3))
    assert guidance.rows(1.0) == ("uncond", "cond", "cond-1", "cond-2")
    e = rows("uncond", "cond", "cond-1", "cond-2")
    u = e["uncond"]
    expected = u + 5.0 * ((e["cond"] - u) + 0.7 * (e["cond-1"] - u) - 0.3 * (e["cond-2"] - u))
    torch.testing.assert_close(guidance.combine(e, ANYWHERE), expected, **EXACT)


@pytest.mark.parametrize(
    ("scale", "weights", "expected"),
    [
        (1.0, (0.1, 0.2, 0.7), ("cond", "cond-1", "cond-2")),
        (2.0, (0.5,), ("cond",)),
        (1.0, (0.0, 1.0), ("cond-1",)),
        (0.0, (1.0, 0.7), ("uncond",)),
        (5.0, (0.0,), ("uncond",)),
        (1.0, (1.0, 1.0), ("uncond", "cond", "cond-1")),
    ],
)
def test_rows_whose_share_is_nothing_are_not_asked_for(scale, weights, expected):
    guidance = ClassifierFree(scale, weights)
    assert guidance.rows(1.0) == expected
    everything = rows("uncond", "cond", "cond-1", "cond-2")
    u = everything["uncond"]
    names = ("cond", "cond-1", "cond-2")
    difference = sum(weight * (everything[name] - u) for name, weight in zip(names, weights, strict=False))
    asked = {name: everything[name] for name in expected}
    torch.testing.assert_close(guidance.combine(asked, ANYWHERE), u + scale * difference, **EXACT)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp-2m"])
def test_gaussians_of_one_deviation_are_guided_to_the_extrapolated_mean(sampler):
    """u + w (c - u) of exact estimates is the exact estimate of the Gaussian around m_u + w sum_i w_i (m_i - m_u)."""
    x = 20 * draw_noise([3], (1, 4, 2, 2)).double()
    means = {name: torch.full_like(x, mean) for name, mean in {"uncond": 0.2, "cond": 1.0, "cond-1": -2.0}.items()}
    guidance = ClassifierFree(3.0, (1.0, 0.5))
    target = torch.full_like(x, 0.2 + 3.0 * (0.8 + 0.5 * -2.2))
    alone = walked(ClassifierFree(1.0), {"cond": target}, x, sampler)
    torch.testing.assert_close(walked(guidance, means, x, sampler), alone, **EXACT)


# --- CFG++


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("strength", [0.0, 0.3, 0.6, 1.0])
def test_cfgpp_is_the_papers_update(sampler, strength):
    """Chung et al. 2024, algorithm 2: Tweedie's estimate of the guided noise, renoised with the unconditional noise."""
    start = 20 * draw_noise([5], (1, 4, 2, 2)).double()
    means = {"uncond": torch.full_like(start, -0.4), "cond": torch.full_like(start, 1.5)}
    x = start
    for sigma, sigma_next in pairwise(SIGMAS):
        noise = {name: (x - gaussian(x, sigma, mean)) / sigma for name, mean in means.items()}
        guided_noise = noise["uncond"] + strength * (noise["cond"] - noise["uncond"])
        x = (x - sigma * guided_noise) + sigma_next * noise["uncond"]
    actual = walked(PlusPlus(ClassifierFree(5.0), strength), means, start, sampler)
    torch.testing.assert_close(actual, x, **EXACT)


def test_cfgpp_walks_up_as_well_and_where_a_step_goes_nowhere():
    """Inversion: the noise grows, remaining is above 1."""
    estimates, x = rows("uncond", "cond"), draw_noise([9], (1, 4, 2, 2)).double()
    u, c = estimates["uncond"], estimates["cond"]
    guidance = PlusPlus(ClassifierFree(5.0), 0.6)
    e = guidance.combine(estimates, Query(x, 1.0, 0, 1.7))
    torch.testing.assert_close(e + 1.7 * (x - e), u + 0.6 * (c - u) + 1.7 * (x - u), **EXACT)
    torch.testing.assert_close(guidance.combine(estimates, Query(x, 1.0, 0, 1.0)), u + 0.6 * (c - u), **EXACT)


# --- APG


def test_apg_without_its_three_changes_is_plain_guidance():
    guidance = Projected(ClassifierFree(7.5, (1.0, 0.4)), eta=1.0, threshold=0.0, momentum=0.0)
    estimates = rows("uncond", "cond", "cond-1")
    for _ in range(2):
        expected = guidance.base.combine(estimates, ANYWHERE)
        torch.testing.assert_close(guidance.combine(estimates, ANYWHERE), expected, **EXACT)


def test_apg_adds_nothing_along_the_prompts_own_estimate():
    guidance = Projected(ClassifierFree(7.5), eta=0.0, threshold=0.0, momentum=0.0)
    estimates = rows("uncond", "cond")
    added = guidance.combine(estimates, ANYWHERE) - estimates["cond"]
    assert added.norm() > 1
    assert abs((added * estimates["cond"]).sum()) < 1e-10
    parallel = {"cond": estimates["cond"], "uncond": -2 * estimates["cond"]}
    torch.testing.assert_close(guidance.combine(parallel, ANYWHERE), estimates["cond"], **EXACT)


def test_apg_bounds_the_length_of_the_difference():
    estimates = rows("uncond", "cond")
    have = (estimates["cond"] - estimates["uncond"]).norm()
    for threshold in (0.1, 1.0, 100.0):
        guidance = Projected(ClassifierFree(3.0), eta=1.0, threshold=threshold, momentum=0.0)
        added = guidance.combine(estimates, ANYWHERE) - estimates["cond"]
        torch.testing.assert_close(added.norm(), 2.0 * have.clamp(max=threshold), **EXACT)


def test_apg_remembers_one_picture_and_not_another():
    base = ClassifierFree(3.0)
    one, other = (Projected(base, eta=1.0, threshold=0.0, momentum=-0.5) for _ in range(2))
    first, second = rows("uncond", "cond"), rows("cond", "uncond")
    d = [e["cond"] - e["uncond"] for e in (first, second, first)]
    running = [d[0], d[1] - 0.5 * d[0], d[2] - 0.5 * (d[1] - 0.5 * d[0])]
    for estimates, remembered in zip((first, second, first), running, strict=True):
        torch.testing.assert_close(one.combine(estimates, ANYWHERE), estimates["cond"] + 2 * remembered, **EXACT)
    torch.testing.assert_close(other.combine(second, ANYWHERE), base.combine(second, ANYWHERE), **EXACT)


def test_apg_survives_estimates_that_agree_and_ones_that_are_zero():
    guidance = Projected(ClassifierFree(3.0), eta=0.0, threshold=15.0, momentum=-0.5)
    zero = torch.zeros(1, 4, 2, 2)
    assert torch.equal(guidance.combine({"uncond": zero, "cond": zero}, ANYWHERE), zero)


# --- both


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("weights", [(1.0,), (1.0, 1.0)])
def test_what_takes_its_place_is_off_where_plain_guidance_is(scale, weights):
    base = ClassifierFree(scale, weights)
    estimates = rows(*base.rows(1.0))
    for guidance in (PlusPlus(base, 0.6), Projected(base, 0.0, 15.0, -0.5)):
        assert guidance.rows(1.0) == base.rows(1.0)
        assert torch.equal(guidance.combine(estimates, ANYWHERE), base.combine(estimates, ANYWHERE))


def test_the_names_of_worse_rows_go_back_to_what_they_ask():
    for network in ("perturbed", "weak"):
        for row in ("cond", "cond-1", "cond-12", "uncond"):
            assert source(worse(network, row)) == (network, row)
            assert source(row) == ("", row)
    assert [worse("perturbed", "cond"), worse("weak", "cond-1")] == ["perturbed", "weak-1"]
