"""A model's parts: whether they fit each other, and the text encoders that diffusers is given of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.conditioning import CLIPTextModel, SizedConditioner, TextConditioner
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.store.folder import Parts
from mezzotint.store.parts import check_fit
from mezzotint.store.pipelines import ONE_TEXT, SECOND_TEXT, TWO_TEXTS
from mezzotint.store.texts import entries, texts_for_diffusers
from mezzotint.types import UserError

FOLDER = Path("model")


def with_unet(parts: Parts, **changes: Any) -> Parts:
    config: UNetConfig = replace(parts.unet.config, **changes)
    with torch.device("meta"):
        return replace(parts, unet=UNet(config))


def projecting(parts: Parts) -> CLIPTextModel:
    assert isinstance(parts.text_encoder, CLIPTextModel)
    return CLIPTextModel(replace(parts.text_encoder.config, projection_dim=12, with_projection=True))


def told_sizes(parts: Parts, numbers: int, **changes: Any) -> Parts:
    """A model whose U-Net is told so many numbers, 8 wide, beside a projected text."""
    sized: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 12 + numbers * 8,
    }
    return with_unet(replace(parts, text_encoder=projecting(parts), layer=-2, final_norm=False), **(sized | changes))


def test_what_a_model_is_told_follows_from_its_widths(tiny_parts: Parts) -> None:
    assert isinstance(tiny_parts.conditioner(), TextConditioner)
    assert (tiny_parts.numbers, tiny_parts.layout) == (0, ONE_TEXT)
    for numbers in (5, 6):
        one = told_sizes(tiny_parts, numbers)
        check_fit(FOLDER, one)
        assert (one.numbers, one.layout) == (numbers, SECOND_TEXT)
        assert isinstance(one.conditioner(), SizedConditioner)
    two = replace(
        told_sizes(tiny_parts, 6, cross_attention_dim=32),
        text_encoder=tiny_parts.text_encoder,
        tokenizer_2=tiny_parts.tokenizer,
        text_encoder_2=projecting(tiny_parts),
    )
    check_fit(FOLDER, two)
    assert two.layout == TWO_TEXTS


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cross_attention_dim": 24}, "tokens are 16 wide; the U-Net reads 24"),
        ({"in_channels": 3}, "reads 3 channels; the latent has 4"),
        ({"out_channels": 8, "in_channels": 8}, "has 4 latent channels; the U-Net predicts 8"),
        (
            {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
            "reads 12 numbers beside the text's tokens; .* give none",
        ),
    ],
)
def test_parts_that_do_not_fit_are_one_sentence(tiny_parts: Parts, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_fit(FOLDER, with_unet(tiny_parts, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projection_class_embeddings_input_dim": 12 + 7 * 8}, "reads 7 numbers"),
        ({"projection_class_embeddings_input_dim": 12 + 6 * 8 + 3}, "reads 63 numbers .* give 60"),
        ({"addition_time_embed_dim": None}, "addition_time_embed_dim"),
    ],
)
def test_sizes_that_do_not_fit_are_one_sentence(tiny_parts: Parts, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_fit(FOLDER, told_sizes(tiny_parts, 6, **changes))


def test_a_text_encoder_without_its_projection_is_one_sentence(tiny_parts: Parts) -> None:
    with pytest.raises(UserError, match="no projection"):
        check_fit(FOLDER, replace(told_sizes(tiny_parts, 6), text_encoder=tiny_parts.text_encoder))


def test_diffusers_is_given_the_tower_up_to_the_layer_that_is_read(tiny_parts: Parts) -> None:
    """As in single files of Stable Diffusion 2: one layer too many, and a projection that diffusers would read."""
    parts = replace(tiny_parts, text_encoder=projecting(tiny_parts), layer=-2)
    ((tokenizer, encoder),) = texts_for_diffusers(parts)
    assert isinstance(encoder, CLIPTextModel)
    assert (encoder.config.num_hidden_layers, encoder.config.with_projection) == (1, False)
    assert entries((tokenizer, encoder))[1] == ["transformers", "CLIPTextModel"]
    ids = torch.tensor(tokenizer.encode(["a red cube"]))
    assert torch.equal(encoder.read(ids)[0], parts.text_encoder.read(ids, layer=-2)[0])
    ((_, whole),) = texts_for_diffusers(tiny_parts)
    assert whole is tiny_parts.text_encoder


def test_sdxl_s_last_text_encoder_keeps_its_projection(tiny_parts: Parts) -> None:
    ((tokenizer, encoder),) = texts_for_diffusers(told_sizes(tiny_parts, 5))
    assert entries((tokenizer, encoder))[1] == ["transformers", "CLIPTextModelWithProjection"]


@pytest.mark.parametrize(
    "change", [{"final_norm": False}, {"layer": -2, "final_norm": False}], ids=["without the norm", "as SDXL"]
)
def test_what_diffusers_cannot_read_is_not_written(tiny_parts: Parts, change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="which diffusers cannot"):
        texts_for_diffusers(replace(tiny_parts, **change))


def test_sdxl_that_reads_the_last_layer_is_not_written(tiny_parts: Parts) -> None:
    with pytest.raises(UserError, match="reads layer -1"):
        texts_for_diffusers(replace(told_sizes(tiny_parts, 6), layer=-1))
