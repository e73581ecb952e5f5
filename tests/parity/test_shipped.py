"""The shipped model is anybody's: diffusers loads its folder as it is and draws the same from the same noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import mezzotint
from mezzotint.evaluate.judge import load_judge
from mezzotint.evaluate.obedience import pixels_of
from mezzotint.noise import draw_noise
from mezzotint.store.load import load_parts
from mezzotint.store.models import resolve
from mezzotint.training.classifier import counts
from mezzotint.vae.codec import to_uint8
from mezzotint.world.render import render
from mezzotint.world.scene import gather, random_scenes

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

LEAST = ((0.5, 0.9, 0.97), (2.0, 0.75, 0.9))
"""At a sigma, how often the classifier tells which shape is there, and which colour."""
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


def test_its_classifier_sees_what_is_there_through_noise(pipe):
    """Scenes that it never saw, at sigmas 0.5 and 2: how often what is there is told before what is not."""
    classifier = load_parts(resolve("still-life")).classifier
    assert classifier is not None
    scenes = random_scenes(96, 88_001)
    with torch.inference_mode():
        latents = pipe.codec.encode(render(scenes, pipe.size[1], pipe.size[0]).pixels)
    truth = counts(scenes, classifier().config) > 0
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    for sigma, least_shape, least_colour in LEAST:
        seen = (latents + sigma * noise) / (1 + sigma**2) ** 0.5
        absent = classifier()(seen, torch.full((len(seen),), sigma))[..., 0]
        assert in_order(absent[:, 1:, 0], truth[:, 1:, 0]) > least_shape
        assert in_order(absent[:, 0, 1:], truth[:, 0, 1:]) > least_colour


def in_order(absent: torch.Tensor, truth: torch.Tensor) -> float:
    """The share of all pairs of a true and a false answer in which the true one is believed more."""
    there, missing = absent[truth], absent[~truth]
    return float((there[:, None] < missing[None]).float().mean())


def test_its_classifier_draws_what_it_is_asked_for_without_a_prompt(pipe):
    """One picture in 26 shows a given pair by chance: three of six right is one in a thousand."""
    judge, _ = load_judge()
    asked = ["red sphere", "blue cube", "green cone", "yellow torus", "white cylinder", "orange pyramid"]
    requests = [pipe.request("", guidance=1.0, classify=(words,), seed=seed) for seed, words in enumerate(asked)]
    images = [picture.image for picture in sorted(pipe.draw(requests), key=lambda picture: picture.index)]
    found = judge.find(torch.stack([pixels_of(image) for image in images]))
    seen = [{f"{one.colour} {one.shape}" for one in some} for some in found]
    right = sum(words in some for words, some in zip(asked, seen, strict=True))
    assert right >= 3


def test_it_draws_after_pictures(pipe):
    """By chance one picture in sixty shows what the one before it shows: five of eight are no chance."""
    judge, _ = load_judge()
    scenes = [scene for scene in random_scenes(64, 7, held_out=None).describe() if len(scene.solids) == 1][:8]
    shown = [Image.fromarray(rgb.numpy()) for rgb in to_uint8(render(gather(scenes), pipe.size[1]).pixels)]
    drawn = pipe([pipe.request("", seed=1, image_prompt=picture) for picture in shown], seed=None)
    found = judge.find(torch.stack([pixels_of(image) for image in drawn]))
    pairs = [{(solid.shape, solid.colour) for solid in scene.solids} for scene in scenes]
    assert sum({(one.shape, one.colour) for one in some} == pair for some, pair in zip(found, pairs, strict=True)) >= 5


def test_latents_have_about_unit_variance(pipe):
    """One home for the scaling factor, and its consequence (rendered scenes, held out)."""
    pixels = render(random_scenes(32, 5, held_out=True), pipe.size[1], pipe.size[0]).pixels
    with torch.inference_mode():
        latents = pipe.codec.encode(pixels)
    assert 0.85 < float(latents.std()) < 1.15
