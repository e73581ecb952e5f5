"""BERT's tokenizer: what it makes of texts, and what it says of damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mezzotint.text import WordPieceTokenizer
from mezzotint.types import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cube", "##s", "!", "re", "##d"]
WORDS = WordPieceTokenizer({token: index for index, token in enumerate(TOKENS)}, length=8)


def write(folder: Path, tokens: list[str] = TOKENS, **config: object) -> Path:
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_a_text_becomes_ids_of_one_length() -> None:
    assert WORDS.encode(["A réd cubes!", ""]) == [[2, 5, 6, 7, 8, 9, 3, 0], [2, 3, 0, 0, 0, 0, 0, 0]]
    assert WORDS.encode(["a " * 20]) == [[2, *[5] * 6, 3]]
    assert (WORDS.room, WORDS.vocab_size) == (6, 12)
    with pytest.raises(TypeError, match="a sequence of texts"):
        WORDS.encode("a red cube")


def test_decoding_leaves_out_what_stands_for_no_text() -> None:
    assert WORDS.decode(WORDS.encode(["a red cube!"])[0]) == "a red cube !"
    with pytest.raises(UserError, match="no token 12"):
        WORDS.decode([12])


def test_broken_text_is_read() -> None:
    assert WORDS.ids("a \ud800") == [5, 1]


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    cased = WordPieceTokenizer(WORDS.vocabulary, lower=False, strip_accents=True, split_chinese=False, length=8)
    for tokenizer in (WORDS, cased):
        tokenizer.save(tmp_path)
        assert WordPieceTokenizer.from_folder(tmp_path, 8) == tokenizer
    assert cased.ids("RED") == [1]


def test_the_length_is_that_of_the_model_and_not_of_bert(tmp_path: Path) -> None:
    assert WordPieceTokenizer.from_folder(write(tmp_path, model_max_length=512)).length == 77


def test_only_line_feeds_part_tokens(tmp_path: Path) -> None:
    assert WordPieceTokenizer.from_folder(write(tmp_path, [*TOKENS, "\u2028", "end"])).vocabulary["end"] == 13


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (TOKENS[1:], r"lacks '\[PAD\]'"),
        ([*TOKENS, "a"], "stands in it twice"),
        ([], "lacks|holds no tokenizer"),
    ],
)
def test_a_damaged_vocabulary_is_one_sentence(tmp_path: Path, tokens: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        WordPieceTokenizer.from_folder(write(tmp_path, tokens))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", '{"pad_token": 3}', "no special token"),
        ("tokenizer.json", '{"model": []}', r"vocab\.txt is missing"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    if name == "tokenizer_config.json":
        write(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        WordPieceTokenizer.from_folder(tmp_path)


def test_too_short_a_length_is_refused() -> None:
    with pytest.raises(UserError, match="3 or more"):
        WordPieceTokenizer(WORDS.vocabulary, length=2)
