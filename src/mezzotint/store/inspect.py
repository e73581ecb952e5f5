"""What a file or folder holds, told from JSON headers alone: no weights are read and no torch is imported.

A single file is told by its keys and shapes, never by its name. The tells are those of the files in use: widths of the
text tokens that cross-attention reads, channels of the first convolution, embeddings beside the time's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from math import sqrt
from pathlib import Path
from typing import Any

from mezzotint.store.facts import FILE_NAME, read_facts, read_json
from mezzotint.store.header import Header, TensorEntry, read_header
from mezzotint.store.layout import STEMS, is_model_folder, weight_headers
from mezzotint.types import UserError

Tensors = dict[str, TensorEntry]

LDM_PARTS = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": ("cond_stage_model.", "conditioner."),
    "controlnet": ("control_model.",),
}
"""The parts of a single file in the layout of the latent diffusion code, and the prefixes of their tensors."""
IGNORED = ("model_ema.", "loss.")
V_PREDICTION_STD = 0.09
"""Above this the biases of the last up block's first norm are those of Stable Diffusion 2.x trained on v."""
V_PREDICTION_TELL = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
VARIANTS = {5: " depth", 7: " upscaler", 8: " instruct-pix2pix", 9: " inpainting"}
"""What the channels that a U-Net reads beyond its latent's four are for."""


def inspect(path: str | Path) -> dict[str, Any]:
    """What is at `path`: layout, family, parts with dtype and parameters, prediction type, and what tells of each.

    Raises UserError where there is nothing, or nothing that is known, or where a file is damaged.
    """
    path = Path(path).expanduser()
    if is_model_folder(path):
        return _model_folder(path)
    if path.is_dir():
        if (path / "config.json").is_file():
            return _part_folder(path)
        raise UserError(f"The folder {path} holds no model: it has neither model_index.json nor config.json.")
    if not path.exists():
        raise UserError(f"There is no file or folder {path}.")
    return _single_file(read_header(path))


