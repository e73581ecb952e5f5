"""The tokenizer against transformers' CLIPTokenizer, on our folders and on the layouts that others publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from mezzotint.text import Tokenizer, train_tokenizer

CORPUS = [f"a {colour} {shape} to the left of 2 {shape}s" for colour in ("red", "blue") for shape in ("cube", "sphere")]
TOKENIZER = train_tokenizer(CORPUS, 560)
TEXTS = [
    "",
    " ",
    "a red cube",
    "A RED Cube, to the LEFT of two spheres!!",
    "don't we'll it's 1234 cubes; 'tis",
    "naïve café Ünïcode straße ﬁne",
    "an e\u0301 that is two characters",
    "🟥 cube 👩‍👩‍👧 and ⬛️",
    "线 赤い立方体 красный куб مكعب أحمر",
    "tab\tnew\nline\r\nand\u00a0other\u2003spaces \u200b",
    "<|startoftext|>a cube<|endoftext|> and more",
    "<|EndOfText|> <|STARTOFTEXT|>",
    "_under_score-dash (bracket) [x:1.3]",
    "!a cube! wow!!",
    "\x00\x01 control",
    "red " * 500,
    "x" * 5000,
]


def theirs_of(folder: Path) -> Any:
    return CLIPTokenizer.from_pretrained(folder)


def their_ids(theirs: Any, texts: list[str]) -> list[list[int]]:
    return theirs(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]


ADDED = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
STABLE_DIFFUSION_1 = {
    "bos_token": {"content": "<|startoftext|>", **ADDED},
    "eos_token": {"content": "<|endoftext|>", **ADDED},
    "pad_token": "<|endoftext|>",
    "unk_token": {"content": "<|endoftext|>", **ADDED},
}


def layout(folder: Path, name: str) -> None:
    """The files of one published layout around our small vocabulary."""
    TOKENIZER.save(folder)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True} | STABLE_DIFFUSION_1
    special = dict(STABLE_DIFFUSION_1)
    if name == "stable diffusion 2":
        special["pad_token"] = "!"
    if name == "added tokens listed":
        ids = TOKENIZER.vocabulary
        names = {"pad": "!", "eos": "<|endoftext|>", "bos": "<|startoftext|>", "unk": "<|endoftext|>"}
        config = config | {f"{name}_token": token for name, token in names.items()}
        config["added_tokens_decoder"] = {
            str(ids["!"]): {"content": "!", **ADDED, "normalized": False, "special": True},
            str(ids["<|startoftext|>"]): {"content": "<|startoftext|>", **ADDED, "special": True},
            str(ids["<|endoftext|>"]): {"content": "<|endoftext|>", **ADDED, "normalized": False, "special": True},
        }
        special = {}
    if name != "ours":
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    if name == "files missing":
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
        (folder / "special_tokens_map.json").unlink()
    if name == "saved by transformers":
        theirs_of(folder).save_pretrained(folder)
        for old in ("vocab.json", "merges.txt", "special_tokens_map.json"):
            (folder / old).unlink(missing_ok=True)
        assert (folder / "tokenizer.json").is_file()


LAYOUTS = [
    "ours",
    "stable diffusion 1",
    "stable diffusion 2",
    "added tokens listed",
    "files missing",
    "saved by transformers",
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_agree(name: str, tmp_path: Path) -> None:
    layout(tmp_path, name)
    ours, theirs = Tokenizer.from_folder(tmp_path), theirs_of(tmp_path)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    for text, row, expected in zip(TEXTS, ours.encode(TEXTS), their_ids(theirs, TEXTS), strict=True):
        assert row == expected, text
    ours.save(tmp_path / "again")
    assert Tokenizer.from_folder(tmp_path / "again") == ours
    assert their_ids(theirs_of(tmp_path / "again"), TEXTS) == ours.encode(TEXTS)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save(folder)
    return Tokenizer.from_folder(folder), theirs_of(folder)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=150, deadline=None)
def test_ids_agree_on_any_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    assert pair[0].encode([text]) == their_ids(pair[1], [text])
