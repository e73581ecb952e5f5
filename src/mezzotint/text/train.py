"""Merges for a tokenizer, found in a corpus (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1)."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from mezzotint.text.tokenizer import BOS, END_OF_WORD, EOS, Tokenizer, byte_alphabet, normalizer, pre_tokenizer
from mezzotint.types import UserError

PRIVATE = 0xE000  # where Unicode's private letters begin


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of at most `vocab_size` tokens, whose merges shorten the corpus most; the same for the same corpus.

    Its vocabulary stands in CLIP's order: 256 bytes, 256 bytes that end a word, merged tokens, bos, eos; so every text
    can be written. Raises UserError if vocab_size is below the 514 that these take.
    """
    letters = sorted(byte_alphabet())
    letters += [letter + END_OF_WORD for letter in letters]
    if vocab_size < len(letters) + 2:
        raise UserError(
            f"The vocabulary size is {vocab_size}; it must be {len(letters) + 2} or more to write every byte."
        )
    # To the trainer a letter that ends a word is one private letter. It ranks equally good pairs by number, and numbers
    # letters that it knows beforehand in order, but those with its own suffix as a hash table happens to bring them.
    private = {letter: chr(PRIVATE + index) for index, letter in enumerate(letters)}
    public = {letter: name for name, letter in private.items()}
    normalize, split = normalizer().normalize_str, pre_tokenizer().pre_tokenize_str

    def spelt(text: str) -> str:
        pieces = (piece for piece, _ in split(normalize(text)))
        return " ".join(
            "".join(private[letter] for letter in piece[:-1]) + private[piece[-1] + END_OF_WORD] for piece in pieces
        )

    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, initial_alphabet=list(public), show_progress=False, special_tokens=[]
    )
    backend.train_from_iterator(map(spelt, corpus), trainer)
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for pair in json.loads(backend.to_str())["model"]["merges"]:
        if len(vocabulary) == vocab_size - 2:
            break
        first, second = ("".join(public[letter] for letter in token) for token in pair)
        merges.append((first, second))
        vocabulary.setdefault(first + second, len(vocabulary))
    for token in (BOS, EOS):
        vocabulary[token] = len(vocabulary)
    return Tokenizer(vocabulary, merges)
