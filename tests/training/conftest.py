"""A run of the debug recipe, which several files go on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mezzotint.cli import main


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage of "all", and the model. Copy it to add to it."""
    run = tmp_path_factory.mktemp("runs") / "debug"
    assert main(["train", "all", "debug", "--out", str(run), "--processes", "1"]) == 0
    return run
