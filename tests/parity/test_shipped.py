"""The shipped model is anybody's: diffusers loads its folder as it is and draws the same from the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mezzotint
from mezzotint.evaluate.judge import load_judge
from mezzotint.evaluate.obedience import pixels_of
from mezzotint.noise import draw_noise
from mezzotint.store.models import resolve

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPT = "a red sphere to the left of a blue cube"


@pytest.fixture(scope="module")
def pipe():
    return mezzotint.load("still-life", device="cpu")


def test_diffusers_draws_the_same_picture(pipe):
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(resolve("still-life"), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    width, height = pipe.size
    noise = draw_noise([7], (4, height // 8, width // 8))
    image = pipe(PROMPT, noise=noise, steps=10, guidance=4.0, sampler="ddim")
    settings = {"height": height, "width": width, "num_inference_steps": 10, "guidance_scale": 4.0}
    (expected,) = theirs(PROMPT, latents=noise.clone(), **settings).images
    apart = np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int))
    assert np.mean(apart <= 1) >= 0.999


def test_it_draws_what_is_asked_for(pipe):
    """By chance a solid is of one shape of six and one colour of ten: three of six right is one in ten thousand."""
    judge, accuracy = load_judge()
    assert min(accuracy["shape"], accuracy["colour"]) >= 0.98
    asked = [
        ("sphere", "red"), ("cube", "blue"), ("cone", "green"), ("torus", "yellow"), ("cylinder", "white"),
        ("pyramid", "orange"),
    ]  # fmt: skip
    images = pipe([f"a {colour} {shape}" for shape, colour in asked], seed=1)
    found = judge.find(torch.stack([pixels_of(image) for image in images]))
    right = sum({(one.shape, one.colour) for one in some} == {pair} for some, pair in zip(found, asked, strict=True))
    assert right >= 3


def test_latents_have_about_unit_variance(pipe):
    """One home for the scaling factor, and its consequence (rendered scenes, held out)."""
    from mezzotint.world.render import render
    from mezzotint.world.scene import random_scenes

    pixels = render(random_scenes(32, 5, held_out=True), pipe.size[1], pipe.size[0]).pixels
    with torch.inference_mode():
        latents = pipe.codec.encode(pixels)
    assert 0.85 < float(latents.std()) < 1.15
