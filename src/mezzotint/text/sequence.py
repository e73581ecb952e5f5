"""What every tokenizer here makes of a text: begin, the text's ids cut to fit, end, padding. Imports no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as Backend


class FixedLength(ABC):
    """A tokenizer whose sequences are all of one length, around the tokenizers library's."""

    vocabulary: Mapping[str, int]
    """The id of every token."""
    length: int
    """Ids in a sequence, those that begin and end it included."""
    _backend: Backend

    @cached_property
    def _names(self) -> dict[int, str]:
        """The token of every id."""
        return {index: token for token, index in self.vocabulary.items()}

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
        return [self.row(self.ids(text)[: self.room]) for text in texts]

    def row(self, ids: Sequence[int]) -> list[int]:
        """Exactly `length` ids for those of a text, which must fit: begin + ids + end + padding."""
        return [self.bos_id, *ids, self.eos_id, *[self.pad_id] * (self.room - len(ids))]

    def place(self, count: int) -> int:
        """Where in a row with `count` ids of a text the first of them stands."""
        del count
        return 1

    def whole(self, ids: Sequence[int]) -> Iterable[Sequence[int]]:
        """The ids in runs that must not be torn."""
        return [[index] for index in ids]

    def names(self, ids: Sequence[int]) -> list[str]:
        """Ids as they stand in the vocabulary."""
        named = self._names
        return [named[index] for index in ids]
