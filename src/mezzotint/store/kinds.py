"""The architectures of published models: their names, what they have in common, and how they are told apart.

The text encoders in a file tell its kind; where it has none, the width of the text that its U-Net reads does.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from mezzotint.store.ldm import bert, clip, unet
from mezzotint.store.ldm.names import Shapes


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a U-Net reads of a text encoder."""

    layer: int = -1
    """The block whose tokens are read: -1 the last, -2 the one before it."""
    final_norm: bool = True
    """Whether the tokens then pass the encoder's final layer norm."""
    pooled: bool = False
    """Whether the projected pooled text is read too."""
    pad_id: int | None = None
    """The token that fills up short texts; none is the one that ends a text."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all models of one architecture have in common."""

    name: str
    side: int = 512
    """Sides in pixels of the pictures that it was trained on."""
    scaling_factor: float = 0.18215
    """What latents are multiplied by, from the published configurations."""
    readings: Mapping[str, Reading] = field(default_factory=dict[str, Reading])
    """What is read of each text encoder, by the layout of its names."""
    refusal: str | None = None
    """Why this program cannot run such a model, in a sentence; none where it can."""


PENULTIMATE = Reading(layer=-2, final_norm=False)
POOLED = Reading(layer=-2, final_norm=False, pooled=True, pad_id=0)
NORMED = Reading(layer=-2, pad_id=0)
KINDS = {
    "ldm": Kind(name="latent diffusion 1.4B", side=256, readings={bert.NAMES: Reading(pad_id=0)}),
    "sd1": Kind(name="Stable Diffusion 1.x", readings={clip.TRANSFORMERS: Reading(), clip.BARE: Reading()}),
    "sd2": Kind(name="Stable Diffusion 2.x", readings=dict.fromkeys(clip.TELLS, NORMED)),
    "unclip": Kind(
        name="Stable Diffusion 2.x unCLIP",
        side=768,
        readings={clip.OPEN_CLIP: NORMED},
        refusal="The U-Net reads a picture beside the text (unCLIP), which this program cannot give it: "
        "use a model that draws from text.",
    ),
    "sdxl": Kind(
        name="Stable Diffusion XL",
        side=1024,
        scaling_factor=0.13025,
        readings={clip.TRANSFORMERS: PENULTIMATE, clip.OPEN_CLIP: POOLED},
    ),
    "refiner": Kind(
        name="Stable Diffusion XL refiner", side=1024, scaling_factor=0.13025, readings={clip.OPEN_CLIP: POOLED}
    ),
}
TEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Widths of the text in published models; where it is 1280 wide the pooled text tells the refiner from the oldest."""
REFINER_UNIT = 384
"""What divides every width of the refiner's U-Net, and none of the oldest model's."""


@dataclass(frozen=True, kw_only=True)
class Glance:
    """The few sides of a U-Net's tensors that tell its kind, as far as they are known."""

    text: int | None = None
    """Width of a text token."""
    channels: int | None = None
    """Channels that it reads."""
    latent: int = 4
    """Channels that it predicts."""
    pooled: int | None = None
    """Width of its pooled conditioning."""
    attention: int | None = None
    """Width of one of its blocks that read the text; it is asked where the pooled conditioning is not known."""

    @classmethod
    def at(cls, shapes: Shapes) -> Glance:
        """What the shapes of a U-Net show, by its names in a checkpoint without their prefix."""
        side = {name: own for name, own in shapes.items() if len(own) > 1}
        text = next((own[1] for name, own in side.items() if name.endswith(".attn2.to_k.weight")), None)
        return cls(
            text=text,
            channels=side.get("input_blocks.0.0.weight", (0, None))[1],
            latent=side.get("out.2.weight", (4, 0))[0],
            pooled=side.get("label_emb.0.0.weight", (0, None))[1],
        )

    @property
    def kind(self) -> str | None:
        """The kind of published model that has these sides, or none where none has."""
        if self.text == unet.UNCLIP_TEXT and self.pooled is not None:
            return "unclip"
        if self.text == 1280:
            by_width = self.attention is not None and self.attention % REFINER_UNIT == 0
            return "ldm" if self.pooled is None and not by_width else "refiner"
        return None if self.text is None else TEXT_WIDTHS.get(self.text)

    @property
    def variant(self) -> str:
        """What the channels that it reads beyond the latent's are for: words to follow the kind's name."""
        latent = self.latent
        names = {1: " depth", 3: " upscaler", latent: " instruct-pix2pix", latent + 1: " inpainting"}
        return "" if self.channels is None else names.get(self.channels - latent, "")

    @property
    def name(self) -> str:
        """The name of the published family that has these sides."""
        if self.text is None:
            return "unknown"
        known = self.kind
        return (
            f"Stable Diffusion layout, {self.text} wide text" if known is None else KINDS[known].name
        ) + self.variant


def kind_of(texts: Set[str], glance: Glance) -> str:
    """The kind of a checkpoint, a key of KINDS, by the layouts of its text encoders and its U-Net's sides.

    A model of no published width and without text encoders counts as the plainest that has its pooled conditioning.
    """
    told = glance.kind
    if bert.NAMES in texts:
        return "ldm"
    if clip.OPEN_CLIP in texts:
        if len(texts) > 1:
            return "sdxl"
        return "unclip" if told == "unclip" else "sd2" if glance.pooled is None else "refiner"
    if told == "sd2":
        return told  # Its text encoder in transformers' names, as diffusers' first scripts wrote it.
    plainest = "sd1" if glance.pooled is None else "sdxl"
    return plainest if texts or told is None else told
