"""Walks in passes, around denoisers in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from mezzotint.noise import generator
from mezzotint.sampling import SAMPLERS
from mezzotint.sampling.two_pass import Pass, plan, steps, tail, walk

SIGMAS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.0)


def enlarge(latent, size):
    return F.interpolate(latent, size=size, mode="nearest")


def drive(begin, passes, *, seed=0, denoise=lambda query: torch.zeros_like(query.x), enlarge=enlarge):
    """The latent and all queries."""
    stream = generator(seed)

    def noise(shape):
        return torch.randn(shape, generator=stream)

    x = math.hypot(1.0, passes[0].sigmas[0]) * noise((1, 2, *passes[0].size))
    run, queries = walk(begin, x, passes, noise, enlarge=enlarge), []
    try:
        queries.append(next(run))
        while True:
            queries.append(run.send(denoise(queries[-1])))
    except StopIteration as end:
        return end.value, queries


def test_a_tail_begins_where_it_is_told_and_goes_on_below():
    assert tail(SIGMAS, 2.0) == (2.0, 1.0, 0.3, 0.0)
    assert tail(SIGMAS, 1.0) == (1.0, 0.3, 0.0)
    assert tail(SIGMAS, 1.05) == (1.05, 0.3, 0.0)  # 1.0 would be no step to speak of
    assert tail(SIGMAS, 0.1) == (0.1, 0.0)
    assert tail(SIGMAS, 30.0) == tail(SIGMAS, 99.0) == SIGMAS
    assert tail((4096.0, 0.0), 2.0) == (2.0, 0.0)  # one step stays one step
    assert tail((5.0, 1.0, 0.03), 2.0) == (2.0, 1.0, 0.03)
    with pytest.raises(ValueError, match="cannot begin"):
        tail((5.0, 1.0, 0.03), 0.03)


def test_passes_grow_by_no_more_than_they_may():
    assert plan((4, 4), (4, 4), SIGMAS, 1.0) == [Pass((4, 4), SIGMAS)]
    assert plan((4, 4), (32, 32), SIGMAS, 1.0) == [Pass((4, 4), SIGMAS), Pass((32, 32), (1.0, 0.3, 0.0))]
    assert [each.size for each in plan((4, 4), (8, 8), SIGMAS, 1.0, growth=2.0)] == [(4, 4), (8, 8)]
    sizes = [each.size for each in plan((4, 8), (30, 60), SIGMAS, 1.0, growth=2.0)]
    assert sizes[0] == (4, 8)
    assert sizes[-1] == (30, 60)
    assert len(sizes) == 4
    assert all(after[0] / before[0] <= 2.1 for before, after in pairwise(sizes))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_sampler_walks_through_passes_and_counts_its_steps_on(name, count):
    sigmas = (*SIGMAS[:count], 0.0)
    passes = plan((4, 6), (9, 12), sigmas, 2.0)
    latent, queries = drive(SAMPLERS[name].walk, passes)
    assert latent.shape == (1, 2, 9, 12)
    counted = [query.step for query in queries]
    assert counted == sorted(counted)
    assert set(counted) == set(range(steps(passes)))
    shapes = [tuple(query.x.shape[2:]) for query in queries]
    assert shapes == sorted(shapes)
    assert set(shapes) == {(4, 6), (9, 12)}
    assert queries[shapes.index((9, 12))].sigma == passes[1].sigmas[0]


def test_the_second_pass_begins_from_the_enlarged_picture_and_fresh_noise():
    picture = torch.arange(24.0).reshape(1, 2, 3, 4)
    passes = plan((3, 4), (6, 8), SIGMAS, 3.0)
    _, queries = drive(
        SAMPLERS["euler"].walk, passes, denoise=lambda query: picture if query.x.shape[2] == 3 else query.x
    )
    x = next(query.x for query in queries if query.x.shape[2] == 6)
    stream = generator(0)
    torch.randn((1, 2, 3, 4), generator=stream)
    assert torch.allclose(x, enlarge(picture, (6, 8)) + 3.0 * torch.randn((1, 2, 6, 8), generator=stream))


def test_a_gaussian_keeps_its_mean_and_variance_through_passes():
    """x0 ~ N(2, 0.5^2) in every place, which a walk of many steps draws; noise to sigma 1 and down again keeps it."""

    def denoise(query):
        variance, noise = 0.25, query.sigma**2
        return (variance * query.x + noise * 2.0) / (variance + noise)

    sigmas = (*torch.logspace(1.5, -2, 120).tolist(), 0.0)
    # Its places are independent, so leaving the latent as it is stands for enlarging it.
    passes = [Pass((64, 64), sigmas), Pass((64, 64), tail(sigmas, 1.0))]
    latent, _ = drive(SAMPLERS["dpmpp-2m"].walk, passes, denoise=denoise, enlarge=lambda z, size: z)
    # 8192 draws: the error of the mean is 0.5 / 90, that of the deviation 0.5 / 128; four of them are allowed.
    assert float(latent.mean()) == pytest.approx(2.0, abs=0.022)
    assert float(latent.std()) == pytest.approx(0.5, rel=0.032)


def test_a_walk_that_ends_in_noise_is_scaled_before_it_is_enlarged():
    seen = []

    def watch(latent, size):
        seen.append(latent)
        return enlarge(latent, size)

    passes = [Pass((3, 4), (5.0, 1.0)), Pass((6, 8), (3.0, 1.0))]
    _, queries = drive(SAMPLERS["euler"].walk, passes, enlarge=watch)
    x = queries[0].x
    assert torch.allclose(seen[0], x / 5.0 / math.sqrt(2.0))
