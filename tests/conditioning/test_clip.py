"""CLIP's towers and the text conditioner, by their properties."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mezzotint.conditioning import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    TextConditioner,
)
from mezzotint.text import train_tokenizer
from mezzotint.types import UserError

TOKENIZER = train_tokenizer(["a red cube", "a blue sphere"] * 3, 530)
TEXT = CLIPTextConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    eos_token_id=TOKENIZER.eos_id,
)
VISION = CLIPVisionConfig(
    hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
)


@pytest.fixture(scope="module")
def model() -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(TEXT).eval()


def ids_of(*texts: str) -> torch.Tensor:
    return torch.tensor(TOKENIZER.encode(texts))


def test_a_trimmed_sequence_says_the_same(model: CLIPTextModel) -> None:
    ids = ids_of("a red cube", "a blue sphere and a red cube")
    length = int(model.text_model.eos_place(ids).max()) + 1
    with torch.no_grad():
        whole, trimmed = model(ids), model(ids[:, :length])
    # Other shapes take other paths through the matrix product, so the last bits may differ.
    torch.testing.assert_close(trimmed.pooled, whole.pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(trimmed.last_hidden_state, whole.last_hidden_state[:, :length], rtol=1e-5, atol=1e-5)


def test_no_token_sees_those_after_it(model: CLIPTextModel) -> None:
    first, second = ids_of("a red cube", "a red sphere")
    shared = int((first != second).int().argmax())
    with torch.no_grad():
        rows = model(torch.stack([first, second])).last_hidden_state
    assert torch.equal(rows[0, :shared], rows[1, :shared])
    assert not torch.allclose(rows[0, shared], rows[1, shared])


@pytest.mark.parametrize("causal", [True, False])
def test_the_written_out_attention_is_the_fused_one(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tower = CLIPTextModel(TEXT) if causal else CLIPVisionModel(VISION)
    given = ids_of("a red cube") if causal else torch.randn(1, 3, 16, 16, generator=generator)
    with_gradient = tower(given).pooled
    assert with_gradient.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(tower(given).pooled, with_gradient.detach(), rtol=1e-5, atol=1e-6)


def test_pooled_is_the_token_at_the_first_eos(model: CLIPTextModel) -> None:
    ids = ids_of("a red cube", "")
    found = model(ids)
    places = (ids == TOKENIZER.eos_id).int().argmax(1)
    assert places.tolist() == [4, 1]
    assert torch.equal(found.pooled, found.last_hidden_state[torch.arange(2), places])
    assert found.hidden_states is None
    assert found.projected is None


def test_layers_can_be_chosen(model: CLIPTextModel) -> None:
    ids = ids_of("a red cube")
    states = model(ids, hidden_states=True).hidden_states
    norm = model.text_model.final_layer_norm
    assert torch.equal(model.tokens(ids), model(ids).last_hidden_state)
    assert torch.equal(model.tokens(ids, layer=-2), norm(states[-2]))
    assert torch.equal(model.tokens(ids, layer=-3, final_norm=False), states[0])
    with pytest.raises(UserError, match="no layer -4"):
        model.tokens(ids, layer=-4)
    with pytest.raises(UserError, match="no layer 0"):
        model.tokens(ids, layer=0)


def test_bf16_is_close(model: CLIPTextModel) -> None:
    ids = ids_of("a red cube")
    half = CLIPTextModel(TEXT)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16)
    with torch.no_grad():
        found, expected = half(ids).last_hidden_state, model(ids).last_hidden_state
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)  # 2^-8 a step, over two layers, near 3


def test_old_files_carry_position_ids(model: CLIPTextModel) -> None:
    state = dict(model.state_dict()) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    CLIPTextModel(TEXT).load_state_dict(state)
    assert "text_model.embeddings.position_ids" in state  # the caller's dict is left as it was


def test_contrastive_training_finds_the_pairs() -> None:
    torch.manual_seed(0)
    clip = CLIPModel(CLIPTextModel(TEXT), CLIPVisionModel(VISION), projection_dim=8)
    assert clip.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-4)
    ids, pixels = ids_of("a red cube", "a blue sphere", "red"), torch.randn(3, 3, 16, 16)
    optimiser = torch.optim.Adam(clip.parameters(), lr=3e-3)
    for _ in range(25):
        logits = clip(ids, pixels)
        labels = torch.arange(3)
        loss = torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert all(parameter.grad is not None for parameter in clip.parameters())
    with torch.no_grad():
        assert clip(ids, pixels).argmax(1).tolist() == [0, 1, 2]
        torch.testing.assert_close(clip.encode_image(pixels).norm(dim=1), torch.ones(3))


def test_a_clip_shares_its_towers() -> None:
    text = CLIPTextModel(TEXT)
    clip = CLIPModel(text, CLIPVisionModel(VISION))
    assert clip.text_encoder().text_model is clip.text_model is text.text_model
    assert clip.text_encoder().config == TEXT


def test_conditioner(model: CLIPTextModel) -> None:
    conditioner = TextConditioner(TOKENIZER, model)
    prompts = ["a red cube", "", "🟥" * 18]
    with torch.no_grad():
        found = conditioner(prompts)
        assert torch.equal(found.sequence, model(ids_of(*prompts)).last_hidden_state)
        assert found.sequence.shape == (3, 77, conditioner.width)
        assert conditioner([]).sequence.shape == (0, 77, 16)
        raw = TextConditioner(TOKENIZER, model, layer=-2, final_norm=False)(prompts)
        assert torch.equal(raw.sequence, model(ids_of(*prompts), hidden_states=True).hidden_states[-2])
    assert found.pooled is None
    assert found.spatial is None


def test_conditioner_refuses_strangers() -> None:
    with pytest.raises(UserError, match="take both from one model"):
        TextConditioner(TOKENIZER, CLIPTextModel(replace(TEXT, vocab_size=TOKENIZER.vocab_size - 1)))
    with pytest.raises(UserError, match="take both from one model"):
        TextConditioner(TOKENIZER, CLIPTextModel(replace(TEXT, max_position_embeddings=76)))


def test_too_much_is_refused(model: CLIPTextModel) -> None:
    with pytest.raises(UserError, match="78 tokens"):
        model(torch.zeros(1, 78, dtype=torch.long))
    with pytest.raises(UserError, match="reads 16 by 16"):
        CLIPVisionModel(VISION)(torch.zeros(1, 3, 16, 24))


def test_configs_round_trip() -> None:
    projected = replace(TEXT, with_projection=True)
    assert CLIPTextConfig.from_dict(TEXT.to_dict()) == TEXT
    assert CLIPTextConfig.from_dict(projected.to_dict()) == projected
    assert CLIPVisionConfig.from_dict(VISION.to_dict()) == VISION
    whole = CLIPConfig(text=TEXT, vision=VISION, projection_dim=8)
    assert CLIPConfig.from_dict(whole.to_dict()) == whole
    assert TEXT.to_dict()["architectures"] == ["CLIPTextModel"]
    assert TEXT.to_dict()["model_type"] == "clip_text_model"


def test_the_config_published_with_stable_diffusion_1_is_read() -> None:
    published = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "projection_dim": 768,
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
        "vocab_size": 49408,
    }
    config = CLIPTextConfig.from_dict(published)
    assert (config.hidden_size, config.num_attention_heads, config.eos_token_id) == (768, 12, 2)


def test_the_towers_of_an_old_whole_config_are_read() -> None:
    published = {
        "model_type": "clip",
        "projection_dim": 768,
        "logit_scale_init_value": 2.6592,
        "text_config": {"hidden_size": 768, "num_attention_heads": 12, "top_k": 50, "architectures": None},
        "text_config_dict": {"intermediate_size": 3072},
        "vision_config": {"patch_size": 14},
        "vision_config_dict": None,
    }
    config = CLIPConfig.from_dict(published)
    assert (config.projection_dim, config.text.hidden_size, config.text.intermediate_size) == (768, 768, 3072)
    assert config.vision.patch_size == 14


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CLIPTextConfig, {"rotary_base": 10}, "rotary_base"),
        (CLIPTextConfig, {"model_type": "t5"}, "'t5' model"),
        (CLIPTextConfig, {"hidden_act": "relu"}, "hidden_act"),
        (CLIPTextConfig, {"num_attention_heads": 7}, "num_attention_heads 7"),
        (CLIPTextConfig, {"num_hidden_layers": 0}, "num_hidden_layers 0"),
        (CLIPTextConfig, {"vocab_size": "many"}, "vocab_size 'many'"),
        (CLIPVisionConfig, {"patch_size": 300}, "image_size 224"),
        (CLIPVisionConfig, {"vocab_size": 10}, "vocab_size"),
        (CLIPConfig, {"model_type": "siglip"}, "'siglip' model"),
        (CLIPConfig, {"audio_config": {}}, "audio_config"),
    ],
)
def test_bad_configs_are_named(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind.from_dict(values)
