"""Pictures from pictures: diffusers' pipelines that begin in one, fill one in, change one or draw on a depth map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mezzotint
from mezzotint.noise import draw_noise

diffusers = pytest.importorskip("diffusers")

PROMPT, NEGATIVE = "a red sphere to the left of a blue cube", "two green cones"
WIDTH, HEIGHT, STEPS = 48, 32, 10
Build = Callable[..., Any]
SETTINGS: dict[str, Any] = {
    "negative_prompt": NEGATIVE,
    "num_inference_steps": STEPS,
    "guidance_scale": 4.0,
    "output_type": "pil",
}
OURS: dict[str, Any] = {"negative": NEGATIVE, "steps": STEPS, "guidance": 4.0, "keep_colours": False, "upscale": "none"}


@pytest.fixture(autouse=True)
def means(monkeypatch: pytest.MonkeyPatch) -> None:
    """They draw a latent from the encoder's distribution, we take its mean: so shall they."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    def mean(self: Any, generator: object = None) -> Tensor:
        return self.mean

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", mean)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    plane = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    plane[5:29, 13:34] = 255
    return Image.fromarray(plane)


def assert_same(found: Image.Image, expected: Image.Image) -> None:
    """Sums in another order may round a value to the other side of a half."""
    apart = np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int))
    assert apart.shape == (HEIGHT, WIDTH, 3)
    assert apart.max() <= 1
    assert np.asarray(expected).std() > 5


def saved(theirs: Any, folder: Path) -> mezzotint.Pipeline:
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "model")
    return mezzotint.load(folder / "model")


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_image_to_image(family_parts: Build, tmp_path: Path, picture: Image.Image, strength: float) -> None:
    theirs = diffusers.StableDiffusionImg2ImgPipeline(**family_parts("Stable Diffusion 1", tmp_path))
    ours = saved(theirs, tmp_path)
    stream = torch.Generator().manual_seed(5)
    (expected,) = theirs(PROMPT, image=picture, strength=strength, generator=stream, **SETTINGS).images
    if strength == 1.0:
        # Theirs keeps what is left of the picture in the last level's noise; ours ignores it.
        found = ours(PROMPT, seed=5, image=picture, strength=strength, sampler="ddim", **OURS)
        assert np.array_equal(found, ours(PROMPT, seed=5, width=WIDTH, height=HEIGHT, sampler="ddim", **OURS))
        return
    assert_same(ours(PROMPT, seed=5, image=picture, strength=strength, sampler="ddim", **OURS), expected)


@pytest.mark.parametrize("name", ["Stable Diffusion 1", "SDXL"])
def test_inpainting_with_nine_channels(
    family_parts: Build, tmp_path: Path, picture: Image.Image, mask: Image.Image, name: str
) -> None:
    parts = family_parts(name, tmp_path, in_channels=9)
    sdxl = name == "SDXL"
    theirs = (diffusers.StableDiffusionXLInpaintPipeline if sdxl else diffusers.StableDiffusionInpaintPipeline)(**parts)
    ours = saved(theirs, tmp_path)
    noise = draw_noise([7], (4, HEIGHT // 8, WIDTH // 8))
    asked = {"image": picture, "mask_image": mask, "height": HEIGHT, "width": WIDTH, "strength": 1.0}
    (expected,) = theirs(PROMPT, latents=noise.clone(), **asked, **SETTINGS).images
    sampler = "euler" if sdxl else "ddim"
    found = ours(PROMPT, noise=noise, image=picture, mask=mask, sampler=sampler, **OURS)
    # Ours puts the picture back outside the mask and near its edge, so what is compared lies inside.
    inside = np.asarray(mask.resize((WIDTH, HEIGHT)))[..., None] > 0
    core = np.zeros_like(inside)
    core[9:25, 17:30] = True
    apart = np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int))
    assert (apart * core).max() <= 1
    assert np.array_equal(np.asarray(found) * ~inside, np.asarray(picture) * ~inside)


def test_a_depth_map_of_ones_own(family_parts: Build, tmp_path: Path, picture: Image.Image) -> None:
    import transformers

    parts = family_parts("Stable Diffusion 2", tmp_path, in_channels=5)
    for name in ("safety_checker", "feature_extractor", "requires_safety_checker"):
        parts.pop(name, None)
    config = transformers.DPTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        backbone_out_indices=[0, 0, 1, 1], neck_hidden_sizes=[4, 4, 4, 4], fusion_hidden_size=4, is_hybrid=False,
    )  # fmt: skip
    theirs = diffusers.StableDiffusionDepth2ImgPipeline(
        **parts,
        depth_estimator=transformers.DPTForDepthEstimation(config),
        feature_extractor=transformers.DPTImageProcessor(),
    )
    ours = saved(theirs, tmp_path)
    depth = np.random.default_rng(1).random((HEIGHT, WIDTH), dtype=np.float32)
    stream = torch.Generator().manual_seed(5)
    (expected,) = theirs(
        PROMPT, image=picture, depth_map=torch.from_numpy(depth)[None], strength=0.7, generator=stream, **SETTINGS
    ).images
    found = ours(PROMPT, seed=5, image=picture, depth=depth, strength=0.7, sampler="ddim", **OURS)
    assert_same(found, expected)
    np.save(tmp_path / "depth.npy", depth)
    again = ours(PROMPT, seed=5, image=picture, depth=tmp_path / "depth.npy", strength=0.7, sampler="ddim", **OURS)
    assert np.array_equal(found, again)
    metres = ours(
        PROMPT, seed=5, image=picture, depth=1 / (depth + 1), depth_kind="metric", strength=0.7, sampler="ddim", **OURS
    )
    assert_same(metres, found)


@pytest.mark.parametrize("image_guidance", [1.0, 1.5])
def test_changing_a_picture_by_words(
    family_parts: Build, tmp_path: Path, picture: Image.Image, image_guidance: float
) -> None:
    theirs = diffusers.StableDiffusionInstructPix2PixPipeline(
        **family_parts("Stable Diffusion 1", tmp_path, in_channels=8)
    )
    ours = saved(theirs, tmp_path)
    noise = draw_noise([7], (4, HEIGHT // 8, WIDTH // 8))
    (expected,) = theirs(
        PROMPT, image=picture, latents=noise.clone(), image_guidance_scale=image_guidance, **SETTINGS
    ).images
    found = ours(PROMPT, noise=noise, image=picture, image_guidance=image_guidance, sampler="ddim", **OURS)
    assert_same(found, expected)
