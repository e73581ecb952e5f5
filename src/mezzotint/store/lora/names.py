"""How LoRA files name the layers that they change. Imports no torch.

A key is the name of a layer and an ending that says what the tensor is to the change. The layer is named by one of two
layouts of the U-Net (diffusers' or that of the latent diffusion code) and stands behind a prefix for its part of the
model. Kohya's scripts write underscores for dots. Where the dots were cannot be told from such a name, so it is looked
up among the flattened names of the layers that the model has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mezzotint.store.keymap import KeyMap

Shape = tuple[int, ...]
Place = tuple[str, str]
"""A part of the model ("unet", "text_encoder", "text_encoder_2"), and the name of a layer or of a parameter in it."""

KOHYA, DIFFUSERS, PEFT = "kohya", "diffusers", "peft"

ENDINGS: dict[str, tuple[str, str]] = {
    ".lora_down.weight": ("lora_down", KOHYA),
    ".lora_up.weight": ("lora_up", KOHYA),
    ".lora_mid.weight": ("lora_mid", KOHYA),
    **{f".hada_{factor}": (f"hada_{factor}", KOHYA) for factor in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{factor}": (f"lokr_{factor}", KOHYA) for factor in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".{role}": (role, KOHYA) for role in ("diff", "diff_b", "alpha", "dora_scale")},
    ".w_norm": ("diff", KOHYA),
    ".b_norm": ("diff_b", KOHYA),
    ".lora_A.weight": ("lora_down", PEFT),
    ".lora_B.weight": ("lora_up", PEFT),
    ".lora_magnitude_vector": ("lora_magnitude_vector", PEFT),
    ".lora_magnitude_vector.weight": ("lora_magnitude_vector", PEFT),
    ".lora_linear_layer.down.weight": ("lora_down", DIFFUSERS),
    ".lora_linear_layer.up.weight": ("lora_up", DIFFUSERS),
    ".lora.down.weight": ("lora_down", DIFFUSERS),
    ".lora.up.weight": ("lora_up", DIFFUSERS),
    "_lora.down.weight": ("lora_down", DIFFUSERS),
    "_lora.up.weight": ("lora_up", DIFFUSERS),
    ".lora_linear_layer.alpha": ("alpha", DIFFUSERS),
    ".lora.alpha": ("alpha", DIFFUSERS),
    "_lora.alpha": ("alpha", DIFFUSERS),
}
"""What ends a key: the tensor's role, by kohya's and LyCORIS' words where they have one, and who names it so.

LyCORIS writes the plain change of a norm as w_norm and b_norm. diffusers' oldest files have `to_q_lora.down.weight`.
"""

FLAT_PREFIXES = {
    "lora_unet_": "unet",
    "lycoris_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""Before names with underscores for dots: kohya's, and that of LyCORIS used alone."""
