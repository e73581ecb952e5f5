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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.text.tokenizer import BOS, END_OF_WORD, EOS, byte_alphabet
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
DAMAGED = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError)
"""What reading a vocabulary that is damaged or of another kind ends in; another may be of use."""
NONE_HERE = "The file has no tokenizer, as is usual, and there is none here that fits: get it once"


def tokenizer_for(
    config: CLIPTextConfig | LDMBertConfig, metadata: Mapping[str, str], kind: str, *, pad_id: int | None
) -> Tokenizer | WordPieceTokenizer:
    """The tokenizer of a text encoder in a single file.

    `kind` is its folder's name in the diffusers layout, by which our own files keep it in their `metadata`; `pad_id` is
    the token that fills up short texts, or none for the one that ends a text. Raises UserError, saying how to get it,
    where it is neither in the file nor on this machine, and where the file's own is damaged.
    """
    if METADATA in metadata:
        return _own(metadata[METADATA], kind, config)
    if isinstance(config, LDMBertConfig):
        for folder in _cached(("vocab.txt", "tokenizer.json"), BERT_REPOSITORIES):
            with suppress(*DAMAGED):
                words = WordPieceTokenizer.from_folder(folder, config.max_position_embeddings)
                if words.vocab_size == config.vocab_size:
                    return words
        raise UserError(f"{NONE_HERE} with `hf download {BERT_REPOSITORIES[0]} vocab.txt`.")
    for pieces in _clip_tokenizers():
        if pieces.vocab_size == config.vocab_size and _is_known(pieces):
            names = {index: token for token, index in pieces.vocabulary.items()}
            special = replace(pieces.special, pad=pieces.special.eos if pad_id is None else names[pad_id])
            return replace(pieces, special=special, length=config.max_position_embeddings)
    raise UserError(
        f"{NONE_HERE} with `pip install open_clip_torch` or `hf download {CLIP_REPOSITORIES[0]} vocab.json merges.txt`."
    )


def clip_tokenizer(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The tokenizer that merges make: all bytes, all bytes that end a word, what is merged, begin and end of a text."""
    letters = sorted(byte_alphabet())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), BOS, EOS]
    return Tokenizer({token: index for index, token in enumerate(tokens)}, merges)


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


def _clip_tokenizers() -> Iterator[Tokenizer]:
    """The tokenizers of CLIP's kind on this machine: of an installed open_clip_torch, and in the hub's cache."""
    found = find_spec("open_clip")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        path = Path(place) / OPEN_CLIP_FILE
        if path.is_file():
            with suppress(*DAMAGED):
                lines = gzip.decompress(path.read_bytes()).decode().splitlines()
                # It lists more merges than CLIP's vocabulary has, after a line that tells its version.
                pairs = [line.split() for line in lines[1 : 1 + CLIP_SIZE - 2 * 256 - 2]]
                yield clip_tokenizer([(first, second) for first, second in pairs])
    for folder in _cached(("merges.txt", "tokenizer.json"), CLIP_REPOSITORIES):
        with suppress(*DAMAGED):
            yield Tokenizer.from_folder(folder)


def _is_known(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer of as many tokens as CLIP's is CLIP's; of any other number nothing is known."""
    lines = "".join(f"{first} {second}\n" for first, second in tokenizer.merges)
    return tokenizer.vocab_size != CLIP_SIZE or hashlib.sha256(lines.encode()).hexdigest() == CLIP_MERGES


def _cached(names: tuple[str, ...], first: tuple[str, ...]) -> Iterator[Path]:
    """The folders in the hub's cache that hold a file of such a name, those of the repositories `first` at first."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    own = [f"models--{repository.replace('/', '--')}" for repository in first]
    others = sorted({path.name for path in cache.glob("models--*")} - set(own)) if cache.is_dir() else []
    for repository in (*own, *others):
        for snapshot in sorted((cache / repository / "snapshots").glob("*")):
            folders = (snapshot / folder for folder in FOLDERS)
            yield from (folder for folder in folders if any((folder / name).is_file() for name in names))
