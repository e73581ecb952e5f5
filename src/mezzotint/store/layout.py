"""Where a diffusers folder keeps what a picture depends on. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from mezzotint.store.facts import read_json
from mezzotint.store.header import Header, read_header
from mezzotint.types import UserError

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "vqvae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "bert": "model",
}
"""The parts that have weights, and what their files are called."""


TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
READ_BESIDE = {
    **dict.fromkeys(STEMS, ("config.json",)),
    "tokenizer": TOKENIZER_FILES,
    "tokenizer_2": TOKENIZER_FILES,
    "scheduler": ("scheduler_config.json",),
}
"""What else a picture depends on, part by part."""


def is_model_folder(path: Path) -> bool:
    """Whether it is a folder in the diffusers layout."""
    return (path / "model_index.json").is_file()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one part: one, or the shards that its index names; a 16-bit variant if that is all.

    Raises UserError where there are none, and says so if they are pickles, which are never read.
    """
    stem = STEMS.get(folder.name, "diffusion_pytorch_model")
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict):
                raise UserError(f"{index} does not say where the weights are: get it again.")
            return [
                folder / shard for shard in sorted({str(shard) for shard in cast("dict[str, str]", shards).values()})
            ]
    if any(folder.glob("*.bin")):
        raise UserError(f"{folder} has only pickled weights (.bin), which can run code: save it as safetensors.")
    raise UserError(f"{folder} has no {stem}.safetensors: the model is incomplete, get it again.")


def weight_headers(folder: Path) -> list[Header]:
    """The headers of one part's weight files. Raises UserError where a file is missing or damaged."""
    return [read_header(path) for path in weight_files(folder)]


def all_weight_files(folder: Path) -> list[Path]:
    """Every weight file of a model folder, part after part. Raises UserError where a part has none."""
    return [path for part in parts_with_weights(folder) for path in weight_files(folder / part)]


def parts_with_weights(folder: Path) -> list[str]:
    """The parts of a model folder that have weights which are read. Raises UserError as `read_json`."""
    index = read_json(folder / "model_index.json")
    return [part for part in STEMS if part in index and index[part] != [None, None]]


def all_model_files(folder: Path) -> list[Path]:
    """Every file that a picture depends on: the weights, and of configs and tokenizer those that are there.

    Raises UserError where a part has no weights.
    """
    beside = [folder / part / name for part, names in READ_BESIDE.items() for name in names]
    return all_weight_files(folder) + [path for path in beside if path.is_file()]
