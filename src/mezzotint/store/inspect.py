"""What a file or folder holds, told from JSON headers alone: no weights are read and no torch is imported.

A single file is told by its keys and shapes, never by its name: a whole model by `store.families`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from mezzotint.store.contents import Part, unet_prefix
from mezzotint.store.embeddings import is_picture, picture_header
from mezzotint.store.evidence import OWN, told_beside
from mezzotint.store.extras import LORA_FILES
from mezzotint.store.facts import read_json
from mezzotint.store.families import recognise
from mezzotint.store.header import ITEM_BYTES, Header, TensorEntry, naming, read_header
from mezzotint.store.image_prompt import is_adapter
from mezzotint.store.inspect_extras import adapter_told, embedding_told, lora_told
from mezzotint.store.inspect_folder import folder_told, weights_told
from mezzotint.store.keymap import sources
from mezzotint.store.kinds import Glance
from mezzotint.store.layout import BESIDE, REST_MARK, is_model_folder, weight_headers
from mezzotint.store.ldm import vae
from mezzotint.store.ldm.names import Shapes
from mezzotint.store.lora.facts import is_lora
from mezzotint.store.paths import expanded
from mezzotint.store.taesd import Halves
from mezzotint.store.taesd import config as tiny_config
from mezzotint.store.taesd import find as find_tiny
from mezzotint.types import UserError

Tensors = dict[str, TensorEntry]

CONTROLNET = "control_model."
IGNORED = ("model_ema.", "loss.")
MAX_NUMBERS = 100_000
"""The most numbers that are read of one tensor."""
AT_ONCE = 2**20
"""Bytes that are read at once, a multiple of every number's."""
FLOATS = {"float64": "d", "float32": "f", "float16": "e"}
"""How the struct module calls them."""


def inspect(path: str | Path) -> dict[str, Any]:
    """What is at `path`: layout, family, parts with dtype and parameters, prediction type, and what tells of each.

    Raises UserError where there is nothing, or nothing that is known, or where a file is damaged.
    """
    path = expanded(path)
    if is_model_folder(path):
        return folder_told(path)
    if path.is_dir():
        if (path / "config.json").is_file():
            return _part_folder(path)
        lora = next((path / name for name in LORA_FILES if (path / name).is_file()), None)
        if lora is None:
            raise UserError(f"The folder {path} holds no model: it has neither model_index.json nor config.json.")
        path = lora
    if not path.exists():
        raise UserError(f"There is no file or folder {path}.")
    with naming(path):
        return _single_file(picture_header(path) if is_picture(path) else read_header(path))


