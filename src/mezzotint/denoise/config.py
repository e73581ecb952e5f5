"""What a U-Net is made of, in the words of a diffusers `UNet2DConditionModel` config.json.

The numbers describe Stable Diffusion 1.x, 2.x, SDXL base and refiner, their inpainting and depth kin, and what we
train. No torch is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mezzotint.types import UserError

CLASS_NAME = "UNet2DConditionModel"

# The keys of diffusers that we do not vary, with the one value each that describes our U-Net. None always means unset.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "only_cross_attention": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "attention_type": "default",
    "class_embeddings_concat": False,
}

# Keys that change no weight and no result of ours: attention scores are always accumulated in fp32, and the number of
# heads of an `addition_embed_type` that we do not have.
IRRELEVANT = {"upcast_attention", "addition_embed_type_num_heads"}

DOWN_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
MID_BLOCK = "UNetMidBlock2DCrossAttn"


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """A U-Net's shape, by the names that diffusers gives. Raises UserError for a shape that cannot be."""

    sample_size: int | tuple[int, int] | None = None
    """Height and width of the latents it was trained on; other sizes work."""
    in_channels: int = 4
    """Latent channels, and those of the spatial conditioning joined to them."""
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width of each resolution, finest first; each next one has half the height and width."""
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    mid_block_type: str | None = MID_BLOCK
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    """Coarsest first."""
    layers_per_block: int = 2
    """ResNet blocks at each resolution on the way down; one more on the way up."""
    cross_attention_dim: int = 1280
    """D, the width of a text token."""
    attention_head_dim: int | tuple[int, ...] = 8
    """The NUMBER of attention heads, one for all or one for each resolution: diffusers froze the misnomer."""
    transformer_layers_per_block: int | tuple[int, ...] = 1
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False
    """Whether the projections around transformer blocks are linear (SD 2.x, SDXL) or 1x1 convolutions (SD 1.x)."""
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    class_embed_type: str | None = None
    """"projection": pooled [B P] goes through class_embedding."""
    addition_embed_type: str | None = None
    """"text_time": pooled [B P] goes through add_embedding (SDXL: pooled text, then the embedded sizes)."""
    addition_time_embed_dim: int | None = None
    """Width of each embedded size inside SDXL's pooled; whoever makes pooled needs it."""
    projection_class_embeddings_input_dim: int | None = None
    """P, the width of pooled."""

    def __post_init__(self) -> None:
        """Check what the weights' shapes depend on."""
        levels = len(self.block_out_channels)
        if levels == 0 or len(self.down_block_types) != levels or len(self.up_block_types) != levels:
            raise UserError(
                f"The U-Net has {levels} block_out_channels, {len(self.down_block_types)} down_block_types and "
                f"{len(self.up_block_types)} up_block_types; give equally many, at least one."
            )
        for kind in self.down_block_types:
            self._check_member("down_block_types", kind, DOWN_BLOCKS)
        for kind in self.up_block_types:
            self._check_member("up_block_types", kind, UP_BLOCKS)
        self._check_member("mid_block_type", self.mid_block_type, (MID_BLOCK, None))
        self._check_member("class_embed_type", self.class_embed_type, ("projection", None))
        self._check_member("addition_embed_type", self.addition_embed_type, ("text_time", None))
        for name in ("in_channels", "out_channels", "layers_per_block", "cross_attention_dim", "norm_num_groups"):
            if getattr(self, name) < 1:
                raise UserError(f"The U-Net's {name} is {getattr(self, name)}; it must be at least 1.")
        for width, heads, depth in zip(self.block_out_channels, self.heads, self.depths, strict=True):
            if width < 1 or width % 2 != 0 or width % self.norm_num_groups != 0:
                raise UserError(
                    f"The U-Net's block_out_channels has {width}, which must be even and divisible by "
                    f"norm_num_groups, {self.norm_num_groups}."
                )
            if heads < 1 or width % heads != 0:
                raise UserError(f"The U-Net's {width} channels cannot be divided among {heads} attention heads.")
            if depth < 1:
                raise UserError(f"The U-Net's transformer_layers_per_block has {depth}; it must be at least 1.")
        if self.class_embed_type is not None and self.addition_embed_type is not None:
            raise UserError("The U-Net has both class_embed_type and addition_embed_type; only one can read `pooled`.")
        reads_pooled = self.class_embed_type is not None or self.addition_embed_type is not None
        if reads_pooled and self.pooled_dim is None:
            raise UserError("The U-Net reads `pooled`: give its width, projection_class_embeddings_input_dim.")

    @staticmethod
    def _check_member(name: str, value: str | None, known: tuple[str | None, ...]) -> None:
        if value not in known:
            raise UserError(f"The U-Net's {name} has {value!r}; this program knows {', '.join(map(str, known))}.")

    @property
    def heads(self) -> tuple[int, ...]:
        """Number of attention heads at each resolution, finest first."""
        return self._per_level("attention_head_dim", self.attention_head_dim)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks after each ResNet block at each resolution, finest first."""
        return self._per_level("transformer_layers_per_block", self.transformer_layers_per_block)

    @property
    def pooled_dim(self) -> int | None:
        """P, the width of pooled conditioning, or None where the U-Net reads none."""
        if self.class_embed_type is None and self.addition_embed_type is None:
            return None
        return self.projection_class_embeddings_input_dim

    @property
    def spatial_channels(self) -> int:
        """Channels that it reads beside those of the noisy latent, which are as many as it predicts."""
        return self.in_channels - self.out_channels

    @property
    def time_embed_dim(self) -> int:
        """Width of the time embedding."""
        return 4 * self.block_out_channels[0]

    def _per_level(self, name: str, value: int | tuple[int, ...]) -> tuple[int, ...]:
        levels = len(self.block_out_channels)
        if isinstance(value, int):
            return (value,) * levels
        if len(value) != levels:
            raise UserError(f"The U-Net's {name} has {len(value)} numbers for {levels} resolutions; give one for each.")
        return value

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UNetConfig:
        """The shape that a diffusers config.json describes.

        Keys that begin with `_` are notes. A key that we do not vary may stand at the value that describes our U-Net,
        or be unset; UserError names any other.
        """
        known = {field.name for field in fields(cls)}
        mine: dict[str, Any] = {}
        for key, value in values.items():
            if key in known:
                mine[key] = tuple(value) if isinstance(value, list) else value
            elif key == "num_attention_heads":
                continue
            elif not (key.startswith("_") or key in IRRELEVANT or value is None or value == FIXED.get(key, False)):
                raise UserError(
                    f"The U-Net's config.json has {key} = {value!r}, which this program does not know; "
                    "use a model without it."
                )
        heads = values.get("num_attention_heads")
        if heads is not None:
            mine["attention_head_dim"] = tuple(heads) if isinstance(heads, list) else heads
        try:
            return cls(**mine)
        except TypeError as error:
            raise UserError(f"The U-Net's config.json has a value of the wrong kind among {sorted(mine)}.") from error

    def to_dict(self) -> dict[str, Any]:
        """The config.json that `diffusers.UNet2DConditionModel` loads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {"_class_name": CLASS_NAME, **lists, **FIXED}
