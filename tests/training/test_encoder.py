"""A U-Net trained on the tokens of an encoder that transformers loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mezzotint.conditioning.foreign import ForeignEncoder
from mezzotint.store.folder import load_folder
from mezzotint.training.recipe import Recipe
from mezzotint.training.recipes import changed, debug
from mezzotint.training.run import Run
from mezzotint.training.stages import carry_out
from mezzotint.types import UserError

transformers = pytest.importorskip("transformers")

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT in a folder, tokens 16 wide."""
    folder = tmp_path_factory.mktemp("encoders") / "tiny-bert"
    folder.mkdir()
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def recipe(encoder: Path, *settings: str) -> Recipe:
    small = ("size=16", "scenes=8", "clip.patch=8", "vae.crop=16", "decoder.crop=16", "unet.fit.images=8")
    return changed(debug(), [*small, f"encoder={encoder}", *settings])


def test_its_tokens_are_what_the_model_reads(encoder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run = Run(recipe(encoder), tmp_path / "run", "debug", start=tiny_folder)
    parts = load_folder(carry_out(run, "all"))
    assert isinstance(parts.text_encoder, ForeignEncoder)
    assert parts.text_encoder.class_name == "BertModel"
    ids = torch.tensor(parts.tokenizer.encode(["a red cube"]))
    assert ids[0, :6].tolist() == [2, 5, 6, 7, 3, 0]
    theirs = transformers.BertModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        found = parts.conditioner()(["a red cube"]).sequence
        expected = theirs(ids, attention_mask=(ids != 0).long()).last_hidden_state
    # The assembled model's weights are stored in 16 bits.
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    told = json.loads((tmp_path / "run" / "model" / "mezzotint.json").read_text())["recipe"]
    assert told["encoder"] == "tiny-bert"  # not where it lies on this machine


def test_what_does_not_fit_is_told_before_anything_is_written(encoder: Path, tmp_path: Path) -> None:
    other = recipe(encoder, "unet.network.cross_attention_dim=24")
    with pytest.raises(UserError, match="are 16 wide and the U-Net reads 24"):
        carry_out(Run(other, tmp_path / "run", "debug"), "all")
    with pytest.raises(UserError, match="no text tower to train"):
        carry_out(Run(other, tmp_path / "run", "debug"), "clip")
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        carry_out(Run(replace(other, encoder=str(tmp_path)), tmp_path / "run", "debug"), "all")
    assert not (tmp_path / "run").exists()
