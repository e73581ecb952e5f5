"""What an autoencoder is made of, in the keys of diffusers' AutoencoderKL config.json. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mezzotint.types import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ACTIVATION_NAMES = ("silu", "swish", "mish", "gelu", "relu")


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The autoencoder's sizes; defaults are those of diffusers' AutoencoderKL."""

    in_channels: int = 3
    """Channels of the pixels that are encoded."""
    out_channels: int = 3
    """Channels of the pixels that are decoded."""
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    """One name per resolution, finest first; only DownEncoderBlock2D is known."""
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    """One name per resolution, coarsest first; only UpDecoderBlock2D is known."""
    block_out_channels: tuple[int, ...] = (64,)
    """Width of each resolution, finest first; n resolutions make the latent 2^(n-1) times smaller than the picture."""
    layers_per_block: int = 1
    """Residual blocks at each resolution of the encoder; the decoder has one more."""
    act_fn: str = "silu"
    """Activation inside the residual blocks."""
    latent_channels: int = 4
    """Channels z of the latent."""
    norm_num_groups: int = 32
    """Groups of every group norm; divides every width."""
    sample_size: int | tuple[int, int] = 32
    """Side of the pictures it was trained on, in pixels."""
    scaling_factor: float = 0.18215
    """Multiplied into a latent so that its standard deviation is about 1 (arXiv:2112.10752, appendix G)."""
    shift_factor: float | None = None
    """Subtracted from a latent before it is scaled; none is 0."""
    latents_mean: None = None
    """Per-channel means, which only video models have: always none."""
    latents_std: None = None
    """Per-channel deviations, which only video models have: always none."""
    force_upcast: bool = True
    """Whether 16-bit floats overflow in it, so that it must decode in 32 bits."""
    use_quant_conv: bool = True
    """Whether a 1x1 convolution follows the encoder."""
    use_post_quant_conv: bool = True
    """Whether a 1x1 convolution precedes the decoder."""
    mid_block_add_attention: bool = True
    """Whether the coarsest resolution attends to itself."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        for name in ("in_channels", "out_channels", "layers_per_block", "latent_channels", "norm_num_groups"):
            if getattr(self, name) < 1:
                raise UserError(f"The autoencoder config has {name} {getattr(self, name)}; it must be 1 or more.")
        levels = len(self.block_out_channels)
        if levels == 0 or any(width < 1 or width % self.norm_num_groups != 0 for width in self.block_out_channels):
            widths = list(self.block_out_channels)
            raise UserError(
                f"The autoencoder config has block_out_channels {widths}; "
                f"it needs one or more widths, all divisible by norm_num_groups {self.norm_num_groups}."
            )
        for name, known in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            if getattr(self, name) != (known,) * levels:
                raise UserError(
                    f"The autoencoder config has {name} {list(getattr(self, name))}; "
                    f"it must be {known} once for each of the {levels} block_out_channels."
                )
        if self.act_fn not in ACTIVATION_NAMES:
            known = ", ".join(ACTIVATION_NAMES)
            raise UserError(f"The autoencoder config has act_fn {self.act_fn!r}; it must be one of {known}.")
        if self.scaling_factor == 0:
            raise UserError("The autoencoder config has scaling_factor 0; it must be another number.")
        if self.shift_factor is not None and not math.isfinite(self.shift_factor):
            raise UserError(f"The autoencoder config has shift_factor {self.shift_factor}; it must be finite.")
        for name in ("latents_mean", "latents_std"):
            if getattr(self, name) is not None:
                raise UserError(f"The autoencoder config has {name}, which is not supported; it must be null.")

    @property
    def factor(self) -> int:
        """How many times the latent is smaller than the picture, along one side."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def of_widths(cls, *widths: int, **others: Any) -> AutoencoderConfig:
        """A config with these widths, finest first, and the block types that go with them."""
        return cls(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            **others,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderConfig:
        """The config that a diffusers config.json holds.

        Keys that begin with _ are diffusers' own notes. Raises UserError naming any other key that is unknown,
        unless it is null, which asks for nothing.
        """
        return cls(**from_json(values, {field.name for field in fields(cls)}, "autoencoder"))

    def to_dict(self) -> dict[str, Any]:
        """The contents of a diffusers config.json that makes the same network."""
        return {"_class_name": "AutoencoderKL", **to_json(self)}


def from_json(values: Mapping[str, Any], known: Set[str], name: str) -> dict[str, Any]:
    """The values of a diffusers config.json whose keys are known, with tuples for lists.

    Raises UserError, for the config called `name`, naming any other key, unless it begins with _ or is null.
    """
    for key, value in values.items():
        if key not in known and not key.startswith("_") and value is not None:
            raise UserError(f"The {name} config has an unknown key {key!r}; this program cannot run that model.")
    return {key: tuple(own) if isinstance(own, list) else own for key, own in values.items() if key in known}


def to_json(config: DataclassInstance) -> dict[str, Any]:
    """The fields of a config by name, with lists for tuples."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
