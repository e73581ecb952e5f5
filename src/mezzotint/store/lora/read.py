"""The tensors of a LoRA file to an `Adapter`: every one finds its layer, or the file is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.store.facts import read_json
from mezzotint.store.keymap import KeyMap
from mezzotint.store.lora.algorithms import LORA, fits
from mezzotint.store.lora.delta import Adapter, Delta, magnitude_along, rs_alpha
from mezzotint.store.lora.names import BUNDLED, Layers, Place, Shape, split
from mezzotint.types import UserError

PEFT_METADATA = "lora_adapter_metadata"
"""Where diffusers keeps peft's configuration, as JSON, in a file's metadata."""
FIRST = 3
"""Names that an error shows of many."""

Alpha = Callable[[str, str, int], float | None]
"""The alpha that a file's metadata tells of, for a part, a layer and its rank."""


def layers_of(modules: Mapping[str, nn.Module], places: KeyMap | None = None) -> Layers:
    """The layers that an adapter may change: "unet", "text_encoder" and "text_encoder_2", or those of them there are.

    `places` says what the latent diffusion code calls the U-Net's tensors.
    """
    shapes = {
        part: {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        for part, module in modules.items()
    }
    return Layers(shapes, places)


def read_adapter(
    tensors: Mapping[str, Tensor],
    layers: Layers,
    metadata: Mapping[str, str] | None = None,
    *,
    name: str = "The LoRA",
) -> Adapter:
    """What a LoRA file with these tensors and this metadata changes of the model that has `layers`.

    Reads the files of kohya's scripts, LyCORIS, diffusers (old and new), peft, OneTrainer and ComfyUI. Words that are
    bundled with the LoRA are left to `embeddings.bundled`. Raises UserError, which `name` begins, where a tensor fits
    no layer, has another shape, is damaged or of an unknown kind; where a change lacks a factor; and where there is
    none.
    """
    metadata = {} if metadata is None else metadata
    grouped = _grouped({key: tensor for key, tensor in tensors.items() if not key.startswith(BUNDLED)}, layers, name)
    alpha = peft_alpha(metadata, name)
    changes: dict[Place, Delta] = {}
    for (part, layer), roles in grouped.items():
        try:
            changes |= _changes(part, layer, roles, layers, alpha)
        except UserError as error:
            raise UserError(f"{name} cannot change {layer} of the {part}: {error}.") from error
    if not changes:
        raise UserError(f"{name} touches no layer of this model: it holds no LoRA.")
    return Adapter(changes, dict(metadata), name)


def peft_metadata(path: Path) -> dict[str, str]:
    """The metadata that peft keeps in adapter_config.json beside a file: its alpha; empty where there is none.

    Raises UserError where that file is damaged.
    """
    beside = path.with_name("adapter_config.json")
    return {PEFT_METADATA: json.dumps(read_json(beside))} if beside.is_file() else {}


def _grouped(tensors: Mapping[str, Tensor], layers: Layers, name: str) -> dict[Place, dict[str, Tensor]]:
    """The tensors by layer and role. Raises UserError where one finds no place or is not a number throughout."""
    grouped: dict[Place, dict[str, Tensor]] = {}
    unknown: list[str] = []
    homeless: list[str] = []
    for key, tensor in tensors.items():
        parts = split(key)
        if parts is None:
            unknown.append(key)
            continue
        place = layers.find(parts.layer)
        if place is None:
            homeless.append(key)
            continue
        whole = not tensor.is_floating_point()
        if (whole and parts.role != "alpha") or not bool(torch.isfinite(tensor.to(torch.float32)).all()):
            raise UserError(f"{name} is damaged: {key} holds something other than finite numbers.")
        known = grouped.setdefault(place, {}).setdefault(parts.role, tensor)
        # Some files hold each tensor under two names of its layer.
        if known is not tensor and not torch.equal(known, tensor):
            raise UserError(f"{name} has {parts.role} of the layer {place[1]} twice, and not the same: {key}.")
    if unknown:
        raise UserError(
            f"{name} has {_listed(unknown)} of a kind that cannot be read here: only LoRA, DoRA, LoHa, LoKr and plain "
            "differences can."
        )
    if homeless:
        every = "" if grouped else "touches no layer of this model: it "
        raise UserError(
            f"{name} {every}has {_listed(homeless)} for which there is no layer here; take the model it was made for."
        )
    return grouped


def _changes(part: str, layer: str, roles: Mapping[str, Tensor], layers: Layers, alpha: Alpha) -> dict[Place, Delta]:
    """The changes of a layer's weight and bias. Raises UserError, a clause, where they do not fit the layer."""
    changes: dict[Place, Delta] = {}
    factors = dict(roles)
    own_alpha, bias = factors.pop("alpha", None), factors.pop("diff_b", None)
    lengths = {role: factors.pop(role) for role in ("dora_scale", "lora_magnitude_vector") if role in factors}
    if bias is not None:
        changes[part, f"{layer}.bias"] = _fitted(Delta.full(bias), (part, f"{layer}.bias"), layers)
    if factors or own_alpha is not None or lengths or bias is None:
        place = (part, f"{layer}.weight")
        delta = _fitted(Delta(factors), place, layers)
        if own_alpha is not None and own_alpha.numel() != 1:
            raise UserError(f"its alpha has shape {list(own_alpha.shape)}; it is one number")
        scaled = None if own_alpha is None else float(own_alpha)
        if scaled is None and delta.rank is not None:
            scaled = alpha(part, layer, delta.rank)
        shape = layers.shape(place)
        assert shape is not None  # _fitted would have refused
        changes[place] = Delta(delta.factors, scaled, _magnitude(lengths, shape))
    return changes


def _fitted(delta: Delta, place: Place, layers: Layers) -> Delta:
    """The change, with LoRA's factors as a layer of its kind has them: matrices, or kernels.

    Raises UserError, a clause, where it is none of this parameter.
    """
    shape = layers.shape(place)
    if shape is None:
        raise UserError(f"it has no {place[1].rpartition('.')[2]}")
    if not fits(delta.shape, shape):
        raise UserError(f"the change has shape {list(delta.shape)}, the layer {list(shape)}; it is for another model")
    if delta.algorithm != LORA:
        return delta
    up, down, mid = delta.factors["lora_up"], delta.factors["lora_down"], delta.factors.get("lora_mid")
    ones = (1,) * (len(shape) - 2)
    kernel = ones if mid is not None else shape[2:]
    return Delta.low_rank(
        down.reshape(len(down), shape[1], *kernel), up.reshape(len(up), up.shape[1], *ones), delta.alpha, mid=mid
    )


def _magnitude(lengths: Mapping[str, Tensor], shape: Shape) -> Tensor | None:
    """DoRA's magnitude for a weight of this shape, or none. Raises UserError, a clause, where it fits no axis.

    peft keeps the lengths of what makes each output; LyCORIS' and kohya's shape, [o 1 ..] or [1 i ..], tells the axis.
    """
    if not lengths:
        return None
    if len(lengths) > 1:
        raise UserError("it has two magnitudes, one of them kohya's and one peft's")
    ((role, values),) = lengths.items()
    own, count = values.shape, values.numel()
    along_inputs = role == "dora_scale" and len(own) > 1 and own[1] == count and own[0] != count
    axis = 1 if along_inputs else 0
    if len(shape) < 2 or count != shape[axis] or max(own, default=1) != count:
        raise UserError(f"its magnitude has shape {list(own)}, which is none for a weight of shape {list(shape)}")
    return magnitude_along(axis, values, shape)


def peft_alpha(metadata: Mapping[str, str], name: str) -> Alpha:
    """The alpha of a layer by peft's configuration, where the metadata holds one.

    Its keys may begin with the part's name. A pattern is the end of a layer's name. Raises UserError where it is
    damaged, or has patterns that are more than that.
    """
    text = metadata.get(PEFT_METADATA)
    if text is None:
        return lambda part, layer, rank: None
    try:
        config: dict[str, Any] = json.loads(text)
        patterns = {
            part: {str(ending): float(value) for ending, value in (_of(config, part, "alpha_pattern") or {}).items()}
            for part in ("unet", "text_encoder", "text_encoder_2")
        }
        # What LoRA has as lora_alpha, LoHa and LoKr have as alpha.
        usual = {part: _of(config, part, "lora_alpha", "alpha") for part in patterns}
        alphas = {part: None if value is None else float(value) for part, value in usual.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{name} is damaged: its {PEFT_METADATA} cannot be read.") from error
    if config.get("peft_type") == "LOKR" and config.get("alpha") != config.get("r"):
        # peft scales whole matrices too, which have no rank by which a file could tell how much.
        raise UserError(f"{name} is a LoKr of peft's whose alpha is not its rank, which cannot be read here.")
    for ending in (ending for endings in patterns.values() for ending in endings):
        if any(sign in ending for sign in r"\*+?^$[](){}|"):
            raise UserError(f"{name} gives an alpha for the pattern {ending!r}, which cannot be read here.")

    def alpha(part: str, layer: str, rank: int) -> float | None:
        found = [value for ending, value in patterns[part].items() if f".{layer}".endswith(f".{ending}")]
        value = found[0] if found else alphas[part]
        return rs_alpha(value, rank) if value is not None and _of(config, part, "use_rslora") is True else value

    return alpha


def _of(config: Mapping[str, Any], part: str, *keys: str) -> Any:
    """A setting of peft's by the first of its names that is there, the part's own before that of all."""
    names = [name for key in keys for name in (f"{part}.{key}", key)]
    return next((config[name] for name in names if config.get(name) is not None), None)


def _listed(keys: Iterable[str]) -> str:
    """How many tensors there are, and the first of them."""
    keys = sorted(keys)
    first = ", ".join(keys[:FIRST])
    if len(keys) == 1:
        return f"the tensor {first}"
    return f"{len(keys)} tensors, {first}{' and others,' if len(keys) > FIRST else ','}"
