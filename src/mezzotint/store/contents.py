"""The networks in a checkpoint: where each stands, what it is made of, and where its tensors lie. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.store.checked import made
from mezzotint.store.evidence import OWN, own
from mezzotint.store.keymap import KeyMap, prefixed, sources
from mezzotint.store.kinds import Kind, Reading
from mezzotint.store.ldm import bert, clip, ema, unet, vae
from mezzotint.store.ldm.names import LDM, Shapes, under
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig

Config = UNetConfig | AutoencoderConfig | CLIPTextConfig | LDMBertConfig
Made = TypeVar("Made")

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
TEXT_PREFIXES = (
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.",
)
"""Where text encoders stand in a checkpoint, in the order in which the U-Net reads them."""
TEXT_KINDS = ("text_encoder", "text_encoder_2")
"""What they are called in the diffusers layout, in the same order."""
SHORT_VIT_H = 23
"""Blocks of a ViT-H that was written without its last, which nothing reads, as diffusers and kohya write it."""
DEPTHS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers", "encoder_layers")
"""What configs call counts of layers, which are no more than the file has tensors."""
FACTOR = 8
"""How many times a latent is smaller than the picture, where the file has no autoencoder to tell."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network in a file."""

    kind: str
    """Its folder in the diffusers layout: unet, vae, text_encoder or text_encoder_2."""
    prefix: str
    """What its names begin with in the file."""
    names: str
    """The layout of its names."""
    config: Config
    places: KeyMap = field(repr=False)
    """Where each of our tensors lies, by its whole name in the file."""
    reading: Reading | None = None
    """For a text encoder, what the U-Net reads of it."""


def unet_prefix(shapes: Shapes) -> str | None:
    """What the names of the U-Net begin with, or none where the file has none in the layout of a checkpoint."""
    return next((prefix for prefix in UNET_PREFIXES if f"{prefix}input_blocks.0.0.weight" in shapes), None)


def text_layouts(shapes: Shapes) -> dict[str, str]:
    """The prefixes of the text encoders in a checkpoint, and the layout of each one's names."""
    found: dict[str, str] = {}
    for prefix in TEXT_PREFIXES:
        names = bert.NAMES if bert.find(shapes, prefix) else clip.find(shapes, prefix)
        if names is not None:
            found[prefix] = names
    return found


def spread_tensor(shapes: Shapes) -> str | None:
    """The biases of the first norm in the last transformer of a U-Net, or none where there are none."""
    prefix = unet_prefix(shapes) or ""
    ends = (f"{prefix}output_blocks.", ".1.transformer_blocks.0.norm1.bias")
    numbers = [name.removeprefix(ends[0]).removesuffix(ends[1]) for name in shapes if name.endswith(ends[1])]
    last = max((int(number) for number in numbers if number.isdecimal()), default=None)
    return None if last is None else f"{ends[0]}{last}{ends[1]}"


