"""The page of every flag is what the program says of itself."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def words(text: str) -> list[str]:
    """The page's words, whatever way this Python's argparse wraps lines and joins a short flag to a long one."""
    return re.sub(r"-(\w) (\w+), (--\S+) \2\b", r"-\1, \3 \2", text).split()


def test_the_page_is_what_help_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    spec = importlib.util.spec_from_file_location("make_cli", FOLDER / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (FOLDER / "cli.md").read_text(encoding="utf-8")
    assert words(written) == words(module.page()), "run: .venv/bin/python docs/reference/make_cli.py"
