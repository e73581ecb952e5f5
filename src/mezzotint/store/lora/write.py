"""An `Adapter` to a LoRA file, as kohya's scripts write it or as peft and diffusers do; read again it is the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mezzotint.store.keymap import KeyMap
from mezzotint.store.lora.algorithms import LORA
from mezzotint.store.lora.delta import Adapter, Delta
from mezzotint.store.lora.names import flat, ldm_layers
from mezzotint.store.lora.read import PEFT_METADATA
from mezzotint.store.weights import write_tensors
from mezzotint.types import UserError

KOHYA_PARTS = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
KOHYA_XL_PARTS = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def write_kohya(
    adapter: Adapter, path: Path, *, places: KeyMap | None = None, beside: Mapping[str, Tensor] = MappingProxyType({})
) -> None:
    """Write a safetensors file as kohya's scripts do, by write-and-rename; kohya, AUTOMATIC1111 and ComfyUI read it.

    `places`, what the latent diffusion code calls the U-Net's tensors, makes it a file for SDXL: kohya's files use
    those names there, and diffusers' names elsewhere. `beside` are tensors of the file that are no part of the LoRA, by
    name. Raises UserError where it cannot be written.
    """
    tensors = {**kohya_tensors(adapter, places=places), **beside}
    ranks = {delta.rank for delta in adapter.changes.values()} - {None}
    alphas = {delta.alpha for delta in adapter.changes.values()} - {None}
    about = {"ss_network_module": "networks.lora"}
    if len(ranks) == 1 and len(alphas) == 1:
        about |= {"ss_network_dim": str(ranks.pop()), "ss_network_alpha": str(alphas.pop())}
    write_tensors(tensors, path, about | _kept(adapter))


def kohya_tensors(adapter: Adapter, *, places: KeyMap | None = None) -> dict[str, Tensor]:
    """The tensors of that file. Raises UserError for a U-Net layer that `places` does not name."""
    ldm = None if places is None else ldm_layers(places)
    two = ldm is not None or any(part == "text_encoder_2" for part, _ in adapter.changes)
    prefixes = KOHYA_XL_PARTS if two else KOHYA_PARTS
    tensors: dict[str, Tensor] = {}
    for (part, parameter), delta in adapter.changes.items():
        layer, _, leaf = parameter.rpartition(".")
        if ldm is not None and part == "unet":
            if layer not in ldm:
                raise UserError(f"{adapter.name} changes {layer}, which the latent diffusion layout has no name for.")
            layer = ldm[layer]
        name = prefixes[part] + flat(layer)
        if leaf == "bias":
            tensors[f"{name}.diff_b"] = delta.factors["diff"].contiguous()
            continue
        for role, tensor in delta.factors.items():
            ending = f"{role}.weight" if delta.algorithm == LORA else role
            tensors[f"{name}.{ending}"] = tensor.contiguous()
        if delta.alpha is not None:
            tensors[f"{name}.alpha"] = exact_number(delta.alpha)
        if delta.magnitude is not None:
            tensors[f"{name}.dora_scale"] = delta.magnitude.contiguous()
    return tensors


def write_peft(adapter: Adapter, path: Path) -> None:
    """Write a safetensors file as diffusers' `save_lora_weights` does, by write-and-rename; diffusers reads it.

    Raises UserError as `peft_tensors`, and where the file cannot be written.
    """
    write_tensors(peft_tensors(adapter), path, peft_settings(adapter) | _kept(adapter))


def peft_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of that file, all but the alphas.

    Raises UserError for a change that peft's LoRA has no place for: another algorithm, a `mid`, a bias, or a magnitude
    of inputs.
    """
    tensors: dict[str, Tensor] = {}
    for (part, parameter), delta in adapter.changes.items():
        layer, _, leaf = parameter.rpartition(".")
        outputs = delta.magnitude is None or delta.magnitude.shape[0] == delta.magnitude.numel()
        if leaf == "bias" or set(delta.factors) != {"lora_down", "lora_up"} or not outputs:
            raise UserError(f"{adapter.name} changes {parameter} as peft's LoRA cannot: write it as kohya's.")
        name = f"{part}.{layer}"
        tensors[f"{name}.lora_A.weight"] = delta.factors["lora_down"].contiguous()
        tensors[f"{name}.lora_B.weight"] = delta.factors["lora_up"].contiguous()
        if delta.magnitude is not None:
            # peft's shape is [o] for a matrix and [1 o 1 1] for a kernel.
            m = delta.magnitude.flatten()
            tensors[f"{name}.lora_magnitude_vector.weight"] = m if delta.magnitude.ndim == 2 else m[None, :, None, None]
    return tensors


def peft_settings(adapter: Adapter) -> dict[str, str]:
    """The configuration of peft for diffusers, as metadata; empty where every alpha is the rank, as it is unsaid.

    Layers are named without `text_model.`, so that they are found in transformers 5, which leaves it out, and before.
    """
    config: dict[str, Any] = {}
    for part in dict.fromkeys(part for part, _ in adapter.changes):
        deltas = {
            parameter.rpartition(".")[0].removeprefix("text_model."): delta
            for (owner, parameter), delta in adapter.changes.items()
            if owner == part
        }
        ranks = {layer: _rank(delta) for layer, delta in deltas.items()}
        alphas = {layer: ranks[layer] if delta.alpha is None else delta.alpha for layer, delta in deltas.items()}
        rank, alpha = _usual(ranks.values()), _usual(alphas.values())
        config |= {
            f"{part}.r": rank,
            f"{part}.rank_pattern": {layer: own for layer, own in ranks.items() if own != rank},
            f"{part}.lora_alpha": alpha,
            f"{part}.alpha_pattern": {layer: own for layer, own in alphas.items() if own != alpha},
            f"{part}.target_modules": sorted(deltas),
            f"{part}.use_dora": any(delta.magnitude is not None for delta in deltas.values()),
        }
    usual = all(delta.alpha is None or delta.alpha == delta.rank for delta in adapter.changes.values())
    return {} if usual else {PEFT_METADATA: json.dumps(config, sort_keys=True)}


def exact_number(value: float) -> Tensor:
    """A number as a tensor of no axes, in 32 bits where they hold it exactly, as peers write it; else in 64."""
    short = torch.tensor(value, dtype=torch.float32)
    return short if float(short) == value else torch.tensor(value, dtype=torch.float64)


def _usual(values: Iterable[float]) -> float:
    """The value that is there most often; of several the least."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _rank(delta: Delta) -> int:
    assert delta.rank is not None  # peft_tensors took only low ranks
    return delta.rank


def _kept(adapter: Adapter) -> dict[str, str]:
    """The metadata that goes along: all but what says who wrote the file it came from, and how."""
    return {key: text for key, text in adapter.metadata.items() if key not in ("format", PEFT_METADATA)}