def contents(
    shapes: Shapes, metadata: Mapping[str, str], kind: Kind, size: tuple[int, int]
) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """The parts of a checkpoint, and why others that it has cannot be made, a sentence each.

    What our own metadata says of a part comes before its shapes. `size` is the width and height in pixels that the
    model was trained at.
    """
    reasons: list[str] = []

    def tried(make: Callable[[], Part]) -> list[Part]:
        try:
            return [make()]
        except UserError as error:
            reasons.append(str(error))
            return []

    file = _File(shapes, metadata)
    texts: list[Part] = []
    for part, (prefix, names) in zip(TEXT_KINDS, text_layouts(shapes).items(), strict=False):
        texts += tried(partial(file.text, part, prefix, names, kind))
    autoencoder = tried(partial(file.autoencoder, kind, size)) if vae.find(shapes) is not None else []
    factor = next((part.config.factor for part in autoencoder if isinstance(part.config, AutoencoderConfig)), FACTOR)
    pooled = next((_projected(part) for part in texts if part.reading is not None and part.reading.pooled), None)
    network = tried(partial(file.unet, pooled, (size[1] // factor, size[0] // factor)))
    return (*network, *autoencoder, *texts), tuple(reasons)


@dataclass(frozen=True)
class _File:
    """The shapes and the metadata of one file, of which its parts are made."""

    shapes: Shapes
    metadata: Mapping[str, str]

    def unet(self, pooled_text: int | None, latent: tuple[int, int]) -> Part:
        """The U-Net; `latent` is the height and width that it was trained at."""
        prefix = unet_prefix(self.shapes) or ""
        shapes = under(self.shapes, prefix)
        config = self._own("unet", UNetConfig.from_dict)
        if config is None:
            config = replace(unet.config(shapes, pooled_text=pooled_text), sample_size=_side(latent))
        return Part(
            kind="unet",
            prefix=prefix,
            names=LDM,
            config=config,
            places=prefixed(unet.places(config), prefix),
        )

    def autoencoder(self, kind: Kind, size: tuple[int, int]) -> Part:
        """The autoencoder."""
        prefix, names = vae.find(self.shapes) or ("", LDM)
        config = self._own("vae", AutoencoderConfig.from_dict)
        if config is None:
            others: dict[str, Any] = {"scaling_factor": kind.scaling_factor, "sample_size": _side((size[1], size[0]))}
            config = vae.config(under(self.shapes, prefix), names, **others)
        places = vae.readable(config, self.shapes, prefix, names)
        return Part(kind="vae", prefix=prefix, names=names, config=config, places=places)

    def text(self, part: str, prefix: str, names: str, kind: Kind) -> Part:
        """A text encoder."""
        shapes = under(self.shapes, prefix)
        reading = kind.readings.get(names, Reading())
        if names == bert.NAMES:
            config = self._own(part, LDMBertConfig.from_dict) or bert.config(shapes)
            places = bert.places(config)
        else:
            ours = self._own(part, CLIPTextConfig.from_dict)
            config = clip.config(shapes, names, projection=names == clip.OPEN_CLIP) if ours is None else ours
            places = clip.places(config, names)
            if reading.pooled and not config.with_projection:
                raise UserError(f"The tensor {prefix}text_projection is missing: get the file again.")
            if reading.final_norm and config.num_hidden_layers == SHORT_VIT_H:
                reading = replace(reading, layer=-1)
        told = self._own("reading", lambda values: Reading(layer=values["layer"], final_norm=values["final_norm"]))
        if told is not None:
            blocks = config.encoder_layers if isinstance(config, LDMBertConfig) else config.num_hidden_layers
            if not -blocks <= told.layer < 0:
                raise UserError(f"The metadata {OWN}reading has layer {told.layer} of {blocks}: get the file again.")
            reading = replace(reading, layer=told.layer, final_norm=told.final_norm)
        return Part(
            kind=part, prefix=prefix, names=names, config=config, places=prefixed(places, prefix), reading=reading
        )

    def _own(self, kind: str, make: Callable[[dict[str, Any]], Made]) -> Made | None:
        """The config that our own metadata keeps of a part. Raises UserError where it describes no such part."""
        values = own(self.metadata, kind)
        if values is None:
            return None
        for name in DEPTHS:
            depths = values.get(name)
            listed = cast("list[Any]", depths) if isinstance(depths, list) else [depths]
            if any(isinstance(depth, int) and depth > len(self.shapes) for depth in listed):
                raise UserError(
                    f"The metadata {OWN}{kind} has {name} = {str(depths)[:40]}, more than there are tensors: get the "
                    "file again."
                )
        return made(make, values, f"The metadata {OWN}{kind}")


def averaged(part: Part, shapes: Shapes) -> Part:
    """The U-Net with the averages of its weights in their place. Raises UserError where the file has them not."""
    places = ema.places(part.places)
    if not sources(places) <= shapes.keys():
        raise UserError("The file has no averaged weights (model_ema.) of its U-Net: load its plain weights.")
    return replace(part, places=places)


def _projected(part: Part) -> int | None:
    """Width of a text encoder's projected pooled text."""
    return part.config.projection_dim if isinstance(part.config, CLIPTextConfig) else None


def _side(size: tuple[int, int]) -> int | tuple[int, int]:
    """One number for a square's height and width, both for another's."""
    return size[0] if size[0] == size[1] else size
