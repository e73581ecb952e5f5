"""Learned words: names in a prompt that become vectors of their own (Gal et al. 2022, arXiv:2208.01618).

A word is found in the text as it was typed, in any case, before the text is cut into pieces; it stands alone where its
first and last signs are letters or digits. Imports no torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from mezzotint.text.tokenizer import Tokenizer
from mezzotint.types import UserError


def _no_words() -> dict[str, range]:
    return {}


@dataclass(frozen=True)
class WordedTokenizer(Tokenizer):
    """CLIP's tokenizer with learned words, each of which becomes one id or several in a row.

    What `save` writes is the tokenizer without them.
    """

    words: Mapping[str, range] = field(default_factory=_no_words)
    """The ids of every word, above those of the vocabulary, no two the same."""

    def __post_init__(self) -> None:
        """Raise UserError for a word that is empty, of no id, or there twice, letters' case aside."""
        super().__post_init__()
        first = min((ids.start for ids in self.words.values()), default=super().vocab_size)
        if first < super().vocab_size:
            raise ValueError(f"Learned words begin at id {first}, within the vocabulary.")
        seen: set[str] = set()
        for word, ids in self.words.items():
            if _plain(word) == "" or len(ids) == 0:
                raise UserError(f"The learned word {word!r} is empty: give it a name and a vector.")
            if _plain(word) in seen or _plain(word) in (_plain(token) for token in self.special.distinct()):
                raise UserError(f"The word {word!r} is there already: give the learned word another name.")
            seen.add(_plain(word))

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: one more than the highest id."""
        return max((ids.stop for ids in self.words.values()), default=super().vocab_size)

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone: no bos, no eos, not cut, not padded."""
        if not self.words:
            return super().ids(text)
        text, end = unicodedata.normalize("NFC", text), 0
        found: list[int] = []
        for match in self._pattern.finditer(text):
            assert match.lastindex is not None  # every word is a group
            found += super().ids(text[end : match.start()])
            found += self.words[self._longest_first[match.lastindex - 1]]
            end = match.end()
        return found + super().ids(text[end:])

    def names(self, ids: Sequence[int]) -> list[str]:
        """Ids as they stand in the vocabulary; a learned word once for each of its ids."""
        return [self._words_of.get(index) or self._names[index] for index in ids]

    def whole(self, ids: Sequence[int]) -> Iterable[Sequence[int]]:
        """The ids in runs that must not be torn: all those of a learned word, and every other by itself."""
        counts = {run.start: len(run) for run in self.words.values()}
        runs: list[Sequence[int]] = []
        start = 0
        while start < len(ids):
            end = start + counts.get(ids[start], 1)
            runs.append(ids[start:end])
            start = end
        return runs

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of ids, as Tokenizer.decode; a learned word once for ids of it that follow each other."""
        runs: list[tuple[str | None, list[int]]] = []
        for index in ids:
            word = self._words_of.get(index)
            goes_on = bool(runs) and runs[-1][0] == word and (word is None or runs[-1][1][-1] == index - 1)
            if goes_on:
                runs[-1][1].append(index)
            else:
                runs.append((word, [index]))
        texts = [super(WordedTokenizer, self).decode(run) if word is None else word for word, run in runs]
        return " ".join(text for text in texts if text != "")

    @cached_property
    def _longest_first(self) -> list[str]:
        """The words in the order in which they are looked for, so that none hides a longer one."""
        return sorted(self.words, key=lambda word: -len(_plain(word)))

    @cached_property
    def _words_of(self) -> dict[int, str]:
        """The word of every learned id."""
        return {index: word for word, ids in self.words.items() for index in ids}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """Finds the words, each by a group of its own."""
        choices: list[str] = []
        for name in (" ".join(unicodedata.normalize("NFC", word).split()) for word in self._longest_first):
            begin = r"(?<!\w)" if re.match(r"\w", name) else ""
            end = r"(?!\w)" if re.search(r"\w\Z", name) else ""
            parts = r"\s+".join(re.escape(part) for part in name.split(" "))
            choices.append(f"({begin}{parts}{end})")
        return re.compile("|".join(choices), re.IGNORECASE)


def with_words(tokenizer: Tokenizer, counts: Mapping[str, int], first: int) -> Tokenizer:
    """The tokenizer with these learned words and no others; each takes as many ids as it has vectors, from `first` on.

    Without words it is the plain tokenizer again. Raises UserError for a word that is empty or there twice.
    """
    parts = (tokenizer.vocabulary, tokenizer.merges, tokenizer.special, tokenizer.length)
    if not counts:
        return Tokenizer(*parts) if isinstance(tokenizer, WordedTokenizer) else tokenizer
    starts: Sequence[int] = list(accumulate(counts.values(), initial=first))
    words = {word: range(start, start + count) for start, (word, count) in zip(starts, counts.items(), strict=False)}
    return WordedTokenizer(*parts, words=words)


def _plain(word: str) -> str:
    """A word as it is compared: composed characters, lower case, one space for white space."""
    return " ".join(unicodedata.normalize("NFC", word).lower().split())
