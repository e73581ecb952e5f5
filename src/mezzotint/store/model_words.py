"""The tokenizers of a model, read without its weights. Imports no torch, unless they are transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.store.contents import TEXT_KINDS
from mezzotint.store.facts import described, read_json
from mezzotint.store.families import recognise
from mezzotint.store.header import naming, read_header
from mezzotint.store.layout import is_model_folder
from mezzotint.store.pipelines import CLIP, layout_of
from mezzotint.store.tokenizers import tokenizer_for
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.types import UserError

if TYPE_CHECKING:
    from mezzotint.conditioning.foreign import ForeignTokenizer

    AnyTokenizer = Tokenizer | WordPieceTokenizer | ForeignTokenizer


def model_tokenizers(path: Path) -> dict[str, AnyTokenizer]:
    """The tokenizers of the model in a diffusers folder or in one file, by the names of their folders in the former.

    Raises UserError where there is none, and as reading the whole model does.
    """
    if is_model_folder(path):
        index = read_json(path / "model_index.json")
        return {
            words: _in_folder(path / words, path / encoder, str(index[encoder][1]))
            for words, encoder in layout_of(path, index).texts
        }
    header = read_header(path)
    with naming(path):
        family = recognise(
            {name: entry.shape for name, entry in header.tensors.items()}, header.metadata, lambda _name: []
        )
        texts = [part for part in family.parts if part.kind in TEXT_KINDS]
        if not texts:
            raise UserError("The file has no text encoder: give a whole model.")
        return {
            part.kind.replace("text_encoder", "tokenizer"): tokenizer_for(
                cast("CLIPTextConfig | LDMBertConfig", part.config),
                header.metadata,
                part.kind,
                pad_id=None if part.reading is None else part.reading.pad_id,
            )
            for part in texts
        }


def _in_folder(words: Path, encoder: Path, kind: str) -> AnyTokenizer:
    """The tokenizer in a folder that belongs to a text encoder of the class `kind`."""
    if kind == "LDMBertModel":
        config = described(LDMBertConfig.from_dict, encoder / "config.json")
        return WordPieceTokenizer.from_folder(words, config.max_position_embeddings)
    if kind in CLIP:
        return Tokenizer.from_folder(words)
    from mezzotint.conditioning.foreign import load_tokenizer

    return load_tokenizer(words)
