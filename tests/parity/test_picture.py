"""Whole pictures: diffusers' StableDiffusionPipeline loads the folder that we write and draws what we draw."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction, draw_noise
from mezzotint.pipeline import Pipeline
from mezzotint.store.folder import load_folder, save_folder

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PROMPT, NEGATIVE = "a red sphere to the left of a blue cube", "two green cones"
SCHEDULES = {
    "zero-snr": NoiseSchedule(),
    "stable-diffusion": NoiseSchedule(
        rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON, timestep_spacing="leading"
    ),
}


@pytest.fixture(scope="module", params=SCHEDULES)
def both(request, tiny_parts, tmp_path_factory):
    """Our pipeline and diffusers', from one folder."""
    folder = tmp_path_factory.mktemp("parity") / request.param
    save_folder(dataclasses.replace(tiny_parts, schedule=SCHEDULES[request.param]), folder)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    assert isinstance(theirs.scheduler, diffusers.DDIMScheduler)
    theirs.set_progress_bar_config(disable=True)
    return Pipeline.of(load_folder(folder)), theirs


def values(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("steps", [2, 10])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_ddim_from_the_same_noise(both, steps, guidance):
    ours, theirs = both
    noise = draw_noise([7], (4, 8, 8))
    image = ours(PROMPT, negative=NEGATIVE, noise=noise, steps=steps, guidance=guidance, sampler="ddim")
    (expected,) = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        latents=noise.clone(),
        height=64,
        width=64,
        num_inference_steps=steps,
        guidance_scale=guidance,
    ).images
    # Both are fp32, in another order of sums, so a value may be rounded to the other side of a half.
    apart = np.abs(values(image) - values(expected))
    assert np.mean(apart <= 1) >= 0.999
    assert values(image).std() > 5


def test_the_seed_is_theirs_too(both):
    ours, theirs = both
    image = ours(PROMPT, seed=7, steps=4, guidance=3.0, sampler="ddim", width=64, height=64, upscale="none")
    stream = torch.Generator().manual_seed(7)
    settings = {"generator": stream, "height": 64, "width": 64, "num_inference_steps": 4, "guidance_scale": 3.0}
    (expected,) = theirs(PROMPT, **settings).images
    assert np.mean(np.abs(values(image) - values(expected)) <= 1) >= 0.999
