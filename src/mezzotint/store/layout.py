"""Where a diffusers folder keeps what a picture depends on. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from mezzotint.store.evidence import told_beside
from mezzotint.store.facts import read_json
from mezzotint.store.header import Header, read_header, shown
from mezzotint.types import UserError

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "vqvae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "bert": "model",
}
"""The parts that have weights, and what their files are called where they are safetensors."""
FILES = (
    ("diffusion_pytorch_model", ".safetensors"),
    ("model", ".safetensors"),
    ("diffusion_pytorch_model", ".bin"),
    ("pytorch_model", ".bin"),
)
"""What diffusers and transformers call the weights of a part; a variant stands between the two."""
VARIANTS = {
    "float32": ("", ".fp16", ".bf16"),
    "float16": (".fp16", "", ".bf16"),
    "bfloat16": (".bf16", "", ".fp16"),
}
"""The precisions that a part may be stored in, for each that may be asked for, the best first."""

CLASSIFIER = "classifier"
"""The folder of our own classifier of noisy latents, where diffusers does not look."""
HINTS = "hints"
"""That of what was learned of hints."""
IMAGE_PROMPT = "image_prompt"
"""That of what reads pictures as prompts."""
BESIDE = (CLASSIFIER, HINTS, IMAGE_PROMPT)
"""The folders of what a picture may be drawn without; their files are checked when they are read."""

INDEX = "model_index.json"
EMPTY_NEGATIVE = "force_zeros_for_empty_prompt"
"""The one key of it that a picture depends on and that no part would be refused for."""
REST = "mezzotint.safetensors"
"""What of a single file has no place in the parts (`rest`); other programs read no such file."""
REST_MARK = "rest"
"""What follows our prefix in the name of its metadata."""
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
    return (path / INDEX).is_file()


def weight_files(folder: Path, dtype: str | None = None) -> list[Path]:
    """The files of one part's weights: one, or the shards that its index names.

    Of several precisions, full goes first, unless `dtype` (torch's name) is one of 16 bits and the folder has that; of
    several formats, safetensors. Raises UserError where there are none, or an index does not say which.
    """
    for variant in VARIANTS.get(dtype or "", VARIANTS["float32"]):
        for stem, end in FILES:
            path = folder / f"{stem}{variant}{end}"
            if path.is_file():
                return [path]
            for index in (folder / f"{stem}{end}.index{variant}.json", folder / f"{stem}{variant}{end}.index.json"):
                if index.is_file():
                    return _shards(index)
    stem = STEMS.get(folder.name, "diffusion_pytorch_model")
    raise UserError(f"{folder} has no {stem}.safetensors or .bin: the model is incomplete, get it again.")


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which must stand beside it. Raises UserError where it does not say, or others."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index} does not say where the weights are: get it again.")
    names = sorted({str(name) for name in cast("dict[str, str]", places).values()})
    for name in names:
        if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
            raise UserError(f"{index} names the file {shown(name)}, which is not in its folder: get it again.")
    return [index.parent / name for name in names]


def weight_headers(folder: Path, dtype: str | None = None) -> list[Header]:
    """The headers of one part's weight files. Raises UserError where a file is missing or damaged."""
    return [read_header(path) for path in weight_files(folder, dtype)]


def all_weight_files(folder: Path, dtype: str | None = None) -> list[Path]:
    """Every weight file of a model folder, part after part. Raises UserError where a part has none."""
    files = [path for part in parts_with_weights(folder) for path in weight_files(folder / part, dtype)]
    return files + [path for path in (folder / REST,) if path.is_file()]


def parts_with_weights(folder: Path) -> list[str]:
    """The parts of a model folder that have weights which are read. Raises UserError as `read_json`."""
    index = read_json(folder / INDEX)
    return [part for part in STEMS if part in index and index[part] != [None, None]]


def model_headers(model: Path, dtype: str | None = None) -> list[Header]:
    """The headers of every weight file of a model, folder or single file. Raises UserError as `weight_headers`."""
    if model.is_file():
        return [read_header(model)]
    return [read_header(path) for path in all_weight_files(model, dtype)]


def all_model_files(model: Path, dtype: str | None = None) -> list[Path]:
    """Every file that a picture depends on: the weights, and of configs and tokenizer those that are there.

    A single file's .yaml is one where it tells of the prediction, and model_index.json where it tells what an empty
    negative is. Raises UserError where a part has no weights.
    """
    if model.is_file():
        return [model, *([model.with_suffix(".yaml")] if told_beside(model) else [])]
    beside = [model / part / name for part, names in READ_BESIDE.items() for name in names]
    beside += [model / INDEX] if EMPTY_NEGATIVE in read_json(model / INDEX) else []
    return all_weight_files(model, dtype) + [path for path in beside if path.is_file()]
