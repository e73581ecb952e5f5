"""Words to tokens; no torch."""

from __future__ import annotations

from mezzotint.text.tokenizer import SpecialTokens, Tokenizer
from mezzotint.text.train import train_tokenizer, train_word_pieces
from mezzotint.text.wordpiece import WordPieceTokenizer

__all__ = ["SpecialTokens", "Tokenizer", "WordPieceTokenizer", "train_tokenizer", "train_word_pieces"]
