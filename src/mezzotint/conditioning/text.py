"""The text conditioner: prompts to tau(y), the tokens that the U-Net's cross-attention reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip_text import CLIPTextModel
from mezzotint.conditioning.foreign import ForeignEncoder, ForeignTokenizer
from mezzotint.conditioning.weighting import interpolated, scaled
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.text.chunks import EMPTY, Chunk, chunked
from mezzotint.types import Conditioning, UserError, Words

AnyTokenizer = Tokenizer | WordPieceTokenizer | ForeignTokenizer
AnyTextModel = CLIPTextModel | LDMBertModel | ForeignEncoder
MOST = 256
"""Chunks that are encoded at once."""


class Conditioner(Protocol):
    """What a pipeline needs of a conditioner."""

    @property
    def tokenizer(self) -> AnyTokenizer:
        """The one that cuts texts into words and chunks."""
        ...

    def chunks(self, words: str | Words) -> int:
        """How many times the text encoder's length a text takes, as it stands in `words` alone."""
        ...

    def __call__(self, asked: Sequence[str | Words]) -> Conditioning:
        """One row for each text, on the encoders' device; a text alone is Words with nothing else told.

        All are filled up with empty chunks to the longest of them.
        """
        ...

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Any:
        """Move every network, in place."""
        ...


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

    def chunks(self, words: str | Words) -> int:
        """How many chunks a text takes: as many as it needs, or as `words` wants if that is more.

        What bounds them is how long a prompt may be (Request.MAX_PROMPT).
        """
        return self._laid(words)[1]

    def __call__(self, asked: Sequence[str | Words]) -> Conditioning:
        """The conditioning of B texts, on the encoder's device.

        sequence [B n*L D], L the tokenizer's length, n the most chunks that one of the texts takes: each chunk is
        encoded by itself, they stand in a row, and shorter texts are filled up with empty chunks. But for n no row
        depends on what else is told with it. pooled [B P], of the first chunk, if the encoder has its projection.
        """
        laid = [self._laid(one) for one in asked]
        count = max((needed for _, needed, _ in laid), default=1)
        rows = [chunk for chunks, _, _ in laid for chunk in (*chunks, *[EMPTY] * (count - len(chunks)))]
        ids = self._ids(rows)
        read = [self._read(part) for part in ids.split(MOST)]
        sequence = torch.cat([tokens for tokens, _ in read])
        weighed = [number for number, chunk in enumerate(rows) if any(weight != 1.0 for weight in chunk.weights)]
        if weighed:
            tokens = list(sequence.split(1))
            for number in weighed:
                tokens[number] = self._weighed(
                    tokens[number], ids[number, None], rows[number], laid[number // count][2]
                )
            sequence = torch.cat(tokens)
        pooled = [summary for _, summary in read if summary is not None]
        return Conditioning(
            sequence=sequence.unflatten(0, (len(laid), count)).flatten(1, 2),
            pooled=torch.cat(pooled)[::count] if pooled else None,
        )

    def _laid(self, one: str | Words) -> tuple[list[Chunk], int, str]:
        """A text's chunks, how many they are to be, and its weighting."""
        words = Words(one) if isinstance(one, str) else one
        chunks = chunked(self.tokenizer, words.text, words.weighting)
        return chunks, max(len(chunks), words.chunks or 0), words.weighting

    def _ids(self, chunks: Sequence[Chunk]) -> Tensor:
        """The ids [N L] of chunks."""
        rows = [self.tokenizer.row(chunk.ids) for chunk in chunks]
        device = next(self.text_model.parameters()).device
        return torch.tensor(rows, dtype=torch.long, device=device).reshape(len(rows), self.tokenizer.length)

    def _read(self, ids: Tensor, unseen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.text_model.read(ids, layer=self.layer, final_norm=self.final_norm, unseen=unseen)

    def _weighed(self, tokens: Tensor, ids: Tensor, chunk: Chunk, weighting: str) -> Tensor:
        """The tokens [1 L D] of a chunk with ids [1 L], weighed."""
        start = self.tokenizer.place(len(chunk.ids))
        weights = torch.ones(ids.shape[1], device=ids.device)
        weights[start : start + len(chunk.ids)] = torch.tensor(chunk.weights, device=ids.device)
        if weighting == "a1111":
            return scaled(tokens, weights[None])
        return interpolated(self._tokens, ids, self._ids([EMPTY]), weights)

    def _tokens(self, ids: Tensor, unseen: Tensor | None) -> Tensor:
        return self._read(ids, unseen)[0]