DOTTED_PREFIXES = {
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "clip_l.": "text_encoder",
    "clip_g.": "text_encoder_2",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
"""Before names with their dots: diffusers', peft's, OneTrainer's and ComfyUI's. peft's own files have none."""

BUNDLED = "bundle_emb."
"""Begins the keys of words that were learned together with the LoRA and are stored in its file."""
MODEL_PREFIX = "model.diffusion_model."
"""Begins the U-Net's names in a whole model of the latent diffusion layout."""
LDM_BLOCKS = re.compile(r"input_blocks|middle_block|output_blocks|time_embed[._]\d|label_emb|(^|[._])out[._]\d$")
ADAPTER_NAME = re.compile(r"(?<=\.lora_[AB])\.[^.]+(?=\.weight$)|(?<=\.lora_magnitude_vector)\.(?!weight$)[^.]+")
"""The adapter's name, which peft keeps inside the keys of a model that it has wrapped."""


@dataclass(frozen=True)
class Key:
    """A tensor's name in a LoRA file, taken apart."""

    layer: str
    """The layer, as the file names it."""
    role: str
    """What the tensor is to the layer's change, in the words of ENDINGS."""
    scheme: str
    """Who names it so: KOHYA, DIFFUSERS or PEFT."""


def split(key: str) -> Key | None:
    """A file's key taken apart, or none where its ending is not known."""
    key = ADAPTER_NAME.sub("", key)
    # The longest ending counts: `_lora.down.weight` also ends what `.lora.down.weight` does not.
    for ending in sorted((ending for ending in ENDINGS if key.endswith(ending)), key=len, reverse=True):
        layer = key.removesuffix(ending).replace("base_model.model.", "").replace(".processor.", ".")
        if layer != "":
            return Key(layer, *ENDINGS[ending])
    return None


def part_of(layer: str) -> tuple[str, str, bool]:
    """The part of the model that a file's name of a layer tells of, the rest of the name, and whether it is flattened.

    A name without a prefix is the U-Net's, unless it begins as a text encoder's do.
    """
    for prefix, part in FLAT_PREFIXES.items():
        if layer.startswith(prefix):
            return part, layer.removeprefix(prefix), True
    for prefix, part in DOTTED_PREFIXES.items():
        if layer.startswith(prefix):
            return part, layer.removeprefix(prefix), False
    is_text = layer.startswith(("text_model.", "encoder.layers.", "embeddings.", "text_projection"))
    return "text_encoder" if is_text else "unet", layer, False


def flat(name: str) -> str:
    """A name with underscores for its dots."""
    return name.replace(".", "_")


def ldm_layers(places: KeyMap) -> dict[str, str]:
    """What the latent diffusion code calls each of the U-Net's layers, by our name of it."""
    return {
        name.rpartition(".")[0]: piece.source.removeprefix(MODEL_PREFIX).rpartition(".")[0]
        for name, piece in places.items()
    }


class Layers:
    """The layers of a model, found by any name that LoRA files have for them."""

    def __init__(self, shapes: Mapping[str, Mapping[str, Shape]], places: KeyMap | None = None) -> None:
        """`shapes` are those of every parameter, part by part, by our names.

        `places` says what the latent diffusion code calls the U-Net's; without it files with such names fit nothing.
        """
        self.shapes = shapes
        self._found: dict[tuple[str, str, bool], Place | None] = {}
        ldm = {} if places is None else ldm_layers(places)
        for part, parameters in shapes.items():
            for layer in dict.fromkeys(name.rpartition(".")[0] for name in parameters):
                for spelling in spellings(part, layer, ldm):
                    self._add((part, spelling, False), (part, layer))
                    self._add((part, flat(spelling), True), (part, layer))

    def _add(self, name: tuple[str, str, bool], layer: Place) -> None:
        """Let a layer be found by a name; one that two layers have finds neither."""
        if self._found.setdefault(name, layer) != layer:
            self._found[name] = None

    def find(self, layer: str) -> Place | None:
        """The part and our name of the layer that a file calls so, or none where the model has no such layer."""
        part, rest, flattened = part_of(layer)
        if part == "text_encoder" and part not in self.shapes:
            part = "text_encoder_2"  # SDXL's refiner has the second encoder alone.
        return self._found.get((part, rest, flattened))

    def shape(self, place: Place) -> Shape | None:
        """The shape of a parameter, or none where the model has no such parameter."""
        part, parameter = place
        return self.shapes.get(part, {}).get(parameter)


def spellings(part: str, layer: str, ldm: Mapping[str, str]) -> Iterator[str]:
    """Every dotted name that files have for one of our layers, its prefix left out."""
    yield layer
    if part == "unet":
        if layer in ldm:
            yield ldm[layer]
        if layer.endswith(".to_out.0"):  # to_out_lora in diffusers' oldest files
            yield layer.removesuffix(".0")
        return
    # transformers 5 leaves `text_model.` out; diffusers' oldest files call q_proj to_q, as in the U-Net.
    for name in dict.fromkeys((layer, layer.removeprefix("text_model."))):
        yield name
        if name.endswith(("q_proj", "k_proj", "v_proj", "out_proj")):
            head, _, leaf = name.rpartition(".")
            yield f"{head}.to_{leaf.removesuffix('_proj')}"