def _part_folder(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    kind = config.get("_class_name") or ", ".join(config.get("architectures") or []) or None
    headers = weight_headers(folder)
    return {"path": str(folder), "layout": "part of a diffusers folder", "class": kind, **weights_told(headers)}


def _single_file(header: Header) -> dict[str, Any]:
    tensors = {name: entry for name, entry in header.tensors.items() if not name.startswith(IGNORED)}
    layout, details = _layout(header, tensors)
    return {
        "path": str(header.path),
        "layout": layout,
        **details,
        "dtype": ", ".join(header.dtypes),
        "parameters": header.parameters,
        "tensors": len(header.tensors),
        "metadata": {name: text if len(text) <= 200 else text[:200] + "..." for name, text in header.metadata.items()},
    }


def _layout(header: Header, tensors: Tensors) -> tuple[str, dict[str, Any]]:
    """The layout's name and what else its keys tell."""
    shapes = {name: entry.shape for name, entry in tensors.items()}
    if not header.tensors:
        return "no tensors", {}
    if OWN + REST_MARK in header.metadata:
        return "what of a single file has no place in a diffusers folder", {"first": sorted(tensors)[:8]}
    if unet_prefix(shapes) is not None:
        return "single file, latent diffusion layout", _checkpoint(header)
    if is_lora(tensors):
        return "LoRA", lora_told(
            header,
            lambda name: _numbers(header.path, tensors[name]),
            lambda name: _is_zero(header.path, tensors[name]),
        )
    if "controlnet_cond_embedding.conv_in.weight" in tensors or any(name.startswith(CONTROLNET) for name in tensors):
        return "ControlNet", {}
    if is_adapter(tensors):
        return "image adapter", adapter_told(header)
    found = vae.find(shapes)
    if found is not None:
        prefix, names = found
        return f"autoencoder, {names}", {"latent_channels": _shape(tensors, f"{prefix}decoder.conv_in.weight", 1)}
    halves = find_tiny(shapes)
    if halves is not None:
        return f"tiny autoencoder, {halves.names}", {"halves": list(halves.beginnings), **_tiny(shapes, halves)}
    if "conv_in.weight" in tensors and "time_embedding.linear_1.weight" in tensors:
        context = _shape(tensors, "attn2.to_k.weight", 1)
        added = _shape(tensors, "add_embedding.linear_1.weight", 1)
        channels = tensors["conv_in.weight"].shape[1]
        return "U-Net, diffusers names", {"family": Glance(text=context, channels=channels, pooled=added).name}
    if any(name.endswith("embeddings.token_embedding.weight") for name in tensors):
        width = _shape(tensors, "embeddings.token_embedding.weight", 1)
        return "CLIP, transformers names", {"width": width}
    words = embedding_told(header)
    if words is not None:
        return "textual inversion", words
    return "unknown tensors", {"first": sorted(tensors)[:8]}


def _checkpoint(header: Header) -> dict[str, Any]:
    """What a whole model in one file is."""
    tensors = header.tensors
    family = recognise(
        {name: entry.shape for name, entry in tensors.items()},
        {**header.metadata, **told_beside(header.path)},
        lambda name: _numbers(header.path, tensors[name]),
    )
    trained = family.training
    beside = {part: [entry for name, entry in tensors.items() if name.startswith(f"{OWN}{part}.")] for part in BESIDE}
    return {
        "family": family.name,
        "parts": {part.kind: _part(part, tensors) for part in family.parts}
        | {part: _weights(entries) for part, entries in beside.items() if entries},
        "prediction_type": trained.prediction,
        "prediction_evidence": trained.prediction_evidence,
        "zero_terminal_snr": bool(trained.schedule.get("rescale_betas_zero_snr", False)),
        "schedule_evidence": trained.schedule_evidence,
        "size": list(trained.size),
        "size_evidence": trained.size_evidence,
        "scaling_factor": family.scaling_factor,
        "averaged_weights": family.averaged,
        "refusal": family.refusal,
        "unused_keys": [name for name in family.unused if not name.startswith(OWN)],
        "unknown_keys": list(family.unknown),
        "missing_keys": list(family.missing),
    }


def _part(part: Part, tensors: Tensors) -> dict[str, Any]:
    """One network in a checkpoint: its dtype, its parameters, its names, and what is read of a text encoder."""
    own = [tensors[name] for name in sources(part.places) if name in tensors]
    told: dict[str, Any] = {**_weights(own), "names": part.names, "prefix": part.prefix}
    if part.reading is not None:
        norm = "with" if part.reading.final_norm else "without"
        told["read"] = f"layer {part.reading.layer}, {norm} the final norm{', and pooled' * part.reading.pooled}"
    return told


def _weights(own: list[TensorEntry]) -> dict[str, Any]:
    """Of what dtype a network's tensors are, and how many parameters they hold."""
    return {
        "dtype": ", ".join(sorted({entry.dtype for entry in own})),
        "parameters": sum(entry.count for entry in own),
    }


def _tiny(shapes: Shapes, halves: Halves) -> dict[str, Any]:
    """The latent's channels of a tiny autoencoder, or why this program cannot run it."""
    try:
        return {"latent_channels": tiny_config(shapes, halves).latent_channels}
    except UserError as error:
        return {"refusal": str(error)}


def _shape(tensors: Tensors, end: str, axis: int) -> int | None:
    """One side of the first tensor whose name ends so."""
    for name, entry in tensors.items():
        if name.endswith(end) and len(entry.shape) > axis:
            return entry.shape[axis]
    return None


def _numbers(path: Path, entry: TensorEntry) -> list[float]:
    """A small tensor's numbers, read with nothing but the standard library; none of another kind of tensor."""
    if entry.count > MAX_NUMBERS or entry.dtype not in (*FLOATS, "bfloat16"):
        return []
    with path.open("rb") as file:
        file.seek(entry.begin)
        data = file.read(entry.end - entry.begin)
    if entry.dtype == "bfloat16":
        halves = struct.unpack(f"<{entry.count}H", data)
        return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    return list(struct.unpack(f"<{entry.count}{FLOATS[entry.dtype]}", data))


def _is_zero(path: Path, entry: TensorEntry) -> bool:
    """Whether all of a tensor's numbers are zero, read up to the first part that has another."""
    size = ITEM_BYTES[entry.dtype]
    sign = b"\0\x80" if "float" in entry.dtype else b"\0"
    with path.open("rb") as file:
        file.seek(entry.begin)
        left = entry.end - entry.begin
        while left > 0 and (data := file.read(min(left, AT_ONCE))):
            left -= len(data)
            if data.strip(b"\0") and any(
                data[place::size].strip(sign if place == size - 1 else b"\0") for place in range(size)
            ):
                return False
    return True
