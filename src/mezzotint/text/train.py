"""Vocabularies of tokenizers, found in a corpus by merging (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1)."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from mezzotint.text import wordpiece
from mezzotint.text.tokenizer import BOS, END_OF_WORD, EOS, Tokenizer, byte_alphabet, normalizer, pre_tokenizer
from mezzotint.text.wordpiece import GOES_ON, SPECIAL, WordPieceTokenizer
from mezzotint.types import UserError

PRIVATE = 0xF0000  # where a plane of Unicode's private letters begins

FEWEST_PIECES = len(SPECIAL) + len(string.punctuation) + 2 * len(string.digits + string.ascii_lowercase)
"""The tokens that stand for no text, and what writes ASCII in word pieces."""

Word = Sequence[str]
"""A word, letter by letter; a letter is told by a name of its own where it begins, ends or goes on within a word."""


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
    normalize, split = normalizer().normalize_str, pre_tokenizer().pre_tokenize_str

    def words(text: str) -> Iterable[Word]:
        return ([*piece[:-1], piece[-1] + END_OF_WORD] for piece, _ in split(normalize(text)))

    vocabulary = {letter: index for index, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    for first, second in _merges((words(text) for text in corpus), letters, vocab_size):
        if len(vocabulary) == vocab_size - 2:
            break
        pair = "".join(first), "".join(second)
        merges.append(pair)
        vocabulary.setdefault("".join(pair), len(vocabulary))
    for token in (BOS, EOS):
        vocabulary[token] = len(vocabulary)
    return Tokenizer(vocabulary, merges)


def train_word_pieces(corpus: Iterable[str], vocab_size: int) -> WordPieceTokenizer:
    """BERT's tokenizer of at most `vocab_size` tokens, found likewise; the same for the same corpus.

    Its vocabulary: [PAD], [UNK], [CLS], [SEP] and [MASK]; ASCII's signs; its digits and small letters and the corpus's
    other letters, the commonest first, each also as one that goes on within a word; then pieces. Of too many letters
    the rarest are left out, and words with them are unknown. Raises UserError if vocab_size has no room for ASCII.
    """
    normalize, split = wordpiece.normalizer().normalize_str, wordpiece.pre_tokenizer().pre_tokenize_str
    found = Counter(piece for text in corpus for piece, _ in split(normalize(text)))
    often: Counter[str] = Counter()
    for word, count in found.items():
        often.update(dict.fromkeys(word, count))
    inside = [*string.digits, *string.ascii_lowercase]
    others = sorted(set(often) - {*string.punctuation, *inside}, key=lambda letter: (-often[letter], letter))
    if vocab_size < FEWEST_PIECES:
        raise UserError(f"The vocabulary size is {vocab_size}; it must be {FEWEST_PIECES} or more to write ASCII.")
    inside += others[: (vocab_size - FEWEST_PIECES) // 2]
    letters = [*string.punctuation, *inside, *(GOES_ON + letter for letter in inside)]
    spelt = {word: [word[0], *(GOES_ON + letter for letter in word[1:])] for word in found}
    known = set(letters)
    words = [[spelt[word]] * count for word, count in found.items() if known.issuperset(spelt[word])]
    special = [SPECIAL[name] for name in ("pad", "unk", "cls", "sep", "mask")]
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    for first, second in _merges(words, letters, vocab_size):
        if len(vocabulary) == vocab_size:
            break
        start, *rest = [*first, *second]
        piece = "".join([start, *(letter.removeprefix(GOES_ON) for letter in rest)])
        vocabulary.setdefault(piece, len(vocabulary))
    return WordPieceTokenizer(vocabulary)


def _merges(texts: Iterable[Iterable[Word]], letters: Sequence[str], most: int) -> Iterable[tuple[Word, Word]]:
    """The merges that shorten texts most, the first first: two tokens, letter by letter, which become one.

    Fewer than `most`, and only of what stands in the texts twice.
    """
    # To the trainer every letter is one private letter. It ranks equally good pairs by number, and numbers letters that
    # it knows beforehand in order, but those with a prefix or suffix of its own as a hash table happens to bring them.
    private = {letter: chr(PRIVATE + index) for index, letter in enumerate(letters)}
    backend = Backend(BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = BpeTrainer(
        vocab_size=most,
        min_frequency=2,
        initial_alphabet=list(private.values()),
        show_progress=False,
        special_tokens=[],
    )
    backend.train_from_iterator(
        (" ".join("".join(private[letter] for letter in word) for word in text) for text in texts), trainer
    )
    for pair in json.loads(backend.to_str())["model"]["merges"]:
        first, second = ([letters[ord(letter) - PRIVATE] for letter in token] for token in pair)
        yield first, second
