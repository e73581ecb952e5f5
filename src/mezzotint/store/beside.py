"""Write beside, then rename: what is half-written never bears the name of what was asked for. Imports no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mezzotint.types import UserError


@contextmanager
def file_beside(path: Path) -> Generator[Path]:
    """A temporary path beside `path` to write to; it takes the name when the block ends well and is removed otherwise.

    Raises UserError where the place cannot be written.
    """
    temporary = _hidden(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Generator[Path]:
    """An empty folder beside `path` to fill; it gets the name, over an older one, when the block ends well.

    Raises UserError where the place cannot be written, or is a file.
    """
    path = path.absolute()
    temporary, older = _hidden(path), _hidden(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, so no folder can be written there: choose another name.")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.replace(older)
        temporary.replace(path)
    except OSError as error:
        if older.exists() and not path.exists():
            older.replace(path)
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing. Raises UserError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written: {error.strerror or error}.") from error


def check_writable(path: Path) -> None:
    """Raise UserError unless a file of this name can be made, before any long work; nothing is left behind."""
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the name of a file in it.")
        if not path.parent.is_dir():
            raise UserError(f"There is no folder {path.parent} to write {path.name} in: make it, or choose another.")
        if path.exists() and not os.access(path, os.W_OK):
            raise UserError(f"{path} is there already and is write-protected: choose another name.")
        probe = _hidden(path)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error


def _hidden(path: Path) -> Path:
    """A new name beside `path`, short whatever the path's own name is."""
    return path.with_name(f".{os.urandom(6).hex()}.tmp")
