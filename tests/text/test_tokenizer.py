"""The tokenizer: what it promises whatever it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzotint.text import SpecialTokens, Tokenizer, train_tokenizer
from mezzotint.types import UserError

CORPUS = [
    f"a {size} {colour} {shape} {place} the {shape}, in front of 3 {shape}s"
    for size in ("small", "large")
    for colour in ("red", "green", "blue", "purple")
    for shape in ("cube", "sphere", "ball", "pyramid")
    for place in ("to the left of", "behind", "next to")
]
TOKENIZER = train_tokenizer(CORPUS, 600)


def test_a_sequence_is_bos_text_eos_padding() -> None:
    rows = TOKENIZER.encode(["a red cube", ""])
    text = TOKENIZER.ids("a red cube")
    fill = [TOKENIZER.pad_id] * (77 - 2 - len(text))
    assert rows == [
        [TOKENIZER.bos_id, *text, TOKENIZER.eos_id, *fill],
        [TOKENIZER.bos_id, TOKENIZER.eos_id] + [TOKENIZER.pad_id] * 75,
    ]
    assert TOKENIZER.tokens("A  Red\tCUBE") == ["a</w>", "red</w>", "cube</w>"]


def test_a_long_text_is_cut_and_still_ends_in_eos() -> None:
    (row,) = TOKENIZER.encode(["red " * 10_000])
    assert len(row) == 77
    assert row == [TOKENIZER.bos_id, *TOKENIZER.ids("red") * 75, TOKENIZER.eos_id]


def test_a_trained_vocabulary_has_the_layout_of_clip() -> None:
    by_id = sorted(TOKENIZER.vocabulary, key=lambda token: TOKENIZER.vocabulary[token])
    assert TOKENIZER.vocab_size == len(by_id) <= 600
    assert by_id[:3] == ["!", '"', "#"]
    assert by_id[256:258] == ["!</w>", '"</w>']
    assert by_id[-2:] == ["<|startoftext|>", "<|endoftext|>"]
    assert by_id[512:-2] == list(dict.fromkeys(first + second for first, second in TOKENIZER.merges))


def test_training_is_repeatable_in_another_process() -> None:
    code = (
        "import sys, json; from mezzotint.text import train_tokenizer;"
        "print(json.dumps(train_tokenizer(json.load(sys.stdin), 600).merges))"
    )
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, input=json.dumps(CORPUS), capture_output=True, text=True, check=True).stdout
    assert [tuple(pair) for pair in json.loads(found)] == list(TOKENIZER.merges)


def test_the_vocabulary_stops_at_its_size() -> None:
    assert train_tokenizer(CORPUS, 520).vocab_size == 520
    assert train_tokenizer([], 514).vocab_size == 514


@given(st.text(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_text_is_tokenised_and_comes_back(text: str) -> None:
    (row,) = TOKENIZER.encode([text])
    assert len(row) == 77
    assert row[0] == TOKENIZER.bos_id
    assert TOKENIZER.eos_id in row
    assert all(0 <= index < TOKENIZER.vocab_size for index in row)
    ids = [index for index in TOKENIZER.ids(text) if index not in (TOKENIZER.bos_id, TOKENIZER.eos_id)]
    assert TOKENIZER.ids(TOKENIZER.decode(ids)) == ids  # nothing is lost that the tokenizer sees


@pytest.mark.parametrize(
    "text", ["\ud800 half a surrogate", "\x00", "🟥⬛️👩‍👩‍👧", "ǅ İ ß", "<|endoftext|> a cube <|startoftext|>"]
)
def test_odd_text_does_not_fail(text: str) -> None:
    assert [len(row) for row in TOKENIZER.encode([text])] == [77]


def test_decode_names_an_id_that_is_not_there() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(["Two Cubes!"])[0]) == "two cubes !"
    with pytest.raises(UserError, match="no token 600"):
        TOKENIZER.decode([600])


def test_a_single_text_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        TOKENIZER.encode("a red cube")


def test_save_and_read_again(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "new" / "folder")
    names = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert names == {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"}
    assert Tokenizer.from_folder(tmp_path / "new" / "folder") == TOKENIZER


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="514"):
        train_tokenizer(CORPUS, 513)
    with pytest.raises(UserError, match="holds no tokenizer"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(UserError, match="lacks its special token '<pad>'"):
        Tokenizer(TOKENIZER.vocabulary, TOKENIZER.merges, SpecialTokens(pad="<pad>"))
    with pytest.raises(UserError, match="do not fit together"):
        Tokenizer(TOKENIZER.vocabulary, [("no", "such")])
    with pytest.raises(UserError, match="length is 2"):
        Tokenizer(TOKENIZER.vocabulary, TOKENIZER.merges, length=2)
    TOKENIZER.save(tmp_path)
    for name, content, message in [
        ("tokenizer_config.json", '{"added_tokens_decoder": {"600": {"content": "<extra>"}}}', "<extra>"),
        ("tokenizer_config.json", '{"bos_token": 3}', "no special token"),
        ("special_tokens_map.json", "[]", "no JSON object"),
        ("vocab.json", '{"a": "b"}', "cannot be read"),
        ("vocab.json", "{", "is not JSON"),
        ("merges.txt", "a\n", "cannot be read"),
        ("merges.txt", "", "no merges"),
    ]:
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content)
        if name == "tokenizer_config.json" and "bos" in content:
            (tmp_path / "special_tokens_map.json").write_text("{}")
        with pytest.raises(UserError, match=message):
            Tokenizer.from_folder(tmp_path)
        (tmp_path / name).write_text(before)
