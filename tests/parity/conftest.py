"""Tiny pipelines of every family, made by diffusers and transformers with random weights and saved by them.

What no shape tells is as in the published models: groups of norms, heads, and where the vocabulary begins and ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.noise import draw_noise
from mezzotint.pipeline import Pipeline
from mezzotint.store.parts import Parts

PROMPTS = ["a red sphere to the left of a blue cube", "", "two GREEN cones " * 40]
CORPUS = [*PROMPTS, "a small black cylinder"]
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
UNET: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", CROSS_DOWN],
    "up_block_types": [CROSS_UP, "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
LINEAR = UNET | {"use_linear_projection": True, "attention_head_dim": [1, 1]}
SIZED = LINEAR | {
    "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}
TEXT = 64
"""Width of a head of a text encoder, and of the narrowest."""
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = BETAS | {"timestep_spacing": "leading", "steps_offset": 1}


def random(module: Any, seed: int) -> Any:
    """The module with every parameter random, so that biases and norms count too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def clip_words(folder: Path, pad: str) -> Any:
    """transformers' tokenizer; Stable Diffusion 1 pads with the end of the text, OpenCLIP's models with "!"."""
    from transformers import CLIPTokenizer

    from mezzotint.text import train_tokenizer

    train_tokenizer(CORPUS, 560).save(folder)
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad)


def clip_text(words: Any, *, width: int = TEXT, **sizes: Any) -> Any:
    import transformers

    projected = "projection_dim" in sizes
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        intermediate_size=32,
        num_hidden_layers=3,
        hidden_size=width,
        num_attention_heads=width // TEXT,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **sizes,
    )
    return random((transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config), 1)


def unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return random(UNet2DConditionModel(**config), 2)


def vae(scale: float = 0.18215) -> Any:
    from diffusers import AutoencoderKL

    return random(
        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[32, 32, 32, 32],
            norm_num_groups=32,
            scaling_factor=scale,
        ),
        3,
    )


def stable_diffusion_1(folder: Path) -> Any:
    import diffusers

    words = clip_words(folder, "<|endoftext|>")
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(words),
        tokenizer=words,
        unet=unet(**UNET, cross_attention_dim=TEXT),
        scheduler=diffusers.DDIMScheduler(**LEADING, set_alpha_to_one=False, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_2(folder: Path) -> Any:
    """Its text encoder has lost its last layer already, and it predicts v."""
    import diffusers

    words = clip_words(folder, "!")
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(words, hidden_act="gelu"),
        tokenizer=words,
        unet=unet(**LINEAR, cross_attention_dim=TEXT),
        scheduler=diffusers.DDIMScheduler(
            **LEADING, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path) -> Any:
    import diffusers

    first, second = clip_words(folder, "<|endoftext|>"), clip_words(folder, "!")
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(0.13025),
        text_encoder=clip_text(first),
        text_encoder_2=clip_text(second, width=2 * TEXT, hidden_act="gelu", projection_dim=20),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(**SIZED, cross_attention_dim=3 * TEXT, projection_class_embeddings_input_dim=20 + 6 * 8),
        scheduler=diffusers.EulerDiscreteScheduler(**LEADING),
        add_watermarker=False,
    )


def sdxl_refiner(folder: Path) -> Any:
    import diffusers

    words = clip_words(folder, "!")
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=vae(0.13025),
        text_encoder=None,
        text_encoder_2=clip_text(words, width=2 * TEXT, hidden_act="gelu", projection_dim=20),
        tokenizer=None,
        tokenizer_2=words,
        unet=unet(**SIZED, cross_attention_dim=2 * TEXT, projection_class_embeddings_input_dim=20 + 5 * 8),
        scheduler=diffusers.EulerDiscreteScheduler(**LEADING),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def latent_diffusion(folder: Path) -> Any:
    import diffusers
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), "red"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    config = LDMBertConfig(
        vocab_size=len(pieces), encoder_layers=2, encoder_ffn_dim=32, encoder_attention_heads=8, head_dim=4, d_model=16
    )
    return diffusers.LDMTextToImagePipeline(
        vqvae=vae(),
        bert=random(LDMBertModel(config), 1),
        tokenizer=BertTokenizer.from_pretrained(folder, model_max_length=512),
        unet=unet(**UNET, cross_attention_dim=16),
        scheduler=diffusers.DDIMScheduler(**BETAS, clip_sample=False),
    )


