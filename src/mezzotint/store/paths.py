"""Names of files as people type them. Imports no torch."""

from __future__ import annotations

from pathlib import Path


def expanded(name: str | Path) -> Path:
    """The path, with the home of the user that a leading ~ means, if there is such a user."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def full_path(name: str | Path) -> str:
    """A file's name from wherever one stands."""
    return str(expanded(name).absolute())
