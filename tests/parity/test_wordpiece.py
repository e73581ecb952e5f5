"""BERT's tokenizer against transformers' BertTokenizer, on its own files and on ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from mezzotint.text import WordPieceTokenizer

LETTERS = [chr(code) for code in (*range(33, 48), *range(48, 127), 0xDF, 0xE9, 0x6C34, 0x3042)]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS), "red", "##be"]
TEXTS = [
    "",
    "A RED Cube, to the LEFT of two spheres!!",
    "don't; 'tis 1234 x1",
    "naïve café Ünïcode straße ﬁne é",
    "线 水 赤い立方体 あ",
    "tab\tnew\nline\u00a0and\u2003spaces\u200b \x00\x01 \ufffd",
    "[CLS] a [MASK] b [SEP] [sep] [UNK]",
    "red " * 300,
    "x" * 150,
]


@pytest.fixture(scope="module", params=[{}, {"do_lower_case": False}, {"strip_accents": False}])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[WordPieceTokenizer, Any]:
    folder = tmp_path_factory.mktemp("wordpiece")
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    theirs = BertTokenizer.from_pretrained(folder, **request.param)
    theirs.save_pretrained(folder / "theirs")
    return WordPieceTokenizer.from_folder(folder / "theirs"), theirs


def their_ids(theirs: Any, texts: list[str]) -> list[list[int]]:
    return theirs(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]


def test_ids_agree(pair: tuple[WordPieceTokenizer, Any], tmp_path: Path) -> None:
    ours, theirs = pair
    for text, row, expected in zip(TEXTS, ours.encode(TEXTS), their_ids(theirs, TEXTS), strict=True):
        assert row == expected, text
    ours.save(tmp_path)
    assert WordPieceTokenizer.from_folder(tmp_path) == ours
    assert their_ids(BertTokenizer.from_pretrained(tmp_path), TEXTS) == ours.encode(TEXTS)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=100, deadline=None)
def test_ids_agree_on_any_text(pair: tuple[WordPieceTokenizer, Any], text: str) -> None:
    assert pair[0].encode([text]) == their_ids(pair[1], [text])
