"""What `inspect` tells of files that stand beside a model: LoRA, learned words, image adapters. Imports no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from mezzotint.store.embeddings import embedding_facts
from mezzotint.store.extras import peft_config
from mezzotint.store.facts import read_json
from mezzotint.store.header import Header
from mezzotint.store.image_prompt import KINDS as ADAPTERS
from mezzotint.store.image_prompt import adapter_kind
from mezzotint.store.kinds import KINDS, Glance
from mezzotint.store.lora.facts import IDLE, changes_nothing, lora_facts

KEYS = "to_k_ip.weight"
"""How the names of an image adapter's matrices end that make keys of its tokens."""
SDXL_TEXTS = {768, 1280}
"""Widths of SDXL's text encoders."""
TOLD = {
    "title": ("ss_output_name", "modelspec.title"),
    "author": ("modelspec.author",),
    "description": ("modelspec.description",),
    "what_to_type": ("modelspec.trigger_phrase",),
    "license": ("modelspec.license",),
    "base_model": ("ss_sd_model_name",),
    "base_version": ("modelspec.architecture", "ss_base_model_version"),
    "network": ("ss_network_module",),
    "network_arguments": ("ss_network_args",),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "pictures": ("ss_num_train_images",),
    "steps": ("ss_steps",),
    "epochs": ("ss_epoch",),
    "learning_rate": ("ss_learning_rate",),
    "comment": ("ss_training_comment",),
}
"""What is told of how a LoRA was trained, and the keys of metadata that tell it; the last that is there counts."""
VOID = ("", "None", "{}", "null")
"""What stands in metadata where nothing is said."""
LONGEST = 300
"""Characters of one entry of the metadata that are shown."""
MOST_TAGS = 8
"""Tags that are told of many."""
PEFT_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration, as JSON, in a file's metadata."""


def lora_told(header: Header, numbers: Callable[[str], list[float]], is_zero: Callable[[str], bool]) -> dict[str, Any]:
    """What a LoRA changes, for which family, and what its metadata says of how it was made.

    `numbers` reads a small tensor by name, and is empty for one that cannot be read; `is_zero` tells whether all of any
    tensor's numbers are zero.
    """
    alphas = {name: numbers(name) for name in header.tensors if name.endswith(".alpha")}
    readable = bool(alphas) and all(alphas.values())
    told = lora_facts(header.tensors, header.metadata, (lambda name: alphas[name][0]) if readable else None)
    told["alphas"] = told["alphas"] or _peft_alphas(header)
    width = told["text_width"]
    if width is not None:
        family = Glance(text=width, attention=told["attention_width"]).name
        evidence = f"Its cross-attention reads text {width} wide."
    elif any(name.startswith("lora_te2_") for name in header.tensors):
        family, evidence = KINDS["sdxl"].name, "It changes a second text encoder."
    else:
        family, evidence = "unknown", "It changes no cross-attention, whose width would tell."
    idle = {"warning": IDLE} if changes_nothing(header.tensors, is_zero) else {}
    return {"family": family, "family_evidence": evidence} | told | idle | {"trained": _trained(header.metadata)}


def embedding_told(header: Header) -> dict[str, Any] | None:
    """The words to type, how many vectors each tensor has, and the family whose text encoders are so wide.

    None for a file of another kind.
    """
    told = embedding_facts(header.tensors, header.metadata)
    if told is None:
        return None
    widths = {shape[1] for shape in told["vectors"].values()}
    family = Glance(text=next(iter(widths))).name if len(widths) == 1 else "unknown"
    return {
        "family": KINDS["sdxl"].name if widths == SDXL_TEXTS else family,
        "family_evidence": f"Its vectors are {' and '.join(str(width) for width in sorted(widths))} wide.",
        "words": told["words"] or [header.path.stem],
        "words_evidence": "The file names them." if told["words"] else "The file names none: its own name is the word.",
        "vectors": told["vectors"],
    }


def adapter_told(header: Header) -> dict[str, Any]:
    """An image adapter's kind, the width of the image encoder's tokens that it reads, and the family by the U-Net's."""
    kind = adapter_kind(header.tensors)
    told: dict[str, Any] = {"kind": kind or "unknown"}
    if kind is not None and (seen := _width(header, ADAPTERS[kind][1])) is not None:
        told["image_width"] = seen
    if (text := _width(header, KEYS)) is None:
        return told | {"family": "unknown", "family_evidence": "None of its matrices makes keys of tokens."}
    return told | {"family": Glance(text=text).name, "family_evidence": f"Its keys are made of tokens {text} wide."}


def _width(header: Header, ending: str) -> int | None:
    """How wide what a matrix reads is, of the first whose name ends so."""
    matrices = (entry for name, entry in header.tensors.items() if name.endswith(ending) and len(entry.shape) == 2)
    return next((entry.shape[1] for entry in matrices), None)


def _peft_alphas(header: Header) -> list[float]:
    """The distinct alphas of peft's configuration, in the metadata or in adapter_config.json beside the file."""
    beside = peft_config(header.path)
    try:
        text = header.metadata.get(PEFT_METADATA, "{}")
        config: dict[str, Any] = read_json(beside) if beside is not None else json.loads(text)
        values = [value for key, value in config.items() if key.rpartition(".")[2] in ("lora_alpha", "alpha")]
        patterns = [value for key, value in config.items() if key.rpartition(".")[2] == "alpha_pattern"]
        values += [value for pattern in patterns for value in (pattern or {}).values()]
        return sorted({float(value) for value in values if value is not None})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return []


def _trained(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What kohya's metadata, or that of the model specification, tells a user of a LoRA."""
    told = {name: _short(metadata[key]) for name, keys in TOLD.items() for key in keys if _says(metadata, key)}
    tags = _tags(metadata.get("ss_tag_frequency", "{}"))
    return told | ({"frequent_tags": tags} if tags else {})


def _tags(text: str) -> list[str]:
    """The tags that the pictures it was trained on had most often, which are what to type; none where none are told."""
    counts: Counter[str] = Counter()
    try:
        folders: dict[str, Mapping[str, Any]] = json.loads(text)
        for tags in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return []
    return [f"{_short(tag)} ({count})" for tag, count in counts.most_common(MOST_TAGS)]


def _says(metadata: Mapping[str, str], key: str) -> bool:
    """Whether something is said there."""
    return metadata.get(key, "").strip() not in VOID


def _short(text: str) -> str:
    """The text on one line, and not too long."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
