"""`mezzotint tokens`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mezzotint.cli import main
from mezzotint.store.folder import Parts
from mezzotint.store.model_words import model_tokenizers
from mezzotint.store.single_file import save_file


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["tokens", *argv]) == 0
    return capsys.readouterr().out


def test_phases_parts_chunks_tokens_and_weights(
    tiny_parts: Parts, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {word: tiny_parts.tokenizer.tokens(word) for word in ("red", "sphere", "cube", "two", "cones")}

    def phase(word: str) -> str:
        count = 1 + len(words["red"]) + len(words[word])
        return (
            f'  "a (red:1.3) {word}"\n'
            f"    chunk 1 of 1, {count} of 75 tokens\n"
            "      1       a</w>\n"
            f"      1.3     {' '.join(words['red'])}\n"
            f"      1       {' '.join(words[word])}\n"
            '  "two BREAK cones", weight -0.4\n'
            f"    chunk 1 of 2, {len(words['two'])} of 75 tokens\n"
            f"      1       {' '.join(words['two'])}\n"
            f"    chunk 2 of 2, {len(words['cones'])} of 75 tokens\n"
            f"      1       {' '.join(words['cones'])}\n"
        )

    prompt = "a (red:1.3) [sphere:cube:0.5] AND two BREAK cones:-0.4"
    out = said(capsys, prompt, "--model", str(tiny_folder), "--steps", "4")
    assert out == f"steps 0 to 1\n{phase('sphere')}steps 2 to 3\n{phase('cube')}"


def test_json_and_the_models_own_steps(
    tiny_parts: Parts, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("a++ b", "--model", str(tiny_folder), "--weighting", "compel", "--json")
    first, second = tiny_parts.tokenizer.ids("a b")
    tokens = [
        {"id": first, "token": "a</w>", "weight": pytest.approx(1.21)},
        {"id": second, "token": "b</w>", "weight": 1.0},
    ]
    part = {"text": "a++ b", "weight": 1.0, "chunks": {"tokenizer": [tokens]}}
    assert json.loads(said(capsys, *arguments)) == {
        "steps": 3,
        "weighting": "compel",
        "room": {"tokenizer": 75},
        "phases": [{"first_step": 0, "last_step": 2, "parts": [part]}],
    }


def test_a_single_file_tells_its_tokenizer_too(tiny_parts: Parts, tmp_path: Path) -> None:
    save_file(tiny_parts, tmp_path / "tiny.safetensors")
    (tokenizer,) = model_tokenizers(tmp_path / "tiny.safetensors").values()
    assert tokenizer == tiny_parts.tokenizer


def test_what_cannot_be_is_one_sentence(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokens", "a", "--model", str(tiny_folder), "--steps", "0"]) == 2
    assert "from 1 to 1000" in capsys.readouterr().err
    assert main(["tokens", "a", "--model", "nowhere"]) == 2
    assert "no model 'nowhere'" in capsys.readouterr().err
    assert main(["tokens", "a", "--weighting", "comfy", "--model", str(tiny_folder)]) == 2
    assert "--weighting" in capsys.readouterr().err
