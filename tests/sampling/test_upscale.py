"""What the ways to draw large come to, with a tiny model."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.packing import sharing
from mezzotint.noise import generator
from mezzotint.sampling import SAMPLERS, two_pass
from mezzotint.sampling.sizes import NEAR
from mezzotint.sampling.two_pass import Pass, steps
from mezzotint.sampling.upscale import AnyDenoiser, Upscaler, sigma_at, start
from mezzotint.types import UPSCALES, Conditioning

SIGMAS = (30.0, 8.0, 2.0, 0.5, 0.0)
LARGE = (32, 24)
"""Pixels; the tiny model knows 16 x 16, latents of 2 x 2."""


@pytest.fixture
def upscaler(tiny_parts) -> Upscaler:
    return Upscaler(Denoiser(tiny_parts.unet, tiny_parts.schedule), [(16, 16)], 8)


def test_nothing_is_done_about_a_size_that_the_model_knows(upscaler):
    for upscale in UPSCALES:
        for size in ((16, 16), (8, 16), (8, 32)):
            assert upscaler.way(upscale, size) == "none"
            assert upscaler.passes(upscale, size, SIGMAS) == [Pass((size[1] // 8, size[0] // 8), SIGMAS)]
    assert NEAR < 1.5
    assert upscaler.way("auto", (24, 16)) == "two-pass"


@pytest.mark.parametrize(
    ("upscale", "count"), [("auto", 2), ("two-pass", 2), ("tiles", 2), ("dilated", 1), ("none", 1)]
)
def test_the_passes_of_a_way(upscaler, upscale, count):
    passes = upscaler.passes(upscale, LARGE, SIGMAS)
    assert len(passes) == count
    assert passes[-1].size == (3, 4)
    assert passes[0].sigmas == SIGMAS
    if count == 2:
        assert passes[0].size == (2, 2)
        assert passes[1].sigmas[-1] == 0.0
        assert 0 < passes[1].sigmas[0] < 0.5


def test_a_later_pass_begins_above_where_the_walk_ends(tiny_parts):
    schedule = tiny_parts.schedule
    assert start(schedule, SIGMAS) == sigma_at(schedule, 0.1)
    assert start(schedule, (30.0, 8.0, 2.0)) == 8.0
    assert sigma_at(schedule, 1.0) == pytest.approx(schedule.sigma_max)


@pytest.mark.parametrize("upscale", UPSCALES)
@pytest.mark.parametrize("name", ["euler", "dpmpp-2m"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_way_draws_its_size(upscaler, tiny_parts, upscale, name, count):
    sigmas = tiny_parts.schedule.walk(count)
    denoiser, passes = upscaler.denoiser(upscale, LARGE), upscaler.passes(upscale, LARGE, sigmas)
    assert isinstance(denoiser, get_args(AnyDenoiser))
    assert upscaler.denoiser(upscale, LARGE) is denoiser
    stream = generator(1)

    def noise(shape):
        return torch.randn(shape, generator=stream)

    told = Conditioning(torch.randn(1, 5, 16, generator=stream))
    asked = []
    with torch.inference_mode():
        walk = two_pass.walk(
            SAMPLERS[name].walk,
            math.hypot(1.0, sigmas[0]) * noise((1, 4, *passes[0].size)),
            passes,
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
    assert set(asked) == set(range(steps(passes)))


def test_another_network_in_its_place_is_what_draws(tiny_parts):
    own = Denoiser(tiny_parts.unet, tiny_parts.schedule)
    upscaler = Upscaler(own, [(16, 16)], 8)
    before = upscaler.denoiser("two-pass", LARGE)
    own.unet = sharing(tiny_parts.unet)
    assert upscaler.denoiser("two-pass", LARGE) is not before
