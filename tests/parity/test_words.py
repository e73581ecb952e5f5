"""A text with learned words is read as transformers reads it with the same vectors in its table."""

from __future__ import annotations

import copy

import pytest
import torch

from mezzotint.conditioning.text import TextConditioner
from mezzotint.conditioning.words import LearnedWords
from mezzotint.store.embeddings import read_embeddings
from mezzotint.store.folder import Parts

transformers = pytest.importorskip("transformers")


def test_transformers_reads_the_same(tiny_parts: Parts) -> None:
    config = tiny_parts.text_encoder.config
    theirs = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config.to_dict())).eval()
    state = tiny_parts.text_encoder.state_dict()
    if not any(name.startswith("text_model.") for name in theirs.state_dict()):
        state = {name.removeprefix("text_model."): value for name, value in state.items()}
    theirs.load_state_dict(state)
    torch.manual_seed(0)
    vectors = torch.randn(3, config.hidden_size)
    theirs.resize_token_embeddings(config.vocab_size + 3, mean_resizing=False)
    with torch.no_grad():
        theirs.get_input_embeddings().weight[config.vocab_size :] = vectors

    conditioner = TextConditioner(tiny_parts.tokenizer, copy.deepcopy(tiny_parts.text_encoder))
    (learned,) = read_embeddings({"<thing>": vectors}, word="file")
    LearnedWords([conditioner]).set({learned.word: learned.vectors})
    text = "a red <thing>, behind a <thing>"
    own = range(config.vocab_size, config.vocab_size + 3)
    ids = conditioner.tokenizer.encode([text])
    assert [index for index in ids[0] if index >= config.vocab_size] == [*own, *own]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).last_hidden_state
        actual = conditioner([text]).sequence
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # fp32 in another order
