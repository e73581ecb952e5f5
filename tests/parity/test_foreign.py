"""Encoders of transformers as conditioners of a model of ours, and the same folder in diffusers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.conditioning.foreign import ForeignEncoder, ForeignTokenizer, load_encoder, load_tokenizer
from mezzotint.noise import draw_noise
from mezzotint.pipeline import Pipeline
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.types import UserError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cube", "ball"]
PROMPT, NEGATIVE = "a red cube", "a blue ball"


def bert(folder: Path) -> Any:
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).eval().save_pretrained(folder)


def t5(folder: Path) -> Any:
    """All of it, encoder and decoder, as it is published."""
    config = transformers.T5Config(
        vocab_size=16, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    transformers.T5ForConditionalGeneration(config).eval().save_pretrained(folder)


@pytest.fixture(scope="module", params=[bert, t5], ids=["BERT", "T5"])
def text(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tokenizer and an encoder, read from the folder that transformers has written."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    request.param(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "vocab.txt").unlink()
    tokenizer = load_tokenizer(folder, length=12)
    return tokenizer, load_encoder(folder, tokenizer.pad_id)


@torch.no_grad()
def test_padding_is_hidden_from_words(text: tuple[ForeignTokenizer, ForeignEncoder]) -> None:
    tokenizer, encoder = text
    assert tokenizer.encode([PROMPT]) == [[2, 5, 6, 8, 3, *[0] * 7]]
    assert tokenizer.encode([]) == []
    assert [tokenizer.row(tokenizer.ids(text)) for text in (PROMPT, "")] == tokenizer.encode([PROMPT, ""])
    assert tokenizer.encode([PROMPT])[0][tokenizer.place(3) :][:3] == tokenizer.ids(PROMPT)
    assert tokenizer.names(tokenizer.ids(PROMPT)) == PROMPT.split()
    ids = torch.tensor(tokenizer.encode([PROMPT]))
    whole, short = encoder.read(ids)[0], encoder.read(ids[:, :5])[0]
    # Other shapes take other paths through the matrix product.
    torch.testing.assert_close(whole[:, :5], short, rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match="only the last layer"):
        encoder.read(ids, layer=-2)


def test_a_folder_with_it_draws_the_same_here_and_there(
    text: tuple[ForeignTokenizer, ForeignEncoder], tiny_parts: Parts, tmp_path: Path
) -> None:
    tokenizer, encoder = text
    parts = dataclasses.replace(tiny_parts, tokenizer=tokenizer, text_encoder=encoder)
    save_folder(parts, tmp_path / "model")
    read = load_folder(tmp_path / "model")
    assert isinstance(read.tokenizer, ForeignTokenizer)
    assert read.tokenizer.length == 12
    mine, its = encoder.state_dict(), read.text_encoder.state_dict()
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    noise = draw_noise([7], (4, 4, 4))
    image = Pipeline.of(read)(PROMPT, negative=NEGATIVE, noise=noise, steps=10, guidance=4.0, sampler="ddim")
    settings = {"latents": noise.clone(), "height": 32, "width": 32, "num_inference_steps": 10, "guidance_scale": 4.0}
    (expected,) = theirs(PROMPT, negative_prompt=NEGATIVE, **settings).images
    # Sums in another order, which may round a value to the other side of a half.
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_what_is_no_text_encoder_is_one_sentence(tmp_path: Path) -> None:
    for load in (lambda: load_tokenizer(tmp_path), lambda: load_encoder(tmp_path, 0)):
        with pytest.raises(UserError, match="cannot be loaded by transformers") as error:
            load()
        assert "\n" not in str(error.value)
