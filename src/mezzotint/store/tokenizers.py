"""Tokenizers for single files, which carry none unless they were written here.

CLIP's vocabulary follows from its merges, which an installed open_clip_torch brings along and many repositories in the
hub's cache hold; nothing of either is imported and nothing is fetched. Imports no torch.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.text.tokenizer import BOS, END_OF_WORD, EOS, SpecialTokens, byte_alphabet
from mezzotint.types import UserError

METADATA = "mezzotint.tokenizers"
"""Where our own single files keep their tokenizers' files: JSON by folder and name, compressed, in base 64."""
MAX_BYTES = 2**26
"""The most that such files are together."""

CLIP_SIZE = 49_408
"""Tokens of OpenAI's CLIP, which OpenCLIP's models for English share."""
CLIP_MERGES = "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
"""SHA-256 of its merges, a line each."""
OPEN_CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
CLIP_REPOSITORIES = ("openai/clip-vit-large-patch14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
BERT_REPOSITORIES = ("google-bert/bert-base-uncased", "bert-base-uncased", "CompVis/ldm-text2im-large-256")
"""Repositories on the hub that hold the tokenizers of published models, looked at before any other in the cache."""
FOLDERS = ("", "tokenizer", "tokenizer_2")
"""Where a repository keeps its tokenizer."""
DAMAGED = (OSError, EOFError, zlib.error, UnicodeDecodeError, UserError)
"""What reading a vocabulary that is no use ends in; another may be."""


def tokenizer_for(
    config: CLIPTextConfig | LDMBertConfig, metadata: Mapping[str, str], kind: str, *, pad_id: int | None
) -> Tokenizer | WordPieceTokenizer:
    """The tokenizer of a text encoder in a single file.

    `kind` is its folder's name in the diffusers layout, by which our own files keep it in their `metadata`; `pad_id` is
    the token that fills up short texts, or none for the one that ends a text. Raises UserError, saying how to get it,
    where it is neither in the file nor on this machine, and where the file's own is damaged.
    """
    bert = isinstance(config, LDMBertConfig)
    if METADATA in metadata:
        return _own(metadata[METADATA], kind, config)
    if bert:
        for folder in _cached("vocab.txt", BERT_REPOSITORIES):
            words = WordPieceTokenizer.from_folder(folder, config.max_position_embeddings)
            if words.vocab_size == config.vocab_size:
                return words
        raise UserError(
            "The file has no tokenizer, as is usual, and there is none here that fits: get it once with "
            f"`hf download {BERT_REPOSITORIES[0]} vocab.txt`."
        )
    for merges in _merges():
        if len(merges) + 2 * 256 + 2 == config.vocab_size and _is_known(merges):
            return clip_tokenizer(merges, pad_id=pad_id, length=config.max_position_embeddings)
    raise UserError(
        "The file has no tokenizer, as is usual, and there is none here that fits: get it once with "
        f"`pip install open_clip_torch` or `hf download {CLIP_REPOSITORIES[0]} vocab.json merges.txt`."
    )


def clip_tokenizer(merges: list[tuple[str, str]], *, pad_id: int | None, length: int) -> Tokenizer:
    """The tokenizer that these merges make: all bytes, all bytes that end a word, what is merged, begin and end."""
    letters = sorted(byte_alphabet())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), BOS, EOS]
    special = SpecialTokens(pad=EOS if pad_id is None else tokens[pad_id])
    return Tokenizer({token: index for index, token in enumerate(tokens)}, merges, special, length)


def packed_tokenizers(tokenizers: Mapping[str, Tokenizer | WordPieceTokenizer]) -> dict[str, str]:
    """The metadata that keeps tokenizers by the names of their folders in the diffusers layout."""
    texts: dict[str, dict[str, str]] = {}
    with TemporaryDirectory() as temporary:
        for name, tokenizer in tokenizers.items():
            folder = Path(temporary) / name
            tokenizer.save(folder)
            texts[name] = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    return {METADATA: base64.b64encode(lzma.compress(json.dumps(texts).encode(), preset=1)).decode()}


def _own(text: str, kind: str, config: CLIPTextConfig | LDMBertConfig) -> Tokenizer | WordPieceTokenizer:
    """The tokenizer that our own metadata keeps. Raises UserError where it is damaged."""
    try:
        unpacked = lzma.LZMADecompressor().decompress(base64.b64decode(text), max_length=MAX_BYTES)
        folders: dict[str, dict[str, str]] = json.loads(unpacked)
        files = folders[kind.replace("text_encoder", "tokenizer")]
        with TemporaryDirectory() as temporary:
            for name, content in files.items():
                (Path(temporary) / Path(name).name).write_text(content, encoding="utf-8", newline="\n")
            if isinstance(config, LDMBertConfig):
                return WordPieceTokenizer.from_folder(temporary, config.max_position_embeddings)
            return Tokenizer.from_folder(temporary)
    except UserError:
        raise
    except (lzma.LZMAError, ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f"The metadata {METADATA} is damaged: get the file again.") from error


def _merges() -> Iterator[list[tuple[str, str]]]:
    """Lists of merges on this machine, from an installed open_clip_torch and from the hub's cache."""
    found = find_spec("open_clip")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(place) / OPEN_CLIP_FILE
        if path.is_file():
            with suppress(*DAMAGED):
                # It lists more merges than CLIP's vocabulary has.
                yield _pairs(gzip.decompress(path.read_bytes()).decode())[: CLIP_SIZE - 2 * 256 - 2]
    for folder in _cached("merges.txt", CLIP_REPOSITORIES):
        with suppress(*DAMAGED):
            yield _pairs((folder / "merges.txt").read_text(encoding="utf-8"))


def _pairs(text: str) -> list[tuple[str, str]]:
    """Merges from a text that has one a line, after a line that tells its version."""
    pairs = [line.split() for line in text.splitlines()[1:] if line.strip() != ""]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError("The merges are damaged.")
    return [(first, second) for first, second in pairs]


def _is_known(merges: list[tuple[str, str]]) -> bool:
    """Whether merges that are as many as CLIP's are CLIP's; of any other number nothing is known."""
    lines = "".join(f"{first} {second}\n" for first, second in merges)
    return len(merges) + 2 * 256 + 2 != CLIP_SIZE or hashlib.sha256(lines.encode()).hexdigest() == CLIP_MERGES


def _cached(name: str, first: tuple[str, ...]) -> Iterator[Path]:
    """The folders in the hub's cache that hold a file of that name, those of the repositories `first` at first."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    own = [f"models--{repository.replace('/', '--')}" for repository in first]
    others = sorted({path.name for path in cache.glob("models--*")} - set(own)) if cache.is_dir() else []
    for repository in (*own, *others):
        for snapshot in sorted((cache / repository / "snapshots").glob("*")):
            yield from (snapshot / folder for folder in FOLDERS if (snapshot / folder / name).is_file())
