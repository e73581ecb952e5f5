"""A LoRA file from one naming to another, from the file alone: which model it is for need not be known.

Names with dots say which layers they are. Names with underscores for dots are taken apart by the words that layers'
names are made of. Names of the latent diffusion code are those of published models, which have two ResNet blocks at
each resolution of the way down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.store.extras import lora_files, lora_header
from mezzotint.store.keymap import KeyMap
from mezzotint.store.ldm import unet
from mezzotint.store.lora.algorithms import change_shape, fits
from mezzotint.store.lora.delta import Adapter
from mezzotint.store.lora.facts import BESIDE_FACTORS, lora_facts
from mezzotint.store.lora.names import BUNDLED, Layers, Place, Shape, flat, ldm_layers, part_of, split
from mezzotint.store.lora.read import peft_metadata, read_adapter
from mezzotint.store.lora.write import write_kohya, write_peft
from mezzotint.store.source import Source
from mezzotint.store.weights import Unfilled
from mezzotint.types import UserError

NAMINGS = ("kohya", "peft")
"""What a LoRA can be written as."""
SDXL_TEXT = 2048
"""Width of the text that SDXL reads."""
SD = UNetConfig(cross_attention_dim=768)
SDXL = UNetConfig(
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    cross_attention_dim=SDXL_TEXT,
    attention_head_dim=(5, 10, 20),
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
UNITS = (
    *("conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding", "class_embedding", "linear_1"),
    *("linear_2", "down_blocks", "mid_block", "up_blocks", "resnets", "attentions", "downsamplers", "upsamplers"),
    *("conv", "conv1", "conv2", "conv_shortcut", "norm", "norm1", "norm2", "norm3", "time_emb_proj", "proj_in"),
    *("proj_out", "transformer_blocks", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "net", "proj"),
    *("text_model", "embeddings", "token_embedding", "position_embedding", "encoder", "layers", "self_attn"),
    *("q_proj", "k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2", "layer_norm1", "layer_norm2"),
    *("final_layer_norm", "text_projection"),
)
"""What stands between the dots in our names of layers, beside numbers."""
UNIT = re.compile(rf"({'|'.join(sorted(UNITS, key=len, reverse=True))}|\d+)(?:_|\Z)")
OLD_TEXT = {f"self_attn.to_{role}": f"self_attn.{role}_proj" for role in ("q", "k", "v", "out")}
"""What diffusers' oldest files call the layers of a text encoder's attention, and our names."""


def convert_lora(src: Path, dst: Path, to: str) -> None:
    """Write a LoRA file of any naming as kohya's scripts do or as peft does; factors are the same to the bit.

    Raises UserError for a file that is no LoRA, is damaged, or has tensors that fit no layer; for a naming that is
    neither "kohya" nor "peft"; and for changes that peft's files have no place for.
    """
    if to not in NAMINGS:
        raise UserError(f"There is no naming {to!r} of a LoRA: use one of {', '.join(NAMINGS)}.")
    header = lora_header(str(src))
    source = Source(header)
    tensors = {name: source.tensor(name) for name in source.entries}
    beside = {name: tensor for name, tensor in tensors.items() if name.startswith(BUNDLED)}
    metadata = {**source.metadata, **(peft_metadata(header.path) if len(lora_files(str(src))) > 1 else {})}
    layers = FileLayers(tensors)
    adapter = read_adapter(tensors, layers, metadata, name=str(header.path))
    if to == "kohya":
        width = lora_facts(header.tensors, header.metadata)["text_width"]
        write_kohya(with_alphas(adapter), dst, places=kohya_places(layers, width), beside=beside)
        return
    if beside:
        raise UserError(f"{header.path} holds learned words too ({next(iter(beside))}): write it as kohya's.")
    write_peft(adapter, dst)


def with_alphas(adapter: Adapter) -> Adapter:
    """The same with every alpha said: where peft says none it is the rank, and kohya's files always have it."""
    changes = {
        place: delta if delta.alpha is not None or delta.rank is None else replace(delta, alpha=float(delta.rank))
        for place, delta in adapter.changes.items()
    }
    return replace(adapter, changes=changes)


class FileLayers(Layers):
    """The layers that a LoRA file changes, told by the file's own names and the shapes of its factors."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        keys = (split(name) for name in tensors if not name.startswith(BUNDLED))
        self._places = {key.layer: own_layer(key.layer) for key in keys if key is not None}
        roles: dict[Place, dict[str, Shape]] = {}
        for name, tensor in tensors.items():
            key = split(name)
            place = None if key is None else self._places.get(key.layer)
            if key is not None and place is not None:
                roles.setdefault(place, {})[key.role] = tuple(tensor.shape)
        shapes: dict[str, dict[str, Shape]] = {}
        for (part, layer), own in roles.items():
            factors = {role: shape for role, shape in own.items() if role not in BESIDE_FACTORS}
            known = shapes.setdefault(part, {})
            if "diff_b" in own:
                known[f"{layer}.bias"] = own["diff_b"]
            with suppress(UserError):  # read_adapter tells what is wrong with them
                known[f"{layer}.weight"] = change_shape(factors)
        super().__init__(shapes)

    def find(self, layer: str) -> Place | None:
        """As Layers.find."""
        return self._places.get(layer)


def own_layer(name: str) -> Place | None:
    """The part and our name of the layer that a file calls so, or none where the name says too little."""
    part, rest, flattened = part_of(name)
    if part == "unet":
        known = published_names()
        if rest in known or flat(rest) in known:
            return part, known[rest if rest in known else flat(rest)]
    layer = dotted(rest) if flattened else rest
    if layer is None:
        return None
    if part == "unet":
        return part, f"{layer}.0" if layer.endswith(".to_out") else layer
    for old, own in OLD_TEXT.items():
        if layer.endswith(old):
            layer = layer.removesuffix(old) + own
    return part, layer if layer.startswith(("text_model.", "text_projection")) else f"text_model.{layer}"


def dotted(flattened: str) -> str | None:
    """A layer's name with its dots, from that with underscores in their place; none where it has an unknown word."""
    units: list[str] = []
    place = 0
    while place < len(flattened):
        match = UNIT.match(flattened, place)
        if match is None:
            return None
        units.append(match.group(1))
        place = match.end()
    return ".".join(units)


@cache
def sdxl_places() -> KeyMap:
    """What the latent diffusion code calls the tensors of SDXL's U-Net."""
    return unet.places(SDXL)


@cache
def published_names() -> Mapping[str, str]:
    """Our names of the U-Net's layers by what the latent diffusion code calls them, with dots and without.

    No name stands for different layers of Stable Diffusion and of SDXL.
    """
    own: dict[str, str] = {}
    for places in (unet.places(SD), sdxl_places()):
        for layer, theirs in ldm_layers(places).items():
            own |= {theirs: layer, flat(theirs): layer}
    return own


def kohya_places(layers: FileLayers, text_width: int | None) -> KeyMap | None:
    """What write_kohya is told: the latent diffusion code's names for a LoRA of SDXL, and none for any other."""
    if not (text_width == SDXL_TEXT or (text_width is None and "text_encoder_2" in layers.shapes)):
        return None
    with torch.device("meta"), Unfilled():
        known = {name: tuple(tensor.shape) for name, tensor in UNet(SDXL).state_dict().items()}
    changed = layers.shapes.get("unet", {}).items()
    return sdxl_places() if all(name in known and fits(shape, known[name]) for name, shape in changed) else None
