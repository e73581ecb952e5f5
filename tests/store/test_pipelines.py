"""What diffusers' pipelines call their parts, and what is said of those that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mezzotint.store.layout import parts_with_weights
from mezzotint.store.pipelines import (
    LATENT_DIFFUSION,
    ONE_TEXT,
    SECOND_TEXT,
    TWO_TEXTS,
    Layout,
    carried_along,
    class_name,
    layout_of,
    model_index,
)
from mezzotint.types import UserError

NONE = [None, None]
ONE: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": NONE,
    "requires_safety_checker": True,
}
SECOND = {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}
LDM = {key: ONE[key] for key in ("scheduler", "unet")} | {
    "bert": ["latent_diffusion", "LDMBertModel"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "vqvae": ["diffusers", "AutoencoderKL"],
}


@pytest.mark.parametrize(
    ("index", "layout"),
    [
        (ONE, ONE_TEXT),
        (ONE | SECOND, TWO_TEXTS),
        (ONE | SECOND | {"text_encoder": NONE, "tokenizer": NONE}, SECOND_TEXT),
        (LDM, LATENT_DIFFUSION),
        ({**LDM, "vqvae": NONE, "vae": LDM["vqvae"]}, Layout(texts=LATENT_DIFFUSION.texts, vae="vae")),
        (ONE | {"_class_name": "AnythingPipeline"}, ONE_TEXT),
        (ONE | {"text_encoder": ["transformers", "T5EncoderModel"]}, ONE_TEXT),
    ],
)
def test_a_folder_is_told_by_its_parts(index: dict[str, Any], layout: Layout) -> None:
    assert layout_of(Path("model"), index) == layout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unet": NONE}, "has no unet"),
        ({"scheduler": NONE}, "has no scheduler"),
        ({"text_encoder": NONE}, "has no text_encoder"),
        ({"tokenizer": NONE}, "has no tokenizer"),
        (SECOND | {"tokenizer_2": NONE}, "has no tokenizer_2 with its text_encoder_2"),
        ({"unet": ["diffusers", "UNet3DConditionModel"]}, "only a UNet2DConditionModel"),
        ({"text_encoder": ["kolors", "ChatGLMModel"]}, "is a ChatGLMModel"),
        (
            SECOND | {"text_encoder_2": ["transformers", "T5EncoderModel"]},
            "only a CLIPTextModel or CLIPTextModelWithProjection",
        ),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "a part controlnet"),
        ({"vae": ["diffusers", "AutoencoderKLWan"]}, "only a AutoencoderKL or AutoencoderTiny"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        layout_of(Path("model"), ONE | changes)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    ("layout", "numbers", "channels", "name"),
    [
        (ONE_TEXT, 0, 0, "StableDiffusionPipeline"),
        (ONE_TEXT, 0, 1, "StableDiffusionDepth2ImgPipeline"),
        (ONE_TEXT, 0, 4, "StableDiffusionInstructPix2PixPipeline"),
        (ONE_TEXT, 0, 5, "StableDiffusionInpaintPipeline"),
        (TWO_TEXTS, 6, 0, "StableDiffusionXLPipeline"),
        (TWO_TEXTS, 6, 4, "StableDiffusionXLInstructPix2PixPipeline"),
        (TWO_TEXTS, 6, 5, "StableDiffusionXLInpaintPipeline"),
        (SECOND_TEXT, 5, 0, "StableDiffusionXLImg2ImgPipeline"),
        (LATENT_DIFFUSION, 0, 0, "LDMTextToImagePipeline"),
    ],
)
def test_every_family_is_a_pipeline_of_diffusers(layout: Layout, numbers: int, channels: int, name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    assert class_name(layout, numbers, channels) == name
    assert hasattr(diffusers, name)
    index = model_index(layout, {}, numbers=numbers, channels=channels, zero_empty_negative=True)
    assert index["_class_name"] == name


@pytest.mark.parametrize(
    ("layout", "numbers", "channels"),
    [(ONE_TEXT, 0, 3), (TWO_TEXTS, 6, 1), (SECOND_TEXT, 5, 5), (LATENT_DIFFUSION, 0, 5)],
)
def test_what_diffusers_has_no_pipeline_for_is_not_written(layout: Layout, numbers: int, channels: int) -> None:
    with pytest.raises(UserError, match="diffusers has no pipeline"):
        class_name(layout, numbers, channels)


def test_only_what_the_depth_pipeline_needs_is_carried_along() -> None:
    assert carried_along(ONE | {"feature_extractor": ["transformers", "CLIPImageProcessor"]}) == {}
    estimator = {"depth_estimator": ["transformers", "DPTForDepthEstimation"]}
    assert carried_along(ONE | estimator) == estimator


def test_parts_with_weights_are_those_of_the_index(tiny_folder: Path) -> None:
    assert parts_with_weights(tiny_folder) == ["unet", "vae", "text_encoder"]
