"""Words to tokens: BERT's word pieces (Devlin et al. 2019, arXiv:1810.04805; Wu et al. 2016, arXiv:1609.08144).

Text is cleaned, lower-cased and stripped of accents, cut at white space and signs, and each word is written with the
longest pieces that the vocabulary has; a piece that goes on within a word begins with ##. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordPiece

from mezzotint.text.sequence import FixedLength
from mezzotint.text.tokenizer import content_of, read_json
from mezzotint.types import UserError

LENGTH = 77
GOES_ON = "##"
LONGEST_WORD = 100
"""Letters beyond which a word is unknown."""
SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
"""The tokens that stand for no text, and how BERT writes them."""


@dataclass(frozen=True)
class WordPieceTokenizer(FixedLength):
    """BERT's tokenizer: every text becomes `length` ids, [CLS] + text (cut to fit) + [SEP] + padding."""

    vocabulary: Mapping[str, int]
    """The id of every token, 0 and up with no gap."""
    lower: bool = True
    """Whether texts are lower-cased, as for the uncased models."""
    strip_accents: bool | None = None
    """Whether accents are dropped; none means just where texts are lower-cased."""
    split_chinese: bool = True
    """Whether every Chinese character is a word."""
    special: Mapping[str, str] = field(default_factory=lambda: dict(SPECIAL))
    """The tokens that stand for no text, by the names in SPECIAL; mask may be missing in the vocabulary."""
    length: int = LENGTH
    """Ids in a sequence, [CLS] and [SEP] included."""
    _backend: Backend = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise UserError for a vocabulary with gaps, or without a special token."""
        missing = [name for name in SPECIAL if name != "mask" and self.special[name] not in self.vocabulary]
        if missing:
            raise UserError(f"The tokenizer's vocabulary lacks {self.special[missing[0]]!r}: take a whole tokenizer.")
        if sorted(self.vocabulary.values()) != list(range(len(self.vocabulary))):
            raise UserError("The tokenizer's vocabulary is damaged: a token stands in it twice or an id is left out.")
        if self.length < 3:
            raise UserError(f"The tokenizer's length is {self.length}; it must be 3 or more, begin and end included.")
        model = WordPiece(dict(self.vocabulary), unk_token=self.special["unk"], max_input_chars_per_word=LONGEST_WORD)
        backend = Backend(model)
        backend.normalizer = normalizer(
            lower=self.lower, strip_accents=self.strip_accents, split_chinese=self.split_chinese
        )
        backend.pre_tokenizer = pre_tokenizer()
        known = [token for token in self.special.values() if token in self.vocabulary]
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in known])
        object.__setattr__(self, "_backend", backend)

    @property
    def bos_id(self) -> int:
        """The id of [CLS]."""
        return self.vocabulary[self.special["cls"]]

    @property
    def eos_id(self) -> int:
        """The id of [SEP]."""
        return self.vocabulary[self.special["sep"]]

    @property
    def pad_id(self) -> int:
        """The id of [PAD]."""
        return self.vocabulary[self.special["pad"]]

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of ids, words apart by one space and special tokens left out.

        Raises UserError naming an id that the vocabulary lacks.
        """
        skipped = set(self.special.values())
        text = ""
        for index in ids:
            if index not in self._names:
                raise UserError(f"The tokenizer has no token {index}; its ids are below {self.vocab_size}.")
            token = self._names[index]
            if token not in skipped:
                text += token.removeprefix(GOES_ON) if token.startswith(GOES_ON) else f" {token}"
        return text.strip(" ")

    @classmethod
    def from_folder(cls, folder: str | Path, length: int = LENGTH) -> WordPieceTokenizer:
        """Read BERT's files: vocab.txt (or tokenizer.json), and tokenizer_config.json where it is there.

        The length is not read there: BERT's own is 512 and that of the model it conditions is shorter. Raises UserError
        for a folder that holds no such tokenizer.
        """
        folder = Path(folder)
        config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
        vocabulary: dict[str, int]
        if (folder / "vocab.txt").is_file():
            # By line feeds alone: other characters that end lines elsewhere are tokens here.
            lines = (folder / "vocab.txt").read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
            vocabulary = {token: index for index, token in enumerate(lines)}
        else:
            model = read_json(folder / "tokenizer.json").get("model")
            vocabulary = model.get("vocab", {}) if isinstance(model, dict) else {}
        if not vocabulary or not isinstance(vocabulary, dict):
            raise UserError(f"The folder {folder} holds no tokenizer: vocab.txt is missing.")
        special = {name: content_of(config.get(f"{name}_token") or token) for name, token in SPECIAL.items()}
        return cls(
            vocabulary,
            lower=bool(config.get("do_lower_case", True)),
            strip_accents=config.get("strip_accents"),
            split_chinese=bool(config.get("tokenize_chinese_chars", True)),
            special=special,
            length=length,
        )

    def save(self, folder: str | Path) -> None:
        """Write BERT's three files into a folder, which is made if it is missing; transformers reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {f"{name}_token": token for name, token in self.special.items()}
        config: dict[str, Any] = {
            **special,
            "do_lower_case": self.lower,
            "model_max_length": self.length,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.split_chinese,
            "tokenizer_class": "BertTokenizer",
        }
        tokens = sorted(self.vocabulary, key=lambda token: self.vocabulary[token])
        for name, text in {
            "vocab.txt": "".join(f"{token}\n" for token in tokens),
            "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")


def normalizer(
    *, lower: bool = True, strip_accents: bool | None = None, split_chinese: bool = True
) -> normalizers.Normalizer:
    """No control characters and plain spaces, and what WordPieceTokenizer's fields of these names say."""
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lower
    )


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Words, and signs one by one; spaces are dropped."""
    return pre_tokenizers.BertPreTokenizer()
