"""Tokenizers and text encoders of a diffusers folder, and what they are when saved as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.conditioning.foreign import ForeignEncoder, ForeignTokenizer, load_encoder, load_tokenizer
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.conditioning.text import AnyTextModel, AnyTokenizer
from mezzotint.store.facts import described
from mezzotint.store.layout import STEMS
from mezzotint.store.part import save_part
from mezzotint.store.parts import Parts
from mezzotint.store.pipelines import CLIP, Entry
from mezzotint.store.rest import Rest
from mezzotint.store.source import part_sources
from mezzotint.store.weights import Unread, build
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.types import UserError

Text = tuple[AnyTokenizer, AnyTextModel]
"""A tokenizer and the text encoder that it belongs to."""


def load_text(
    folders: tuple[Path, Path],
    kind: str,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    rest: Rest | None = None,
    unread: Unread | None = None,
) -> Text:
    """What lies in the folders of a tokenizer and of a text encoder of the class `kind`, fixed, in evaluation mode.

    A class that is not known here is transformers'. `rest` has what the folder has no place for. Raises UserError where
    either is damaged or of another kind, or where a class of transformers is asked for and that is not installed.
    """
    words, path = folders
    if kind == "LDMBertModel":
        bert = described(LDMBertConfig.from_dict, path / "config.json")
        tokenizer = WordPieceTokenizer.from_folder(words, bert.max_position_embeddings)
        return tokenizer, build(
            lambda: LDMBertModel(bert), part_sources(path, dtype), device=device, dtype=dtype, unread=unread
        )
    if kind not in CLIP:
        pieces = load_tokenizer(words)
        return pieces, load_encoder(path, pieces.pad_id).to(device=device, dtype=dtype)
    clip = described(CLIPTextConfig.from_dict, path / "config.json")
    clip = replace(clip, with_projection=kind == "CLIPTextModelWithProjection")
    sources = part_sources(path, dtype)
    if rest is not None:
        whole, sources = rest.put_on(path.name, clip), [*sources, rest.source]
    else:
        whole = clip

    def rename(name: str) -> str | None:
        if rest is not None and name in rest.source.entries:
            return name.removeprefix(f"{path.name}.") if name.startswith(f"{path.name}.") else None
        return text_encoder_name(name)

    return Tokenizer.from_folder(words), build(
        lambda: CLIPTextModel(whole), sources, device=device, dtype=dtype, rename=rename, unread=unread
    )


def text_encoder_name(name: str) -> str | None:
    """Our name for a CLIP text model's tensor: transformers 5 leaves `text_model.` out, 4.30 stores positions."""
    if name.endswith("position_ids"):
        return None
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def save_text(text: Text, folders: tuple[Path, Path], dtype: torch.dtype | None, shard: int) -> list[Path]:
    """Write a tokenizer and a text encoder as `save_part` does; returns the weight files."""
    (tokenizer, encoder), (words, path) = text, folders
    tokenizer.save(words)
    if isinstance(encoder, ForeignEncoder):
        return encoder.save(path, dtype)
    # transformers would else compute in the 16 bits that the file is stored in, beside a U-Net in 32.
    config = encoder.config.to_dict() | {"torch_dtype": "float32"}
    return save_part(encoder, config, path, stem=STEMS[path.name], dtype=dtype, shard=shard)


def texts_for_diffusers(parts: Parts) -> list[Text]:
    """Tokenizers and text encoders that diffusers reads what the model reads from.

    It reads the last layer, but of SDXL the one before the last, so layers after the one that is wanted are left out;
    and it takes a text encoder's projection for the tokens, but for SDXL's last. Raises UserError where no text encoder
    would be read as the model reads its own.
    """
    pairs = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
    texts = [(tokenizer, encoder) for tokenizer, encoder in pairs if tokenizer is not None and encoder is not None]
    sized = parts.numbers > 0
    last, norm = (-2, False) if sized else (-1, True)
    if parts.final_norm != norm or parts.layer > last:
        raise UserError(
            f"The model reads layer {parts.layer} of its text encoders {'after' if parts.final_norm else 'without'} "
            f"the last norm, which diffusers cannot."
        )
    saved: list[Text] = []
    for number, (tokenizer, encoder) in enumerate(texts):
        projected = sized and number == len(texts) - 1
        if isinstance(encoder, CLIPTextModel):
            blocks = encoder.config.num_hidden_layers + parts.layer - last
            encoder = encoder.cut(blocks=blocks, with_projection=projected)
        elif parts.layer != last:
            raise UserError(f"The model reads layer {parts.layer} of its text encoder, which diffusers cannot.")
        saved.append((tokenizer, encoder))
    return saved


def entries(text: Text) -> tuple[Entry, Entry]:
    """What model_index.json says of a tokenizer and of a text encoder: the library, and the class in it."""
    tokenizer, encoder = text
    if isinstance(tokenizer, ForeignTokenizer) and isinstance(encoder, ForeignEncoder):
        return ["transformers", tokenizer.class_name], ["transformers", encoder.class_name]
    if isinstance(encoder, LDMBertModel):
        return ["transformers", "BertTokenizer"], ["latent_diffusion", "LDMBertModel"]
    projected = isinstance(encoder, CLIPTextModel) and encoder.config.with_projection
    return ["transformers", "CLIPTokenizer"], ["transformers", CLIP[projected]]
