"""What every tokenizer here makes of a text: begin, the text's ids cut to fit, end, padding. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend


class FixedLength(ABC):
    """A tokenizer whose sequences are all of one length, around the tokenizers library's."""

    vocabulary: Mapping[str, int]
    """The id of every token."""
    length: int
    """Ids in a sequence, those that begin and end it included."""
    _backend: Backend

    @property
    @abstractmethod
    def bos_id(self) -> int:
        """The id that begins every sequence."""

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The id that ends every sequence."""

    @property
    @abstractmethod
    def pad_id(self) -> int:
        """The id that fills a sequence up."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of ids, special tokens left out. Raises UserError naming an id that is unknown."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write files into a folder, made if it is missing, that `from_folder` and transformers read."""

    @property
    def room(self) -> int:
        """Ids of a text that fit into a sequence."""
        return self.length - 2

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: one more than the highest id."""
        return max(self.vocabulary.values()) + 1

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone: nothing begins or ends it, it is not cut and not padded."""
        # A lone surrogate, which only broken input has, cannot be written as UTF-8.
        return self._backend.encode(text.encode("utf-8", "replace").decode("utf-8"), add_special_tokens=False).ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """For every text exactly `length` ids: begin + ids (cut to fit) + end + padding."""
        if isinstance(texts, str):
            raise TypeError("encode takes a sequence of texts; put a single text into a list")
        rows: list[list[int]] = []
        for text in texts:
            row = [self.bos_id, *self.ids(text)[: self.room], self.eos_id]
            rows.append(row + [self.pad_id] * (self.length - len(row)))
        return rows

    def left_out(self, text: str) -> list[int]:
        """The ids at the end of a text that `encode` has no room for."""
        return self.ids(text)[self.room :]
