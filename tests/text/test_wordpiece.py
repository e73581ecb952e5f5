"""BERT's tokenizer: what it makes of texts, and what it says of damaged files."""

from __future__ import annotations

import json
import string
import subprocess
import sys
from pathlib import Path

import pytest

from mezzotint.text import WordPieceTokenizer, train_word_pieces
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


CORPUS = [
    f"a {size} {colour} {shape} {place} the {shape}s, in front of 3 {shape}s"
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "purple")
    for shape in ("cube", "sphere", "ball", "pyramid")
    for place in ("to the left of", "behind", "next to")
]
ASCII = 5 + len(string.punctuation) + 2 * 36
"""The special tokens, and what ASCII can write."""


def test_a_trained_vocabulary_has_the_layout_of_bert() -> None:
    found = train_word_pieces(CORPUS, 400)
    tokens = sorted(found.vocabulary, key=lambda token: found.vocabulary[token])
    assert tokens[:6] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!"]
    assert (tokens[ASCII - 1], found.vocab_size) == ("##z", len(tokens))
    assert tokens[ASCII] == "##he"  # The commonest pair of letters: of "the" and of "sphere".
    assert found.names(found.ids("A purple PYRAMID behind the spheres")) == [
        "a", "purple", "pyramid", "behind", "the", "spheres",
    ]  # fmt: skip
    assert found.names(found.ids("ballspheres")) == ["balls", "##p", "##her", "##es"]  # The longest piece first


def test_whatever_ascii_writes_is_known_and_comes_back() -> None:
    found = train_word_pieces(CORPUS, 300)
    text = f"zq7x {string.ascii_letters} {' '.join(string.punctuation)}"
    assert found.vocabulary["[UNK]"] not in found.ids(text)
    assert found.decode(found.ids(text)) == text.lower()


def test_other_letters_are_those_of_the_corpus_the_commonest_first() -> None:
    corpus = [*CORPUS, *["рожь"] * 3, *["же"] * 2]
    found = train_word_pieces(corpus, 300)
    assert found.names(found.ids("рожь ежей")) == ["рожь", "[UNK]"]  # There is no й in it,
    assert found.names(found.ids("ежь"))[0] == "е"  # and this it can spell.
    scarce = train_word_pieces(corpus, ASCII + 2)
    assert scarce.vocab_size == ASCII + 2
    assert scarce.names(scarce.ids("ж ь")) == ["ж", "[UNK]"]


def test_the_vocabulary_stops_at_its_size() -> None:
    assert train_word_pieces(CORPUS, 120).vocab_size == 120
    assert train_word_pieces([], ASCII).vocab_size == ASCII
    with pytest.raises(UserError, match=f"must be {ASCII} or more"):
        train_word_pieces(CORPUS, ASCII - 1)


def test_training_is_repeatable_in_another_process() -> None:
    code = (
        "import sys, json; from mezzotint.text import train_word_pieces;"
        "print(json.dumps(dict(train_word_pieces(json.load(sys.stdin), 300).vocabulary)))"
    )
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, input=json.dumps(CORPUS), capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == train_word_pieces(CORPUS, 300).vocabulary
