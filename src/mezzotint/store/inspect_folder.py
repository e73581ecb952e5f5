"""What a diffusers folder holds, told from its JSON files and the headers of its weights. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.denoise.classifier_config import CLASS_NAME
from mezzotint.denoise.config import UNetConfig
from mezzotint.store.classifier import has_classifier
from mezzotint.store.facts import FILE_NAME, described, read_facts, read_json
from mezzotint.store.header import Header, read_header
from mezzotint.store.hints import hints_in
from mezzotint.store.image_prompt import image_prompts_in
from mezzotint.store.keymap import sources
from mezzotint.store.kinds import KINDS, Glance, kind_of
from mezzotint.store.layout import CLASSIFIER, HINTS, IMAGE_PROMPT, REST, STEMS, weight_headers
from mezzotint.store.ldm import bert, clip, unet, vae
from mezzotint.store.ldm.names import Shapes
from mezzotint.store.pipelines import CLIP
from mezzotint.vae.config import AutoencoderConfig

SCHEDULER = "scheduler/scheduler_config.json"
POSITIONS = "position_ids"
"""Numbers that old transformers stored and nothing reads."""


def folder_told(folder: Path) -> dict[str, Any]:
    """What is in a model's folder. Raises UserError where one of its files is damaged or missing."""
    index = read_json(folder / "model_index.json")
    classes = {
        name: entry[1] for name, entry in index.items() if isinstance(entry, list) and entry[1:] not in ([], [None])
    }
    weighed = [name for name in classes if name in STEMS and (folder / name).is_dir()]
    headers = {name: weight_headers(folder / name) for name in weighed}
    parts: dict[str, Any] = {name: {"class": kind} for name, kind in classes.items()}
    missing: list[str] = []
    unused: list[str] = []
    for name, files in headers.items():
        parts[name] |= weights_told(files)
        shapes = {tensor: entry.shape for header in files for tensor, entry in header.tensors.items()}
        wanted = _wanted(folder / name, classes[name], shapes)
        if wanted is not None:
            missing += [f"{name}: {tensor}" for tensor in sorted(wanted - shapes.keys())]
            unused += [f"{name}: {tensor}" for tensor in shapes if tensor not in wanted]
    if has_classifier(folder):
        parts[CLASSIFIER] = {"class": CLASS_NAME, **weights_told(weight_headers(folder / CLASSIFIER))}
    if (hints := hints_in(folder, {})) is not None:
        parts[HINTS] = {"class": ", ".join(hints.names), **weights_told(weight_headers(folder / HINTS))}
    if (prompts := image_prompts_in(folder, {})) is not None:
        headers = [read_header(path) for path in prompts.files if path.suffix == ".safetensors"]
        home = {} if prompts.file.is_relative_to(folder) else {"folder": str(prompts.file.parent)}
        parts[IMAGE_PROMPT] = {"class": "IP-Adapter", **home, **weights_told(headers)}
    return {
        "path": str(folder),
        "layout": "diffusers folder",
        "class": index.get("_class_name"),
        "family": _family(folder, classes),
        "parts": parts,
        "parameters": sum(part.get("parameters", 0) for part in parts.values()),
        **_rest(folder),
        **_training(folder, classes),
        "unused_keys": unused,
        "unknown_keys": [name for name in unused if not name.endswith(POSITIONS)],
        "missing_keys": missing,
    }


def weights_told(headers: Iterable[Header]) -> dict[str, Any]:
    """The precisions of a part's weights, its parameters, and the files that they are in."""
    headers = list(headers)
    dtypes = list(dict.fromkeys(dtype for header in headers for dtype in header.dtypes))
    parameters = sum(header.parameters for header in headers)
    return {"dtype": ", ".join(dtypes), "parameters": parameters, "files": [header.path.name for header in headers]}


