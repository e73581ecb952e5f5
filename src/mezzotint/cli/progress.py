"""How far long work is, on stderr: stdout is for what a program may read. Imports no torch."""

from __future__ import annotations

import shutil
import sys
import time


class ProgressLine:
    """One line that is written over where a person watches; elsewhere, if at all, a line of its own now and then."""

    WIDTH = 24

    def __init__(self, every: float | None = None) -> None:
        """`every` is how many seconds pass between lines where nobody watches; none means that there are none."""
        self.every = every
        self.watched = sys.stderr.isatty()
        self._told = time.monotonic()

    def tell(self, done: int, total: int, text: str) -> None:
        """Say that `done` of `total` is behind us, in the words of `text`."""
        if self.watched:
            ready = self.WIDTH * done // total if total > 0 else self.WIDTH
            bar = "━" * ready + "─" * (self.WIDTH - ready)
            shown = f"{bar} {text} "[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{shown}", end="", file=sys.stderr, flush=True)
        elif self.every is not None and time.monotonic() - self._told >= self.every:
            self._told = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def wipe(self) -> None:
        """Leave nothing of the line behind."""
        if self.watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()
