"""Latent diffusion's text encoder, by its properties."""

from __future__ import annotations

import pytest
import torch

from mezzotint.conditioning import LDMBertConfig, LDMBertModel, TextConditioner
from mezzotint.text import WordPieceTokenizer
from mezzotint.types import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube"]
WORDS = WordPieceTokenizer({token: index for index, token in enumerate(TOKENS)}, length=12)
CONFIG = LDMBertConfig(
    vocab_size=8,
    max_position_embeddings=12,
    d_model=8,
    encoder_layers=2,
    encoder_ffn_dim=16,
    encoder_attention_heads=2,
    head_dim=3,
)


@pytest.fixture(scope="module")
def model() -> LDMBertModel:
    torch.manual_seed(0)
    return LDMBertModel(CONFIG).eval()


@torch.no_grad()
def test_it_conditions_like_any_text_encoder(model: LDMBertModel) -> None:
    conditioner = TextConditioner(WORDS, model)
    found = conditioner(["a red cube", ""])
    assert found.sequence is not None
    assert found.sequence.shape == (2, 12, 8)
    assert found.pooled is None
    assert (conditioner.width, conditioner.pooled_width) == (8, None)
    assert torch.equal(found.sequence[:1], conditioner(["a red cube"]).sequence)


@torch.no_grad()
def test_every_token_sees_every_other(model: LDMBertModel) -> None:
    first, second = (torch.tensor(WORDS.encode([text])) for text in ("a red cube", "a red red"))
    assert not torch.allclose(model(first)[0, 1], model(second)[0, 1])


def test_layers_can_be_chosen_and_too_much_is_refused(model: LDMBertModel) -> None:
    ids = torch.tensor(WORDS.encode(["a"]))
    raw, normed = (model.read(ids, layer=-2, final_norm=norm)[0] for norm in (False, True))
    assert torch.equal(model.model.layer_norm(raw), normed)
    with pytest.raises(UserError, match="no layer -4"):
        model.read(ids, layer=-4)
    with pytest.raises(UserError, match="13 tokens"):
        model(torch.zeros(1, 13, dtype=torch.long))
    with pytest.raises(UserError, match="take both from one model"):
        TextConditioner(WordPieceTokenizer(WORDS.vocabulary), model)


def test_configs_round_trip() -> None:
    assert LDMBertConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert CONFIG.hidden_size == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotary_base": 10}, "rotary_base"),
        ({"model_type": "bert"}, "'bert' model"),
        ({"encoder_layers": 0}, "encoder_layers 0"),
        ({"d_model": "wide"}, "d_model 'wide'"),
        ({"activation_function": "relu6"}, "relu6"),
    ],
)
def test_bad_configs_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LDMBertConfig.from_dict(values)
