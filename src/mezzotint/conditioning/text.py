"""The text conditioner: prompts to tau(y), the tokens that the U-Net's cross-attention reads."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip_text import CLIPTextModel
from mezzotint.conditioning.foreign import ForeignEncoder, ForeignTokenizer
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.types import Conditioning, UserError, Words

AnyTokenizer = Tokenizer | WordPieceTokenizer | ForeignTokenizer
AnyTextModel = CLIPTextModel | LDMBertModel | ForeignEncoder


class Conditioner(Protocol):
    """What a pipeline needs of a conditioner."""

    @property
    def tokenizer(self) -> AnyTokenizer:
        """Tells which words are left out of a long text."""
        ...

    def __call__(self, asked: Sequence[str | Words]) -> Conditioning:
        """One row for each text, on the encoders' device; a text alone is Words with nothing else told."""
        ...

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
        """Move every network, in place."""
        ...


def too_long(tokenizer: AnyTokenizer, text: str, name: str) -> str | None:
    """What to tell of a text, called `name`, that the text encoder does not read to its end; none where it does."""
    left_out = tokenizer.left_out(text)
    if not left_out:
        return None
    more = f"{len(left_out)} token{'s' if len(left_out) > 1 else ''} more"
    words = textwrap.shorten(tokenizer.decode(left_out), 80, placeholder=" ...")
    return f'The {name} has {more} than the {tokenizer.room} that the text encoder reads; left out: "{words}".'


class TextConditioner:
    """A tokenizer and a text encoder that belong together, and which of the encoder's layers is read."""

    def __init__(
        self, tokenizer: AnyTokenizer, text_model: AnyTextModel, *, layer: int = -1, final_norm: bool = True
    ) -> None:
        """`layer` and `final_norm` choose which tokens are read, as in CLIPTextModel.read.

        Raises UserError if the tokenizer's ids or its length exceed what the encoder has embeddings for.
        """
        rows, positions = text_model.config.vocab_size, text_model.config.max_position_embeddings
        if tokenizer.vocab_size > rows or tokenizer.length > positions:
            raise UserError(
                f"The tokenizer has {tokenizer.vocab_size} tokens and length {tokenizer.length}, but the text encoder "
                f"knows {rows} tokens and {positions} places: take both from one model."
            )
        self.tokenizer = tokenizer
        self.text_model = text_model
        self.layer = layer
        self.final_norm = final_norm

    @property
    def width(self) -> int:
        """Width D of a token."""
        return self.text_model.config.hidden_size

    @property
    def pooled_width(self) -> int | None:
        """Width P of what stands for a whole text, or none where the encoder has no projection."""
        config = self.text_model.config
        return getattr(config, "projection_dim", None) if getattr(config, "with_projection", False) else None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextConditioner:
        """Move the text encoder, in place."""
        self.text_model.to(device=device, dtype=dtype)
        return self

    def __call__(self, asked: Sequence[str | Words]) -> Conditioning:
        """The conditioning of B texts, on the encoder's device; it does not depend on what else is told with them.

        sequence [B L D], L the tokenizer's length; pooled [B P] if the encoder has its projection.
        """
        rows = self.tokenizer.encode([one if isinstance(one, str) else one.text for one in asked])
        device = next(self.text_model.parameters()).device
        ids = torch.tensor(rows, dtype=torch.long, device=device).reshape(len(rows), self.tokenizer.length)
        sequence, pooled = self.text_model.read(ids, layer=self.layer, final_norm=self.final_norm)
        return Conditioning(sequence=sequence, pooled=pooled)