FAMILIES = {
    "Stable Diffusion 1": stable_diffusion_1,
    "Stable Diffusion 2": stable_diffusion_2,
    "SDXL": sdxl,
    "SDXL refiner": sdxl_refiner,
    "latent diffusion": latent_diffusion,
}


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """The family's name, diffusers' pipeline, and the folder that it has saved."""
    folder = tmp_path_factory.mktemp("families")
    (folder / "words").mkdir()
    theirs = FAMILIES[request.param](folder / "words")
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "model")
    return request.param, theirs, folder / "model"


@pytest.fixture(scope="session")
def family_parts() -> Callable[..., dict[str, Any]]:
    """What diffusers' pipeline of a family is made of, its U-Net with other settings."""

    def parts(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
        words = folder / "words"
        words.mkdir()
        made = FAMILIES[name](words)
        config = {key: value for key, value in made.unet.config.items() if not key.startswith("_")}
        components = dict(made.components, unet=unet(**{**config, **changes}))
        if "safety_checker" in components:
            components["requires_safety_checker"] = False
        return {key: value for key, value in components.items() if key != "image_encoder"}

    return parts


STEPS, GUIDANCE = 10, 4.0
WIDTH, HEIGHT = 48, 32
"""Not square, so that height and width cannot be exchanged unseen."""


def their_picture(theirs: Any, noise: Tensor, negative: str) -> tuple[Any, Tensor]:
    """Their picture from noise, and the noise that ours begins from: of unit variance at the first sigma."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    settings: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    if not hasattr(theirs, "bert"):
        settings["negative_prompt"] = None if negative == "" else negative
    if not isinstance(theirs, StableDiffusionXLImg2ImgPipeline):
        settings |= {"height": HEIGHT, "width": WIDTH, "latents": noise.clone()}
        return theirs([PROMPTS[0]] if hasattr(theirs, "bert") else PROMPTS[0], **settings).images[0], noise
    # From a picture to another, all of the way: it adds sigma times noise to nothing.
    drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(9))
    stream = torch.Generator().manual_seed(9)
    (image,) = theirs(PROMPTS[0], image=torch.zeros_like(noise), strength=1.0, generator=stream, **settings).images
    alpha_bar = float(theirs.scheduler.alphas_cumprod[theirs.scheduler.timesteps[0].int()])
    return image, drawn * math.sqrt(1 - alpha_bar)


def same_picture(parts: Parts, theirs: Any, sampler: str, negative: str) -> None:
    noise = draw_noise([7], (4, HEIGHT // 8, WIDTH // 8))
    expected, start = their_picture(theirs, noise, negative)
    settings: dict[str, Any] = {"steps": STEPS, "guidance": GUIDANCE, "negative": negative}
    image = Pipeline.of(parts)(PROMPTS[0], noise=start, sampler=sampler, **settings)
    found, wanted = np.asarray(image).astype(int), np.asarray(expected).astype(int)
    assert found.shape == wanted.shape == (HEIGHT, WIDTH, 3)
    # Sums in another order, which may round a value to the other side of a half.
    assert np.abs(found - wanted).max() <= 1
    assert wanted.std() > 5


@pytest.fixture(scope="session")
def assert_same_picture() -> Callable[[Parts, Any, str, str], None]:
    """Asserts that a model of ours draws what a pipeline of theirs does, by a sampler and with a negative."""
    return same_picture
