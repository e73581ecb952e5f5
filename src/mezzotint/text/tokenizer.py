"""Words to tokens: CLIP's byte-level BPE (Radford et al., arXiv:2103.00020; Sennrich et al., arXiv:1508.07909).

Text is normalised (NFC, runs of white space to one space, lower case), cut into words, digits and runs of signs, and
written as bytes; the bytes of each piece are merged in the order that training found. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from mezzotint.text.sequence import FixedLength
from mezzotint.types import UserError

BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
END_OF_WORD = "</w>"
LENGTH = 77
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The tokens that stand for no text."""

    bos: str = BOS
    """Begins every sequence."""
    eos: str = EOS
    """Ends every sequence; CLIP reads its summary of the text there."""
    pad: str = EOS
    """Fills a sequence up to its length."""
    unk: str = EOS
    """Stands for what the vocabulary cannot write; never needed when it holds all 256 bytes."""
    normalized: tuple[str, ...] = ()
    """Those of them that are found in a text after it is lower-cased, rather than as it was typed."""

    def distinct(self) -> tuple[str, ...]:
        """Each of them once, in order."""
        return tuple(dict.fromkeys((self.bos, self.eos, self.unk, self.pad)))


@dataclass(frozen=True)
class Tokenizer(FixedLength):
    """CLIP's tokenizer: every text becomes `length` ids, bos + text (cut to fit) + eos + padding."""

    vocabulary: Mapping[str, int]
    """The id of every token; a token that ends a word has </w> at its end."""
    merges: Sequence[tuple[str, str]]
    """The pairs of tokens to join, the first first."""
    special: SpecialTokens = field(default_factory=SpecialTokens)
    """The tokens that stand for no text."""
    length: int = LENGTH
    """Ids in a sequence, bos and eos included."""
    _backend: Backend = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise UserError if the vocabulary, the merges and the special tokens do not fit together."""
        missing = [token for token in self.special.distinct() if token not in self.vocabulary]
        if missing:
            raise UserError(
                f"The tokenizer's vocabulary lacks its special token {missing[0]!r}; take a whole tokenizer."
            )
        special = set(self.special.distinct())
        if not self.merges and any(len(t.removesuffix(END_OF_WORD)) > 1 for t in self.vocabulary if t not in special):
            raise UserError("The tokenizer has no merges, so most of its vocabulary is out of reach: mend merges.txt.")
        if self.length < 3:
            raise UserError(f"The tokenizer's length is {self.length}; it must be 3 or more, bos and eos included.")
        object.__setattr__(self, "_backend", make_backend(self.vocabulary, self.merges, self.special))

    @property
    def bos_id(self) -> int:
        """The id that begins every sequence."""
        return self.vocabulary[self.special.bos]

    @property
    def eos_id(self) -> int:
        """The id that ends every sequence."""
        return self.vocabulary[self.special.eos]

    @property
    def pad_id(self) -> int:
        """The id that fills a sequence up."""
        return self.vocabulary[self.special.pad]

    def tokens(self, text: str) -> list[str]:
        """The pieces of a text alone, as they stand in the vocabulary."""
        return self.names(self.ids(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of ids, words apart by one space and special tokens left out.

        Raises UserError naming an id that the vocabulary lacks.
        """
        skipped = {self.vocabulary[token] for token in self.special.distinct()}
        text = ""
        for index in ids:
            if index not in self._names:
                raise UserError(f"The tokenizer has no token {index}; its ids are below {self.vocab_size}.")
            if index not in skipped:
                text += self._names[index].replace(END_OF_WORD, " ")
        byte_of = {char: byte for byte, char in enumerate(byte_alphabet())} | {" ": ord(" ")}
        return bytes(byte_of[char] for char in text).decode("utf-8", "replace").strip(" ")

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read CLIP's files: vocab.json with merges.txt (or tokenizer.json), and tokenizer_config.json and
        special_tokens_map.json where they are there. Raises UserError for a folder that holds no such tokenizer.
        """
        folder = Path(folder)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocabulary = read_json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text(encoding="utf-8", errors="replace").splitlines()
            merges = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
        elif (folder / "tokenizer.json").is_file():
            model = read_json(folder / "tokenizer.json").get("model", {})
            vocabulary = model.get("vocab", {})
            merges = [pair.split() if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        else:
            raise UserError(f"The folder {folder} holds no tokenizer: vocab.json with merges.txt is missing.")
        if any(len(pair) != 2 for pair in merges) or not all(isinstance(index, int) for index in vocabulary.values()):
            raise UserError(f"The tokenizer in {folder} is damaged: its vocabulary or its merges cannot be read.")
        try:
            special, length = read_special(folder)
        except (TypeError, AttributeError) as error:
            raise UserError(f"The tokenizer in {folder} is damaged: its special tokens cannot be read.") from error
        return cls(vocabulary, [(first, second) for first, second in merges], special, length)

    def save(self, folder: str | Path) -> None:
        """Write CLIP's four files into a folder, which is made if it is missing; transformers reads them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {
            f"{name}_token": special_entry(getattr(self.special, name), self.special.normalized)
            for name in ("bos", "eos", "pad", "unk")
        }
        config = {
            "add_prefix_space": False,
            "bos_token": self.special.bos,
            "do_lower_case": True,
            "eos_token": self.special.eos,
            "errors": "replace",
            "model_max_length": self.length,
            "pad_token": self.special.pad,
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": self.special.unk,
        }
        ordered = dict(sorted(self.vocabulary.items(), key=lambda item: item[1]))
        merges = "".join(f"{first} {second}\n" for first, second in self.merges)
        for name, text in {
            "vocab.json": json.dumps(ordered, ensure_ascii=False),
            "merges.txt": "#version: 0.2\n" + merges,
            "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")


