"""Several text encoders side by side, and what their model is told of the picture's size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mezzotint.conditioning import (
    CLIPTextConfig,
    CLIPTextModel,
    Conditioner,
    SizedConditioner,
    SizeNumbers,
    TextConditioner,
)
from mezzotint.layers import sinusoid
from mezzotint.text import train_tokenizer
from mezzotint.types import UserError, Words

TOKENIZER = train_tokenizer(["a red cube", "a blue sphere"] * 3, 530)
CONFIG = CLIPTextConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    eos_token_id=TOKENIZER.eos_id,
)
NUMBERS = SizeNumbers(count=6, dim=4)
REFINER = SizeNumbers(count=5, dim=4)


def text(**changes: object) -> TextConditioner:
    torch.manual_seed(0)
    return TextConditioner(TOKENIZER, CLIPTextModel(replace(CONFIG, **changes)).eval(), layer=-2, final_norm=False)


@pytest.fixture(scope="module")
def texts() -> list[TextConditioner]:
    return [text(), text(hidden_size=12, projection_dim=10, with_projection=True)]


@pytest.fixture(scope="module")
def both(texts: list[TextConditioner]) -> SizedConditioner:
    return SizedConditioner(texts, NUMBERS, zero_empty_negative=True)


@torch.no_grad()
def test_tokens_stand_side_by_side_and_the_last_text_is_pooled(both: SizedConditioner) -> None:
    conditioner: Conditioner = both
    found = conditioner([Words("a red cube", (48, 32))])
    first, second = (each(["a red cube"]) for each in both.texts)
    assert first.sequence is not None
    assert second.sequence is not None
    assert second.pooled is not None
    assert torch.equal(found.sequence, torch.cat([first.sequence, second.sequence], dim=2))
    sizes = sinusoid(torch.tensor([[32.0, 48, 0, 0, 32, 48]]), 4).flatten(1)  # heights come first
    assert torch.equal(found.pooled, torch.cat([second.pooled, sizes], dim=1))
    assert (both.width, both.pooled_width) == (20, 10 + 6 * 4)
    assert first.pooled is None


@torch.no_grad()
def test_rows_are_told_their_own_sizes(both: SizedConditioner) -> None:
    asked = [Words("a cube", (48, 32)), Words("a cube", (32, 48)), Words("", (64, 64)), Words("", (64, 64), True)]
    together = both(asked)
    assert together.pooled is not None
    assert together.sequence is not None
    for row, words in enumerate(asked):
        alone = both([words])
        # Other shapes take other paths through the matrix product.
        torch.testing.assert_close(together.pooled[row : row + 1], alone.pooled, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.sequence[row : row + 1], alone.sequence, rtol=1e-5, atol=1e-6)
    assert not torch.equal(together.pooled[0], together.pooled[1])
    assert torch.equal(together.sequence[0], together.sequence[1])


@torch.no_grad()
def test_an_empty_negative_is_zeros_where_the_model_wants_it(both: SizedConditioner) -> None:
    size = (64, 64)
    prompt, negative, some = both([Words("", size), Words("", size, True), Words("a", size, True)]).pooled.split(1)
    assert torch.equal(negative[:, :10], torch.zeros(1, 10))
    assert torch.equal(negative[:, 10:], prompt[:, 10:])  # its size it is told all the same
    assert not torch.equal(prompt[:, :10], negative[:, :10])
    assert some[:, :10].abs().max() > 0
    assert torch.equal(both([Words("", size, True)]).sequence, torch.zeros(1, 77, 20))
    spoken = SizedConditioner(both.texts, NUMBERS)([Words("", size, True)])
    torch.testing.assert_close(spoken.pooled, prompt, rtol=1e-5, atol=1e-6)


def test_the_refiner_is_told_a_score_in_place_of_the_target() -> None:
    assert REFINER.of(Words("", (48, 32))) == (32, 48, 0, 0, 6.0)
    assert REFINER.of(Words("", (48, 32), negative=True)) == (32, 48, 0, 0, 2.5)
    assert REFINER.embed([]).shape == (0, 20)


def test_what_does_not_go_together_is_refused(texts: list[TextConditioner]) -> None:
    with pytest.raises(UserError, match="no projection"):
        SizedConditioner(texts[:1], NUMBERS)
    short = TextConditioner(replace(TOKENIZER, length=20), texts[0].text_model)
    with pytest.raises(UserError, match="lengths 20, 77"):
        SizedConditioner([short, texts[1]], NUMBERS)
    with pytest.raises(UserError, match="reads 7 numbers"):
        SizeNumbers(count=7, dim=4)
    with pytest.raises(ValueError, match="told the picture's size"):
        SizedConditioner(texts, NUMBERS)(["a red cube"])


def test_it_is_moved_as_one(texts: list[TextConditioner]) -> None:
    conditioner = SizedConditioner([text(), text(projection_dim=10, with_projection=True)], NUMBERS)
    assert conditioner.to(dtype=torch.bfloat16) is conditioner
    assert {next(each.text_model.parameters()).dtype for each in conditioner.texts} == {torch.bfloat16}
    with torch.no_grad():
        assert conditioner([Words("a", (8, 8))]).sequence.dtype == torch.bfloat16


def test_a_shorter_tower_shares_its_weights() -> None:
    whole = text(projection_dim=10, with_projection=True).text_model
    assert isinstance(whole, CLIPTextModel)
    cut = whole.cut(blocks=1, with_projection=False)
    assert cut.config == replace(whole.config, num_hidden_layers=1, with_projection=False)
    ids = torch.tensor(TOKENIZER.encode(["a red cube"]))
    with torch.no_grad():
        assert torch.equal(cut.tokens(ids), whole.tokens(ids, layer=-2))
    assert cut.text_model.final_layer_norm.weight is not None
    assert cut.text_model.final_layer_norm.weight.data_ptr() == whole.text_model.final_layer_norm.weight.data_ptr()
    assert whole.cut(blocks=2, with_projection=True) is whole
    with pytest.raises(UserError, match="lacks layers or a projection"):
        cut.cut(blocks=1, with_projection=True)
