"""Text encoders that are not written here, as conditioners: whatever the library transformers loads (BERT, T5, ...).

That library is the optional extra `transformers` and is imported when the first such encoder is loaded. B rows, L
tokens, D their width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.types import UserError

LENGTH = 77


def transformers(wanted_for: str) -> Any:
    """The library. Raises UserError, saying what it is wanted for, where it is not installed."""
    try:
        return import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"{wanted_for} needs the library transformers: install it with pip install transformers."
        ) from error


class ForeignTokenizer:
    """A tokenizer of transformers whose sequences are all of one length."""

    def __init__(self, tokenizer: Any, length: int = LENGTH) -> None:
        """Around a fast or slow tokenizer; `length` is that of a sequence, special tokens included.

        Raises UserError for a tokenizer that knows no padding.
        """
        if tokenizer.pad_token_id is None:
            raise UserError("The tokenizer has no token for padding, so it cannot be used here: give it one.")
        self.tokenizer = tokenizer
        self.length = length
        tokenizer.model_max_length = length  # What it is saved with.

    @property
    def class_name(self) -> str:
        """Its class in transformers."""
        return type(self.tokenizer).__name__

    @property
    def pad_id(self) -> int:
        """The id that fills a sequence up."""
        return int(self.tokenizer.pad_token_id)

    @property
    def room(self) -> int:
        """Ids of a text that fit into a sequence."""
        return self.length - int(self.tokenizer.num_special_tokens_to_add())

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs."""
        return len(self.tokenizer)

    def ids(self, text: str) -> list[int]:
        """The ids of a text alone: no special tokens, not cut, not padded."""
        return list(self.tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """For every text exactly `length` ids, special tokens and padding included."""
        if isinstance(texts, str):
            raise TypeError("encode takes a sequence of texts; put a single text into a list")
        if not texts:
            return []
        settings: dict[str, Any] = {"padding": "max_length", "max_length": self.length, "truncation": True}
        return [list(row) for row in self.tokenizer(list(texts), **settings)["input_ids"]]

    def row(self, ids: Sequence[int]) -> list[int]:
        """Exactly `length` ids for those of a text, which must fit: special tokens and padding as in `encode`."""
        begin, end = self._around
        padding = [self.pad_id] * (self.length - len(begin) - len(ids) - len(end))
        row = [*begin, *ids, *end]
        return [*padding, *row] if self._pads_left else [*row, *padding]

    def place(self, count: int) -> int:
        """Where in a row with `count` ids of a text the first of them stands."""
        begin, end = self._around
        return len(begin) + (self.length - len(begin) - count - len(end) if self._pads_left else 0)

    def whole(self, ids: Sequence[int]) -> Iterable[Sequence[int]]:
        """The ids in runs that must not be torn: each by itself."""
        return [[index] for index in ids]

    def names(self, ids: Sequence[int]) -> list[str]:
        """Ids as they stand in the vocabulary."""
        return list(self.tokenizer.convert_ids_to_tokens(list(ids)))

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The special tokens before a text and those after it."""
        plain = self.ids("a")
        row: list[int] = list(self.tokenizer("a", truncation=False)["input_ids"])
        start = next(place for place in range(len(row)) if row[place : place + len(plain)] == plain)
        return row[:start], row[start + len(plain) :]

    @property
    def _pads_left(self) -> bool:
        return self.tokenizer.padding_side == "left"

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def save(self, folder: str | Path) -> None:
        """Write its files into a folder."""
        self.tokenizer.save_pretrained(str(folder))


@dataclass(frozen=True)
class ForeignConfig:
    """What a conditioner asks of any text encoder's config."""

    hidden_size: int
    vocab_size: int
    max_position_embeddings: int


class ForeignEncoder(nn.Module):
    """A text encoder of transformers: ids [B L] to tokens [B L D]. Padding is hidden from the other tokens."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        """Around a model that says `last_hidden_state`; `pad_id` is what its tokenizer fills sequences up with."""
        super().__init__()
        self.model = model
        self.pad_id = pad_id
        theirs: Any = model.config
        theirs.use_attention_mask = True  # So that diffusers hides the padding too.
        positions = getattr(theirs, "max_position_embeddings", None)
        self.config = ForeignConfig(
            hidden_size=theirs.hidden_size,
            vocab_size=theirs.vocab_size,
            max_position_embeddings=2**31 if positions is None else positions,
        )

    @property
    def class_name(self) -> str:
        """Its class in transformers."""
        return type(self.model).__name__

    def read(
        self, ids: Tensor, *, layer: int = -1, final_norm: bool = True, unseen: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The tokens [B L D] that leave it, and nothing that stands for the whole text.

        Tokens where `unseen` [B L] is true are hidden as padding is. Raises UserError for another layer than the last.
        """
        if layer != -1 or not final_norm:
            raise UserError(f"Of a {self.class_name} only the last layer, after its norm, can be read: leave the rest.")
        seen = ids != self.pad_id if unseen is None else (ids != self.pad_id) & ~unseen
        return self.model(input_ids=ids, attention_mask=seen.long()).last_hidden_state, None

    def save(self, folder: Path, dtype: torch.dtype | None = None) -> list[Path]:
        """Write config.json and safetensors, cast to `dtype` if given, into a folder; returns the weight files."""
        model: Any = self.model
        state = {
            name: (tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)).contiguous()
            for name, tensor in model.state_dict().items()
        }
        model.save_pretrained(str(folder), state_dict=state, safe_serialization=True)
        return sorted(folder.glob("*.safetensors"))


def load_encoder(source: str | Path, pad_id: int) -> ForeignEncoder:
    """The text encoder in a folder, or of a hub id, fixed, in evaluation mode.

    Of an encoder and decoder the encoder is taken. Weights are read from safetensors alone and no code that comes with
    a model is run. Raises UserError where it cannot be loaded or the extra `transformers` is not installed.
    """
    library = transformers(f"The text encoder {source}")
    settings: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    try:
        config = library.AutoConfig.from_pretrained(str(source), trust_remote_code=False)
        encoders = library.AutoModelForTextEncoding
        known = type(config) in library.MODEL_FOR_TEXT_ENCODING_MAPPING
        model = (encoders if known else library.AutoModel).from_pretrained(str(source), **settings)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"The text encoder {source} cannot be loaded by transformers: {first}.") from error
    model = model.get_encoder() if model.config.is_encoder_decoder and not known else model
    return ForeignEncoder(model, pad_id).eval().requires_grad_(False)


def load_tokenizer(source: str | Path, length: int | None = None) -> ForeignTokenizer:
    """The tokenizer in a folder, or of a hub id; `length` none takes what its files say, or LENGTH.

    Raises UserError where it cannot be loaded or the extra `transformers` is not installed.
    """
    library = transformers(f"The tokenizer {source}")
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"The tokenizer {source} cannot be loaded by transformers: {first}.") from error
    told = int(tokenizer.model_max_length)
    return ForeignTokenizer(tokenizer, (told if told <= 10**6 else LENGTH) if length is None else length)
