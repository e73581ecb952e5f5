"""What `mezzotint evaluate` keeps in a folder: sheets of pictures, and what was made of each. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.types import UserError

if TYPE_CHECKING:
    from PIL import Image

MOST = 48
"""Pictures on a sheet."""


class Album:
    """Keeps pictures and verdicts in a folder, if there is one."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` is there when something is written (`made`)."""
        self._folder = folder
        self._rows: list[tuple[float, Sequence[Image.Image], dict[str, Any]]] = []

    def add(self, pictures: Sequence[Image.Image], told: dict[str, Any], worth: float) -> None:
        """Keep pictures that belong side by side, as many every time, and what is told of them; 0 is the worst."""
        if self._folder is not None:
            self._rows.append((worth, pictures, told))

    def close(self, name: str) -> None:
        """Write what was kept since the last time: the sheet NAME.png, the worst first, and NAME.jsonl."""
        if self._folder is None:
            return
        from mezzotint.store.beside import file_beside
        from mezzotint.store.png import write_plain
        from mezzotint.world.sheet import tiled

        self._rows.sort(key=lambda row: row[0])
        side_by_side = len(self._rows[0][1])
        shown = [picture for _, pictures, _ in self._rows[: max(1, MOST // side_by_side)] for picture in pictures]
        write_plain(tiled(shown, side_by_side if side_by_side > 1 else None), self._folder / f"{name}.png")
        with file_beside(self._folder / f"{name}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(told) + "\n" for _, _, told in self._rows), encoding="utf-8")
        self._rows.clear()


@contextmanager
def made(folder: Path | None) -> Generator[None]:
    """Make a folder to write to, if there is one; if nothing is written there it and those made above it are removed.

    Raises UserError where it cannot be made or written to, before any long work.
    """
    from mezzotint.store.beside import check_writable

    if folder is None:
        yield
        return
    new: list[Path] = []
    try:
        try:
            new = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made a folder: {error.strerror or error}.") from error
        check_writable(folder / "config.json")
        yield
    finally:
        with suppress(OSError):  # What holds something stays.
            for place in new:
                place.rmdir()
