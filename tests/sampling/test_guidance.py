"""Classifier-free guidance."""

from __future__ import annotations

import pytest
import torch

from mezzotint.noise import draw_noise
from mezzotint.sampling import ClassifierFree, Query

ANYWHERE = Query(torch.zeros(1, 4, 2, 2), 1.0, 0, 0.5)


@pytest.mark.parametrize("scale", [0.5, 2.0, 7.5])
def test_it_extrapolates_from_uncond_through_cond(scale):
    guidance = ClassifierFree(scale)
    assert set(guidance.rows(1.0)) == {"cond", "uncond"}
    cond, uncond = draw_noise([1, 2], (1, 4, 2, 2))
    estimate = guidance.combine({"cond": cond, "uncond": uncond}, ANYWHERE)
    torch.testing.assert_close(estimate, (1 - scale) * uncond + scale * cond)


def test_one_row_where_the_other_is_moot():
    cond, uncond = draw_noise([1, 2], (1, 4, 2, 2))
    assert ClassifierFree(1.0).rows(1.0) == ("cond",)
    assert torch.equal(ClassifierFree(1.0).combine({"cond": cond}, ANYWHERE), cond)
    assert ClassifierFree(0.0).rows(1.0) == ("uncond",)
    assert torch.equal(ClassifierFree(0.0).combine({"uncond": uncond}, ANYWHERE), uncond)


def test_guiding_estimates_is_guiding_noise():
    sigma, x = 3.0, draw_noise([0], (1, 4, 2, 2))[0]
    eps = {"cond": draw_noise([1], (1, 4, 2, 2))[0], "uncond": draw_noise([2], (1, 4, 2, 2))[0]}
    guidance = ClassifierFree(4.0)
    guided_noise = guidance.combine(eps, ANYWHERE)
    guided = guidance.combine({name: x - sigma * noise for name, noise in eps.items()}, ANYWHERE)
    torch.testing.assert_close(guided, x - sigma * guided_noise, rtol=1e-5, atol=1e-5)
