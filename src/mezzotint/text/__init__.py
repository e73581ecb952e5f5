"""Words to tokens; no torch."""

from __future__ import annotations

from .tokenizer import SpecialTokens, Tokenizer
from .train import train_tokenizer

__all__ = ["SpecialTokens", "Tokenizer", "train_tokenizer"]
