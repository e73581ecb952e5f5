"""Learned words in a model: their vectors beside the text encoder's own, their names in its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mezzotint.conditioning.clip_text import CLIPTextModel
from mezzotint.text import Tokenizer
from mezzotint.text.words import with_words
from mezzotint.types import UserError

Vectors = Mapping[int, Tensor]
"""The vectors [n D] of one word by D, the width of the text encoder that they are for."""


class ReadsText(Protocol):
    """A tokenizer and a text encoder that belong together, as in a TextConditioner."""

    tokenizer: Any
    text_model: Any


class LearnedWords:
    """The learned words of a model's text encoders.

    words = LearnedWords([pipe.conditioner])
    words.set({"<cat-toy>": {768: vectors}})      # "a <cat-toy> on a table" reads them
    words.set({})                                 # the model is what it was, to the last bit
    """

    def __init__(self, conditioners: Sequence[ReadsText]) -> None:
        """`conditioners` are all those that read the same prompt: one, or two in SDXL."""
        self.conditioners = tuple(conditioners)

    def set(self, words: Mapping[str, Vectors]) -> None:
        """Give the model these words, in this order, and no others.

        Raises UserError, before anything changes, for a word that is empty or there twice, that has no vectors for one
        of the encoders, or not equally many for all.
        """
        encoders = [_parts(conditioner) for conditioner in self.conditioners]
        widths = [encoder.config.hidden_size for _, encoder in encoders]
        for word, vectors in words.items():
            _check(word, vectors, widths)
        settled: list[tuple[ReadsText, CLIPTextModel, Tokenizer, Tensor | None]] = []
        for conditioner, (tokenizer, encoder), width in zip(self.conditioners, encoders, widths, strict=True):
            counts = {word: len(vectors[width]) for word, vectors in words.items()}
            like = encoder.text_model.embeddings.token_embedding.weight
            rows = [vectors[width].detach().to(like) for vectors in words.values()]
            named = with_words(tokenizer, counts, encoder.config.vocab_size)
            settled.append((conditioner, encoder, named, torch.cat(rows) if rows else None))
        for conditioner, encoder, tokenizer, learned in settled:
            conditioner.tokenizer = tokenizer
            encoder.text_model.embeddings.learned = learned


def _parts(conditioner: ReadsText) -> tuple[Tokenizer, CLIPTextModel]:
    """The tokenizer and the encoder of a conditioner. Raises UserError where they are not CLIP's."""
    tokenizer, encoder = conditioner.tokenizer, conditioner.text_model
    if not isinstance(tokenizer, Tokenizer) or not isinstance(encoder, CLIPTextModel):
        raise UserError("Learned words can be added to CLIP's text encoders alone; this model reads text by another.")
    return tokenizer, encoder


def _check(word: str, vectors: Vectors, widths: Sequence[int]) -> None:
    """Raise UserError unless a word has vectors for encoders of these widths, equally many for each."""
    for width in widths:
        if width not in vectors:
            have, need = (" and ".join(str(side) for side in dict.fromkeys(sides)) for sides in (vectors, widths))
            raise UserError(
                f"The word {word!r} was learned as vectors {have} wide, but this model's text is read {need} wide: "
                "it is for another model."
            )
        if vectors[width].ndim != 2 or vectors[width].shape[1] != width or len(vectors[width]) == 0:
            raise UserError(
                f"The vectors of {word!r} have shape {list(vectors[width].shape)}; it must be [n, {width}]."
            )
    if len({len(vectors[width]) for width in widths}) > 1:
        counts = " and ".join(str(len(vectors[width])) for width in widths)
        raise UserError(f"The word {word!r} has {counts} vectors for the model's text encoders: they must be as many.")