def make_backend(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], special: SpecialTokens) -> Backend:
    """The tokenizers library's tokenizer. Raises UserError if a merge makes a token that the vocabulary lacks."""
    try:
        model = BPE(dict(vocabulary), list(merges), unk_token=special.unk, end_of_word_suffix=END_OF_WORD)
    except Exception as error:  # the library raises nothing more particular
        raise UserError(f"The tokenizer's vocabulary and merges do not fit together: {error}.") from error
    backend = Backend(model)
    backend.normalizer, backend.pre_tokenizer = normalizer(), pre_tokenizer()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=token in special.normalized) for token in special.distinct()]
    )
    return backend


def normalizer() -> normalizers.Normalizer:
    """Composed characters, one space for any white space, lower case."""
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    return normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Words, single digits and runs of signs, written in the byte alphabet; spaces are dropped."""
    split = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def byte_alphabet() -> list[str]:
    """The visible character for each byte: itself where Latin-1 prints it, else the next one from U+0100."""
    printed = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


def read_special(folder: Path) -> tuple[SpecialTokens, int]:
    """The special tokens and the length that a folder's config files give; CLIP's where they are silent.

    As transformers does: special_tokens_map.json comes before tokenizer_config.json, unless the latter lists its tokens
    in added_tokens_decoder; and of two entries for one text the later counts.
    """
    config = read_json(folder / "tokenizer_config.json")
    listed: dict[str, Any] | None = config.get("added_tokens_decoder")
    added: list[Any] = list((listed or {}).values())
    if listed is None:
        config |= read_json(folder / "special_tokens_map.json")
        added = read_json(folder / "tokenizer.json").get("added_tokens", [])
    by_content = {content_of(entry): entry for entry in added}
    names: dict[str, str] = {}
    normalized: dict[str, bool] = {}
    for name, default in {"bos": BOS, "eos": EOS, "unk": EOS, "pad": EOS}.items():
        entry = config.get(f"{name}_token")
        content = names[name] = content_of(default if entry is None else entry)
        entry = by_content.get(content, entry)
        normalized[content] = isinstance(entry, dict) and bool(entry.get("normalized", False))
    others = [content for content in by_content if content not in normalized]
    if others:
        raise UserError(f"The tokenizer in {folder} has an added token {others[0]!r}, which is not supported.")
    length = config.get("model_max_length", LENGTH)
    chosen = tuple(content for content, flag in normalized.items() if flag)
    # Transformers writes an enormous number where no length is known.
    return SpecialTokens(**names, normalized=chosen), length if length <= 10**6 else LENGTH


def content_of(entry: object) -> str:
    """The text of a special token, given alone or with its attributes. Raises UserError for anything else."""
    content = entry.get("content") if isinstance(entry, dict) else entry
    if not isinstance(content, str):
        raise UserError(f"The tokenizer's files are damaged: {entry!r} is no special token.")
    return content


def special_entry(token: str, normalized: tuple[str, ...]) -> str | dict[str, Any]:
    """A special token as special_tokens_map.json holds it."""
    if token not in normalized:
        return token
    return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one if the file is missing. Raises UserError if it is damaged."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The file {path} is damaged: it is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"The file {path} is damaged: it holds no JSON object.")
    return values