def _rest(folder: Path) -> dict[str, Any]:
    """What is kept beside the parts for single files, and why."""
    if not (folder / REST).is_file():
        return {}
    header = read_header(folder / REST)
    owners = sorted({name.partition(".")[0] for name in header.tensors} - {"leftover"})
    left = sum(name.startswith("leftover.") for name in header.tensors)
    held = [f"the end of the {owner}" for owner in owners] + [f"{left} tensors that nothing reads"] * (left > 0)
    about = f"It holds {' and '.join(held)}, for which diffusers has no place; a single file gets them back."
    return {"kept_for_single_files": {"about": about, **weights_told([header])}}


def _wanted(folder: Path, kind: str, shapes: Shapes) -> Set[str] | None:
    """The tensors that a part with this config.json is made of, by their names in its files; none where unknown."""
    path = folder / "config.json"
    if kind == "UNet2DConditionModel":
        return unet.places(described(UNetConfig.from_dict, path)).keys()
    if kind == "AutoencoderKL":
        config = described(AutoencoderConfig.from_dict, path)
        return sources(vae.readable(config, shapes, "", (vae.find(shapes) or ("", vae.DIFFUSERS))[1]))
    if kind in CLIP:
        text = replace(described(CLIPTextConfig.from_dict, path), with_projection=kind == CLIP[1])
        return sources(clip.places(text, clip.find(shapes, "") or clip.TRANSFORMERS))
    return bert.places(described(LDMBertConfig.from_dict, path)).keys() if kind == "LDMBertModel" else None


def _family(folder: Path, classes: Mapping[str, str]) -> str:
    """The published family that the model is of, as a single file of it would be told."""
    config = _config(folder, "unet")
    glance = Glance(
        text=_whole(config.get("cross_attention_dim")),
        channels=_whole(config.get("in_channels")),
        pooled=_whole(config.get("projection_class_embeddings_input_dim")),
    )
    texts: set[str] = set()
    for name, kind in classes.items():
        if name == "bert":
            texts.add(bert.NAMES)
        elif name in ("text_encoder", "text_encoder_2") and kind in CLIP:
            gelu = _config(folder, name).get("hidden_act") == "gelu"
            texts.add(clip.OPEN_CLIP if gelu else clip.TRANSFORMERS)
    return KINDS[kind_of(texts, glance)].name + glance.variant if texts else glance.name


def _training(folder: Path, classes: Mapping[str, str]) -> dict[str, Any]:
    """How the model was trained and is drawn with, each with what tells of it."""
    told: dict[str, Any] = {}
    schedule = read_json(folder / SCHEDULER) if (folder / SCHEDULER).is_file() else None
    if schedule is not None:
        named = schedule.get("prediction_type")
        told |= {
            "prediction_type": "epsilon" if named is None else named,
            "prediction_evidence": f"{SCHEDULER} has {'no prediction_type' if named is None else 'it'}.",
            "zero_terminal_snr": bool(schedule.get("rescale_betas_zero_snr", False)),
            "schedule_evidence": f"{SCHEDULER} has it.",
        }
    autoencoder = _config(folder, "vqvae" if "vqvae" in classes else "vae")
    side, levels = _config(folder, "unet").get("sample_size"), autoencoder.get("block_out_channels")
    facts = read_facts(folder)
    if facts.sizes:
        told |= {"size": list(facts.sizes[0]), "size_evidence": f"{FILE_NAME} has it."}
    elif isinstance(side, int) and isinstance(levels, list):
        told |= {"size": [side * 2 ** (len(levels) - 1)] * 2, "size_evidence": "unet/config.json has sample_size."}
    told["scaling_factor"] = autoencoder.get("scaling_factor")
    if (folder / FILE_NAME).is_file():
        told |= {"name": facts.name, "sizes": [list(size) for size in facts.sizes], "defaults": facts.defaults}
        told |= {"hinted": facts.hinted} if facts.hinted else {}
    return told


def _config(folder: Path, part: str) -> dict[str, Any]:
    path = folder / part / "config.json"
    return read_json(path) if path.is_file() else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
