"""The line that tells how far a command is."""

from __future__ import annotations

import sys

import pytest

from mezzotint.cli.progress import ProgressLine


def test_nothing_to_do_is_all_done(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressLine() as line:
        line.tell(0, 0, "picture 1 of 1")
    assert "━" * ProgressLine.WIDTH in capsys.readouterr().err
