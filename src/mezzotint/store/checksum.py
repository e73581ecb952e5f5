"""Sums of a model's files, worked out in a thread while other things start. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from mezzotint.store.layout import BESIDE, all_model_files
from mezzotint.types import UserError

CHUNK = 2**20
"""Bytes that are read at once."""


@dataclass(frozen=True)
class FileSum:
    """The hexadecimal sums of one file."""

    sha256: str
    data_sha256: str = ""
    """That of what follows a safetensors file's header, by which the AUTOMATIC1111 web UI knows a LoRA; else empty."""


def file_sum(path: Path) -> FileSum:
    """The sums of a file. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        head = file.read(9)
        header = 8 + int.from_bytes(head[:8], "little") if head[8:] == b"{" else path.stat().st_size
        whole, data = hashlib.sha256(head), hashlib.sha256()
        place = len(head)
        while chunk := file.read(CHUNK):
            whole.update(chunk)
            data.update(memoryview(chunk)[max(0, header - place) :])
            place += len(chunk)
    return FileSum(whole.hexdigest(), data.hexdigest() if head[8:] == b"{" else "")


class ExtraSums:
    """The sums of files beside a model, worked out from the moment this is made."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._sums: dict[str, FileSum] = {}
        self._error: OSError | None = None
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for path in self.files:
                self._sums[str(path)] = file_sum(path)
        except OSError as error:
            self._error = error

    @property
    def sums(self) -> dict[str, FileSum]:
        """By path, in the order of the files; waits until they are done. Raises UserError for a file that has gone."""
        self._thread.join()
        if self._error is not None:
            raise UserError(f"{self._error.filename} cannot be read: {self._error.strerror}.") from self._error
        return self._sums


class Checksums:
    """The SHA-256 of every file of a model that a picture depends on, worked out from the moment this is made.

    Which files these are may depend on the `dtype` that is asked for, torch's name; none is as `weight_files` has it.
    Hashing lets go of the interpreter, so it costs the caller no time where a core is free.
    """

    def __init__(self, model: Path, dtype: str | None = None) -> None:
        self.model = model
        self._folder = model.parent if model.is_file() else model
        self.dtype = dtype
        self._sums: dict[str, str] = {}
        self._error: OSError | UserError | None = None
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for path in all_model_files(self.model, self.dtype):
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                self._sums[path.relative_to(self._folder).as_posix()] = digest
        except (OSError, UserError) as error:
            self._error = error

    @property
    def sums(self) -> dict[str, str]:
        """Hexadecimal sum by path in the folder, or by the single file's name; waits until they are done.

        Raises UserError if a file was missing.
        """
        self._thread.join()
        if isinstance(self._error, UserError):
            raise self._error
        if self._error is not None:
            raise UserError(f"The model in {self.model} cannot be read: {self._error.strerror}.") from self._error
        return self._sums

    @property
    def whole(self) -> str:
        """One sum for the whole model, hexadecimal: a lone file's, else that of the names and sums, a line each."""
        if self.model.is_file() and len(self.sums) == 1:
            return self.sums[self.model.name]
        alone = self.model.is_file()  # It may be renamed.
        named = {Path(name).suffix if alone else name: digest for name, digest in self.sums.items()}
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(named.items()))
        return hashlib.sha256(lines.encode()).hexdigest()

    def check(self, told: dict[str, str]) -> None:
        """Raise UserError naming the first file whose sum is not what it is told to be.

        Those of what a picture may be drawn without are checked when they are read.
        """
        for name, digest in told.items():
            if name.split("/")[0] not in BESIDE and self.sums.get(name) != digest:
                raise damaged(self._folder / name)


def check_folder(folder: Path, sums: Mapping[str, str]) -> None:
    """Raise UserError naming the first file in a folder whose sum is not what it is told to be."""
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file() or file_sum(path).sha256 != digest:
            raise damaged(path)


def damaged(path: Path) -> UserError:
    """What to say of a file with another sum than it should have."""
    return UserError(
        f"{path} is damaged (its SHA-256 is not the one in mezzotint.json): get it again, "
        f"or take its sum out of that file if you changed the weights on purpose."
    )
