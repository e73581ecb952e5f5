"""Learned words are read as their vectors, and leave no trace when they go."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.conditioning.words import LearnedWords
from mezzotint.store.folder import Parts
from mezzotint.types import UserError


@pytest.fixture
def conditioner(tiny_parts: Parts) -> TextConditioner:
    return TextConditioner(tiny_parts.tokenizer, copy.deepcopy(tiny_parts.text_encoder))


def read(conditioner: TextConditioner, text: str) -> torch.Tensor:
    with torch.no_grad():
        sequence = conditioner([text]).sequence
    assert sequence is not None
    return sequence


def test_a_word_with_a_tokens_vector_reads_as_that_token(conditioner: TextConditioner) -> None:
    ids = conditioner.tokenizer.ids("red cube")
    table = conditioner.text_model.text_model.embeddings.token_embedding.weight
    LearnedWords([conditioner]).set({"<thing>": {16: table[ids]}})
    assert conditioner.tokenizer.ids("<thing>") == list(range(len(table), len(table) + len(ids)))
    assert torch.equal(read(conditioner, "a <thing> left"), read(conditioner, "a red cube left"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_after_the_last_goes_every_bit_is_where_it_was(conditioner: TextConditioner, dtype: torch.dtype) -> None:
    model, tokenizer = conditioner.text_model.to(dtype), conditioner.tokenizer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = read(conditioner, "a red <thing>")
    words = LearnedWords([conditioner])
    words.set({"<thing>": {16: torch.randn(2, 16)}})
    assert not torch.equal(read(conditioner, "a red <thing>"), drawn)
    assert read(conditioner, "a red <thing>").dtype == dtype
    words.set({"other": {16: torch.randn(1, 16)}})
    assert torch.equal(read(conditioner, "a red <thing>"), drawn)
    words.set({})
    assert torch.equal(read(conditioner, "a red <thing>"), drawn)
    assert conditioner.tokenizer == tokenizer
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_words_are_no_part_of_what_is_saved_and_move_with_the_model(conditioner: TextConditioner) -> None:
    keys = conditioner.text_model.state_dict().keys()
    LearnedWords([conditioner]).set({"<thing>": {16: torch.randn(2, 16)}})
    assert conditioner.text_model.state_dict().keys() == keys
    conditioner.text_model.to(torch.float64)
    assert read(conditioner, "<thing>").dtype == torch.float64


def test_where_the_text_ends_does_not_depend_on_words() -> None:
    """Files with eos_token_id 2 mean the highest id of the vocabulary; the ids of learned words are higher."""
    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(vocab_size=20, hidden_size=16, num_attention_heads=2, eos_token_id=2)).eval()
    model.text_model.embeddings.learned = torch.randn(2, 16)
    ids = torch.tensor([[18, 20, 21, 19, 19], [18, 3, 19, 19, 19]])
    assert model.text_model.eos_place(ids).tolist() == [3, 2]


@pytest.fixture
def pair(tiny_parts: Parts) -> list[SimpleNamespace]:
    """Two encoders of different widths that read the same prompt, as in SDXL."""
    torch.manual_seed(0)
    made = []
    for width in (16, 24):
        config = CLIPTextConfig(
            vocab_size=tiny_parts.tokenizer.vocab_size,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
        made.append(SimpleNamespace(tokenizer=tiny_parts.tokenizer, text_model=CLIPTextModel(config).eval()))
    return made


def test_a_pair_of_encoders_takes_each_its_own_vectors(pair: list[SimpleNamespace]) -> None:
    vectors = {16: torch.randn(2, 16), 24: torch.randn(2, 24)}
    LearnedWords(pair).set({"<thing>": vectors})
    for one, width in zip(pair, (16, 24), strict=True):
        assert len(one.tokenizer.ids("<thing>")) == 2
        assert torch.equal(one.text_model.text_model.embeddings.learned, vectors[width])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({16: torch.zeros(2, 16)}, "learned as vectors 16 wide, but this model's text is read 16 and 24 wide"),
        ({16: torch.zeros(2, 16), 24: torch.zeros(1, 24)}, "2 and 1 vectors"),
        ({16: torch.zeros(16), 24: torch.zeros(1, 24)}, r"shape \[16\]"),
        ({16: torch.zeros(0, 16), 24: torch.zeros(0, 24)}, r"shape \[0, 16\]"),
    ],
)
def test_a_word_that_does_not_fit_is_refused_before_anything_changes(
    vectors: dict[int, torch.Tensor], message: str, pair: list[SimpleNamespace]
) -> None:
    tokenizers = [one.tokenizer for one in pair]
    good = {16: torch.zeros(1, 16), 24: torch.zeros(1, 24)}
    with pytest.raises(UserError, match=message):
        LearnedWords(pair).set({"<good>": good, "<thing>": vectors})
    assert [one.tokenizer for one in pair] == tokenizers
    assert all(one.text_model.text_model.embeddings.learned is None for one in pair)


def test_other_text_encoders_learn_no_words() -> None:
    with pytest.raises(UserError, match="CLIP's text encoders alone"):
        LearnedWords([SimpleNamespace(tokenizer=object(), text_model=object())]).set({})
