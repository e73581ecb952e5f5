"""Walks in passes, around denoisers in closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from mezzotint.noise import generator
from mezzotint.sampling import SAMPLERS
from mezzotint.sampling.two_pass import Pass, keep, plan, steps, tail, walk

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


def test_a_second_pass_is_for_another_size():
    assert plan((4, 4), (4, 4), SIGMAS, 1.0) == [Pass((4, 4), SIGMAS)]
    assert plan((4, 4), (32, 32), SIGMAS, 1.0) == [Pass((4, 4), SIGMAS), Pass((32, 32), (1.0, 0.3, 0.0))]


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


def test_a_walk_that_ends_in_noise_is_scaled_before_it_is_enlarged():
    seen = []

    def watch(latent, size):
        seen.append(latent)
        return enlarge(latent, size)

    passes = [Pass((3, 4), (5.0, 1.0)), Pass((6, 8), (3.0, 1.0))]
    _, queries = drive(SAMPLERS["euler"].walk, passes, enlarge=watch)
    x = queries[0].x
    assert torch.allclose(seen[0], x / 5.0 / math.sqrt(2.0))


def test_every_estimate_of_a_later_pass_has_the_coarse_part_of_the_picture_before():
    """A denoiser that always answers zero is overruled in what 3 x 4 places can tell, and in nothing else."""
    picture = torch.arange(24.0).reshape(1, 2, 3, 4)
    passes = [Pass((3, 4), SIGMAS), Pass((12, 16), (1.0, 0.0))]
    detail = torch.randn(1, 2, 12, 16, generator=generator(3))
    detail = detail - F.interpolate(F.avg_pool2d(detail, 4), scale_factor=4.0)  # nothing that 3 x 4 places can tell
    latent, _ = drive(
        SAMPLERS["euler"].walk, passes, denoise=lambda query: picture if query.x.shape[2] == 3 else detail
    )
    coarse = F.interpolate(picture, size=(12, 16), mode="bicubic")
    torch.testing.assert_close(latent, detail + coarse)


def test_what_is_kept_changes_nothing_where_it_is_so_already():
    x0 = torch.randn(1, 4, 8, 10)
    assert torch.equal(keep(x0, x0, (4, 5)), x0)
    flat = torch.full_like(x0, 3.0)
    # Only the means matter: a constant picture sets the mean of every place that the smaller size has.
    means = F.avg_pool2d(keep(torch.zeros_like(x0), flat, (4, 5)), 2)
    torch.testing.assert_close(means, torch.full_like(means, 3.0))
