"""What the ways to draw large come to, with a tiny model."""

from __future__ import annotations

import math

import pytest
import torch

from mezzotint.denoise.denoiser import Denoiser
from mezzotint.noise import generator
from mezzotint.sampling import SAMPLERS, two_pass
from mezzotint.sampling.sizes import NEAR
from mezzotint.sampling.two_pass import Pass, steps
from mezzotint.sampling.upscale import passes, reaching, sigma_at, start, way
from mezzotint.types import UPSCALES, Conditioning

SIGMAS = (30.0, 8.0, 2.0, 0.5, 0.0)
LARGE = (32, 24)
"""Pixels; the tiny model knows 16 x 16, latents of 2 x 2."""


TRAINED = [(16, 16)]


def passes_of(name, size, schedule, sigmas=SIGMAS):
    return passes(way(name, size, TRAINED), size, TRAINED, 8, sigmas, schedule)


def test_nothing_is_done_about_a_size_that_the_model_knows(tiny_parts):
    for name in UPSCALES:
        for size in ((16, 16), (8, 16), (8, 32)):
            assert way(name, size, TRAINED) == "none"
            assert passes_of(name, size, tiny_parts.schedule) == [Pass((size[1] // 8, size[0] // 8), SIGMAS)]
    assert NEAR < 1.5
    assert way("auto", (24, 16), TRAINED) == "two-pass"


@pytest.mark.parametrize(("name", "count"), [("auto", 2), ("two-pass", 2), ("tiles", 2), ("dilated", 1), ("none", 1)])
def test_the_passes_of_a_way(tiny_parts, name, count):
    found = passes_of(name, LARGE, tiny_parts.schedule)
    assert len(found) == count
    assert found[-1].size == (3, 4)
    assert found[0].sigmas == SIGMAS
    if count == 2:
        assert found[0].size == (2, 2)
        assert found[1].sigmas[-1] == 0.0
        assert 0 < found[1].sigmas[0] < 0.5


def test_the_first_pass_is_one_tile(tiny_parts):
    """Whatever its shape: where the scene is composed, a tile that saw half of it would compose its own."""
    for size in ((384, 216), (128, 256), (256, 256)):
        first, _ = passes("tiles", size, [(128, 128)], 8, SIGMAS, tiny_parts.schedule)
        x, calls = torch.zeros(1, 4, *first.size), []

        def denoise(x, _sigma, _told, _read, calls=calls):
            calls.append(x.shape)
            return x

        reaching(denoise, "tiles", (16, 16), 16)(x, torch.ones(1), Conditioning())
        assert calls == [x.shape]


def test_a_later_pass_begins_above_where_the_walk_ends(tiny_parts):
    schedule = tiny_parts.schedule
    assert start(schedule, SIGMAS) == sigma_at(schedule, 0.1)
    assert start(schedule, (30.0, 8.0, 2.0)) == 8.0
    assert sigma_at(schedule, 1.0) == pytest.approx(schedule.sigma_max)


@pytest.mark.parametrize("name", UPSCALES)
@pytest.mark.parametrize("sampler", ["euler", "dpmpp-2m"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_way_draws_its_size(tiny_parts, name, sampler, count):
    sigmas = tiny_parts.schedule.walk(count)
    own = Denoiser(tiny_parts.unet, tiny_parts.schedule)
    denoiser = reaching(own, way(name, LARGE, TRAINED), (2, 2), 16)
    planned = passes_of(name, LARGE, tiny_parts.schedule, sigmas)
    stream = generator(1)

    def noise(shape):
        return torch.randn(shape, generator=stream)

    told = Conditioning(torch.randn(1, 5, 16, generator=stream))
    asked = []
    with torch.inference_mode():
        walk = two_pass.walk(
            SAMPLERS[sampler].walk,
            math.hypot(1.0, sigmas[0]) * noise((1, 4, *planned[0].size)),
            planned,
            noise,
            enlarge=lambda z, size: torch.nn.functional.interpolate(z, size=size),
        )
        try:
            query = next(walk)
            while True:
                asked.append(query.step)
                query = walk.send(denoiser(query.x, torch.tensor([query.sigma]), told, denoiser.project(told)))
        except StopIteration as end:
            latent = end.value
    assert latent.shape == (1, 4, 3, 4)
    assert bool(torch.isfinite(latent).all())
    assert set(asked) == set(range(steps(planned)))
