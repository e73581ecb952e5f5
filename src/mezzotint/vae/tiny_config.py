"""What a tiny autoencoder is made of, in the keys of diffusers' AutoencoderTiny config.json. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mezzotint.types import UserError
from mezzotint.vae.config import ACTIVATION_NAMES, AutoencoderConfig, from_json, to_json

UPSAMPLINGS = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
"""Ways to enlarge a picture, by the names that torch has for them."""
SIDE = 64
"""Side of the latent of pictures whose size nothing tells, as in diffusers' pipelines."""
REPEATED = "block_out_channels"
"""A key that diffusers writes a second time, with the decoder's widths, and reads never."""


@dataclass(frozen=True, kw_only=True)
class TinyAutoencoderConfig:
    """The tiny autoencoder's sizes; defaults are those of diffusers' AutoencoderTiny, which is TAESD.

    One half may be absent: its two tuples are then empty.
    """

    in_channels: int = 3
    """Channels of the pixels that are encoded."""
    out_channels: int = 3
    """Channels of the pixels that are decoded."""
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width of each resolution of the encoder, finest first; all are the same."""
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    """Width of each resolution of the decoder, coarsest first; all are the same."""
    act_fn: str = "relu"
    """Activation between the convolutions of a block."""
    upsample_fn: str = "nearest"
    """How the decoder enlarges."""
    latent_channels: int = 4
    """Channels z of the latent."""
    upsampling_scaling_factor: int = 2
    """How many times larger each step of the decoder makes the picture, along one side."""
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    """Residual blocks at each resolution of the encoder, finest first; n resolutions make n - 1 halvings."""
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    """Residual blocks at each resolution of the decoder, coarsest first."""
    latent_magnitude: float = 3
    """About the largest value of a latent, for those who store latents as bytes; not read here."""
    latent_shift: float = 0.5
    """Where zero lies among the bytes, likewise not read here."""
    force_upcast: bool = False
    """Whether 16-bit floats overflow in it; diffusers knows no such tiny autoencoder."""
    scaling_factor: float = 1.0
    """Multiplied into its latents. It gives and takes those that a U-Net reads, so there is nothing to scale."""
    shift_factor: float | None = 0.0
    """Subtracted from a latent before it is scaled; none is 0."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        for name in ("in_channels", "out_channels", "latent_channels", "upsampling_scaling_factor"):
            if getattr(self, name) < 1:
                raise UserError(f"The tiny autoencoder config has {name} {getattr(self, name)}; it must be 1 or more.")
        for side in ("encoder", "decoder"):
            widths: tuple[int, ...] = getattr(self, f"{side}_block_out_channels")
            blocks: tuple[int, ...] = getattr(self, f"num_{side}_blocks")
            if len(widths) != len(blocks) or len(set(widths)) > 1 or min((*widths, 1)) < 1 or min((*blocks, 0)) < 0:
                raise UserError(
                    f"The tiny autoencoder config has {side}_block_out_channels {list(widths)} and "
                    f"num_{side}_blocks {list(blocks)}; it needs one width, the same everywhere, for each number."
                )
        if not self.halves:
            raise UserError("The tiny autoencoder config has neither an encoder nor a decoder; it needs one of them.")
        if len(self.factors) > 1:
            raise UserError(
                "The tiny autoencoder config has an encoder that makes pictures "
                f"{self.factors[0]} times smaller and a decoder that makes them {self.factors[1]} times larger; "
                "both must be the same."
            )
        for name, known in (("act_fn", ACTIVATION_NAMES), ("upsample_fn", UPSAMPLINGS)):
            if getattr(self, name) not in known:
                told = f"{name} {getattr(self, name)!r}"
                raise UserError(f"The tiny autoencoder config has {told}; it must be one of {', '.join(known)}.")
        if self.scaling_factor == 0:
            raise UserError("The tiny autoencoder config has scaling_factor 0; it must be another number.")

    @property
    def halves(self) -> tuple[str, ...]:
        """Which of `encoder` and `decoder` it has."""
        return tuple(side for side in ("encoder", "decoder") if getattr(self, f"num_{side}_blocks"))

    @property
    def factors(self) -> tuple[int, ...]:
        """How many times smaller and larger its halves make a picture: one number where they agree."""
        steps = {"encoder": 2, "decoder": self.upsampling_scaling_factor}
        found = (steps[side] ** (len(getattr(self, f"num_{side}_blocks")) - 1) for side in self.halves)
        return tuple(dict.fromkeys(found))

    @property
    def factor(self) -> int:
        """How many times the latent is smaller than the picture, along one side."""
        return self.factors[0]

    @property
    def sample_size(self) -> int:
        """Side in pixels of a picture where the U-Net does not say; this config has no key for it."""
        return SIDE * self.factor

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TinyAutoencoderConfig:
        """The config that a diffusers config.json holds.

        Keys that begin with _ are diffusers' own notes. Raises UserError naming any other key that is unknown,
        unless it is null, which asks for nothing.
        """
        own = {key: value for key, value in values.items() if key != REPEATED}
        return cls(**from_json(own, {field.name for field in fields(cls)}, "tiny autoencoder"))

    def to_dict(self) -> dict[str, Any]:
        """The contents of a diffusers config.json that makes the same network.

        Raises UserError where there is but one half, which diffusers has no model for.
        """
        if len(self.halves) == 1:
            raise UserError(
                f"The autoencoder is only a tiny {self.halves[0]}, which diffusers cannot hold: save a model with both."
            )
        return {"_class_name": "AutoencoderTiny", **to_json(self)}


AnyAutoencoderConfig = AutoencoderConfig | TinyAutoencoderConfig