def _model_folder(folder: Path) -> dict[str, Any]:
    index = read_json(folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and entry[1] is not None:
            weighed = name in STEMS and (folder / name).is_dir()
            parts[name] = {"class": entry[1]} | (_weights(weight_headers(folder / name)) if weighed else {})
    unet = read_json(folder / "unet" / "config.json") if (folder / "unet" / "config.json").is_file() else {}
    scheduler = folder / "scheduler" / "scheduler_config.json"
    prediction = read_json(scheduler).get("prediction_type", "epsilon") if scheduler.is_file() else None
    told: dict[str, Any] = {
        "path": str(folder),
        "layout": "diffusers folder",
        "class": index.get("_class_name"),
        "family": family(unet.get("cross_attention_dim"), unet.get("in_channels"), _added_width(unet)),
        "parts": parts,
        "parameters": sum(part.get("parameters", 0) for part in parts.values()),
    }
    if prediction is not None:
        told |= {"prediction_type": prediction, "prediction_evidence": "scheduler/scheduler_config.json"}
    if (folder / FILE_NAME).is_file():
        facts = read_facts(folder)
        told |= {"name": facts.name, "sizes": [list(size) for size in facts.sizes], "defaults": facts.defaults}
    return told


def _added_width(unet: dict[str, Any]) -> int | None:
    width = unet.get("projection_class_embeddings_input_dim")
    return width if isinstance(width, int) else None


def _part_folder(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    kind = config.get("_class_name") or ", ".join(config.get("architectures") or []) or None
    headers = weight_headers(folder)
    return {"path": str(folder), "layout": "part of a diffusers folder", "class": kind, **_weights(headers)}


def _weights(headers: Iterable[Header]) -> dict[str, Any]:
    headers = list(headers)
    dtypes = list(dict.fromkeys(dtype for header in headers for dtype in header.dtypes))
    parameters = sum(header.parameters for header in headers)
    return {"dtype": ", ".join(dtypes), "parameters": parameters, "files": [header.path.name for header in headers]}


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
    if _with_prefix(tensors, LDM_PARTS["unet"]):
        return "single file, latent diffusion layout", _checkpoint(header, tensors)
    if any(name.endswith((".lora_down.weight", ".lora_A.weight", ".hada_w1_a", ".lokr_w1")) for name in tensors):
        return "LoRA", _lora(tensors)
    if "controlnet_cond_embedding.conv_in.weight" in tensors or _with_prefix(tensors, LDM_PARTS["controlnet"]):
        return "ControlNet", {}
    for prefix in ("", "first_stage_model.", "vae."):
        if f"{prefix}decoder.conv_in.weight" in tensors:
            channels = tensors[f"{prefix}decoder.conv_in.weight"].shape[1]
            theirs = f"{prefix}decoder.mid_block.resnets.0.conv1.weight" in tensors
            layout = "diffusers names" if theirs else "latent diffusion names"
            return f"autoencoder, {layout}", {"latent_channels": channels}
    if "conv_in.weight" in tensors and "time_embedding.linear_1.weight" in tensors:
        context = _shape(tensors, "attn2.to_k.weight", 1)
        added = _shape(tensors, "add_embedding.linear_1.weight", 1)
        return "U-Net, diffusers names", {"family": family(context, tensors["conv_in.weight"].shape[1], added)}
    if any(name.endswith("embeddings.token_embedding.weight") for name in tensors):
        width = _shape(tensors, "embeddings.token_embedding.weight", 1)
        return "CLIP, transformers names", {"width": width}
    if "emb_params" in tensors or {"clip_l", "clip_g"} <= tensors.keys():
        return "textual inversion", {"vectors": {name: list(entry.shape) for name, entry in tensors.items()}}
    return "unknown tensors", {"first": sorted(tensors)[:8]}


def _checkpoint(header: Header, tensors: Tensors) -> dict[str, Any]:
    """What a whole model in one file is, by the keys of its U-Net."""
    parts: dict[str, Any] = {}
    for part, prefixes in LDM_PARTS.items():
        own = _with_prefix(tensors, prefixes)
        if own:
            dtypes = list(dict.fromkeys(entry.dtype for entry in own.values()))
            parts[part] = {"dtype": ", ".join(dtypes), "parameters": sum(entry.count for entry in own.values())}
    context = _shape(tensors, "attn2.to_k.weight", 1)
    channels = _shape(tensors, "input_blocks.0.0.weight", 1)
    added = _shape(tensors, "label_emb.0.0.weight", 1)
    prediction, evidence = _prediction(header, tensors, context, added)
    return {
        "family": family(context, channels, added),
        "parts": parts,
        "prediction_type": prediction,
        "prediction_evidence": evidence,
    }


def _prediction(header: Header, tensors: Tensors, context: int | None, added: int | None) -> tuple[str, str]:
    """The prediction type that a single file tells of, and what tells of it."""
    told = header.metadata.get("modelspec.prediction_type")
    if told is not None:
        return ("v_prediction" if told.startswith("v") else told), "metadata modelspec.prediction_type"
    if "v_pred" in tensors:
        return "v_prediction", "tensor v_pred"
    name = f"model.diffusion_model.{V_PREDICTION_TELL}"
    if context == 1024 and added is None and name in tensors:
        deviation = _deviation(_numbers(header.path, tensors[name]))
        above = deviation > V_PREDICTION_STD
        prediction = "v_prediction" if above else "epsilon"
        return prediction, f"{name} has deviation {deviation:.3f}, {'above' if above else 'up to'} {V_PREDICTION_STD}"
    return "epsilon", "the default: nothing tells of another"


def _lora(tensors: Tensors) -> dict[str, Any]:
    """Ranks of a LoRA, and the width of the text tokens that it was trained for."""
    downs = [entry for name, entry in tensors.items() if name.endswith((".lora_down.weight", ".lora_A.weight"))]
    contexts = [_shape(tensors, f"attn2{end}", 1) for end in ("_to_k.lora_down.weight", ".to_k.lora_A.weight")]
    context = next((width for width in contexts if width is not None), None)
    return {"ranks": sorted({entry.shape[0] for entry in downs}), "family": family(context, None, None)}


def family(context: int | None, channels: int | None, added: int | None) -> str:
    """The family of a U-Net that reads text tokens `context` wide and `channels` channels.

    `added` is the width of what joins the time embedding, in SDXL the pooled text and the sizes.
    """
    known = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
    if context is None:
        return "unknown"
    if context == 1280:
        name = "Stable Diffusion XL refiner" if added is not None else "latent diffusion 1.4B"
    elif context == 1024 and added is not None:
        name = "Stable Diffusion 2.x unCLIP"
    else:
        name = known.get(context, f"Stable Diffusion layout, {context} wide text")
    return name + VARIANTS.get(4 if channels is None else channels, "")


def _with_prefix(tensors: Tensors, prefixes: tuple[str, ...]) -> Tensors:
    return {name: entry for name, entry in tensors.items() if name.startswith(prefixes)}


def _shape(tensors: Tensors, end: str, axis: int) -> int | None:
    """One side of the first tensor whose name ends so."""
    for name, entry in tensors.items():
        if name.endswith(end) and len(entry.shape) > axis:
            return entry.shape[axis]
    return None


def _deviation(numbers: list[float]) -> float:
    mean = sum(numbers) / len(numbers)
    return sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))


def _numbers(path: Path, entry: TensorEntry) -> list[float]:
    """A small tensor's numbers, read with nothing but the standard library."""
    with path.open("rb") as file:
        file.seek(entry.begin)
        data = file.read(entry.end - entry.begin)
    if entry.dtype == "bfloat16":
        halves = struct.unpack(f"<{entry.count}H", data)
        return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    code = {"float64": "d", "float32": "f", "float16": "e"}.get(entry.dtype, "f")
    return list(struct.unpack(f"<{entry.count}{code}", data))
