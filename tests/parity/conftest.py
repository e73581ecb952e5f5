"""Tiny pipelines of every family, made by diffusers and transformers with random weights and saved by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PROMPTS = ["a red sphere to the left of a blue cube", "", "two GREEN cones " * 40]
CORPUS = [*PROMPTS, "a small black cylinder"]
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
UNET: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", CROSS_DOWN],
    "up_block_types": [CROSS_UP, "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": [2, 4],
    "norm_num_groups": 4,
}
LINEAR = UNET | {"use_linear_projection": True}
SIZED = LINEAR | {
    "transformer_layers_per_block": [1, 2],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = BETAS | {"timestep_spacing": "leading", "steps_offset": 1}


def random(module: Any, seed: int) -> Any:
    """The module with every parameter random, so that biases and norms count too."""
    import torch

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


def clip_text(words: Any, **sizes: Any) -> Any:
    import transformers

    projected = "projection_dim" in sizes
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **sizes,
    )
    return random((transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config), 1)


def unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return random(UNet2DConditionModel(**config), 2)


def vae() -> Any:
    from diffusers import AutoencoderKL

    return random(
        AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[8, 8, 8, 8],
            norm_num_groups=4,
        ),
        3,
    )


def stable_diffusion_2(folder: Path) -> Any:
    """Its text encoder has lost its last layer already, and it predicts v."""
    import diffusers

    words = clip_words(folder, "!")
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(words, hidden_size=16, hidden_act="gelu"),
        tokenizer=words,
        unet=unet(**LINEAR, cross_attention_dim=16),
        scheduler=diffusers.DDIMScheduler(**LEADING, prediction_type="v_prediction", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path) -> Any:
    import diffusers

    first, second = clip_words(folder, "<|endoftext|>"), clip_words(folder, "!")
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_text(first, hidden_size=16),
        text_encoder_2=clip_text(second, hidden_size=24, hidden_act="gelu", projection_dim=20),
        tokenizer=first,
        tokenizer_2=second,
        unet=unet(**SIZED, cross_attention_dim=40, projection_class_embeddings_input_dim=20 + 6 * 8),
        scheduler=diffusers.EulerDiscreteScheduler(**LEADING),
        add_watermarker=False,
    )


def sdxl_refiner(folder: Path) -> Any:
    import diffusers

    words = clip_words(folder, "!")
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=clip_text(words, hidden_size=24, hidden_act="gelu", projection_dim=20),
        tokenizer=None,
        tokenizer_2=words,
        unet=unet(**SIZED, cross_attention_dim=24, projection_class_embeddings_input_dim=20 + 5 * 8),
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
        vocab_size=len(pieces), encoder_layers=2, encoder_ffn_dim=32, encoder_attention_heads=2, head_dim=6, d_model=16
    )
    return diffusers.LDMTextToImagePipeline(
        vqvae=vae(),
        bert=random(LDMBertModel(config), 1),
        tokenizer=BertTokenizer.from_pretrained(folder, model_max_length=512),
        unet=unet(**UNET, cross_attention_dim=16),
        scheduler=diffusers.DDIMScheduler(**BETAS, clip_sample=False),
    )


FAMILIES = {
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
