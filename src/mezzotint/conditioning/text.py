"""The text conditioner: prompts to tau(y), the tokens that the U-Net's cross-attention reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mezzotint.conditioning.clip_text import CLIPTextModel
from mezzotint.text import Tokenizer
from mezzotint.types import Conditioning, UserError


class TextConditioner:
    """A tokenizer and a text encoder that belong together."""

    def __init__(
        self, tokenizer: Tokenizer, text_model: CLIPTextModel, *, layer: int = -1, final_norm: bool = True
    ) -> None:
        """`layer` and `final_norm` choose which tokens are read, as in CLIPTextModel.tokens.

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

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning (sequence [B L D], L the tokenizer's length) of B prompts, on the encoder's device."""
        rows = self.tokenizer.encode(prompts)
        device = self.text_model.text_model.final_layer_norm.weight.device
        ids = torch.tensor(rows, dtype=torch.long, device=device).reshape(len(rows), self.tokenizer.length)
        return Conditioning(sequence=self.text_model.tokens(ids, layer=self.layer, final_norm=self.final_norm))
