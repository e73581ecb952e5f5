"""Encoders of transformers, where that library is not installed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from mezzotint.store.folder import load_folder
from mezzotint.types import UserError


def test_without_the_library_one_sentence_says_what_to_install(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    shutil.copytree(tiny_folder, tmp_path / "model")
    path = tmp_path / "model" / "model_index.json"
    index = json.loads(path.read_text()) | {"text_encoder": ["transformers", "T5EncoderModel"]}
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match="pip install transformers"):
        load_folder(tmp_path / "model")
