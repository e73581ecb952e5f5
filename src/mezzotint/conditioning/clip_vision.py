"""CLIP's image tower, a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929): pixels to tokens [B 1+n D]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.clip_config import CLIPVisionConfig
from mezzotint.conditioning.clip_text import drop_position_ids
from mezzotint.conditioning.clip_transformer import Encoder
from mezzotint.types import UserError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of red, green and blue in [0, 1] over CLIP's training pictures (OpenAI's preprocessing)."""

LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""


@dataclass(frozen=True)
class VisionOutput:
    """What the image tower says about pixels [B 3 H W]."""

    tokens: Tensor
    """The class token and n patches [B 1+n D], before the final layer norm."""
    pooled: Tensor
    """The class token [B D] after the final layer norm."""
    hidden_states: tuple[Tensor, ...] | None = None
    """If asked for: the embeddings and every block's output, each [B 1+n D]."""
    projected: Tensor | None = None
    """Pooled in the space shared with texts, [B P], if the model has its projection; not normalised."""


def normalise(pixels: Tensor) -> Tensor:
    """Pixels [B 3 H W] in [-1, 1], as everything else here has them, to the units that the image tower reads."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels * 0.5 + 0.5 - mean) / std


def without_colours(pixels: Tensor, shares: Tensor | None = None) -> Tensor:
    """Pixels [B 3 H W] in [-1, 1] in greys: so much [B 3], 1 in all, of red, green and blue, or as they look."""
    shares = pixels.new_tensor(LUMA)[None] if shares is None else shares.to(pixels)
    return (pixels * shares[:, :, None, None]).sum(dim=1, keepdim=True).expand_as(pixels)


def without_shapes(pixels: Tensor, patch: int) -> Tensor:
    """The mean colours of patches of pixels [B 3 H W], so many wide, and smooth ones between: where which colour is."""
    return F.interpolate(F.avg_pool2d(pixels, patch), size=pixels.shape[2:], mode="bilinear")


class VisionEmbeddings(nn.Module):
    """A vector for each patch and one for the whole picture, plus one for each position."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding(config.num_patches + 1, width)
        nn.init.normal_(self.position_embedding.weight, std=width**-0.5)
        self.register_load_state_dict_pre_hook(drop_position_ids)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B 3 H W] -> [B 1+n D]. Raises UserError unless H and W are image_size."""
        side = self.config.image_size
        if pixels.shape[-2:] != (side, side):
            height, width = pixels.shape[-2:]
            raise UserError(f"The picture is {width} by {height} pixels; this image encoder reads {side} by {side}.")
        pixels = pixels.to(self.patch_embedding.weight.dtype)
        patches: Tensor = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        whole = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([whole, patches], dim=1) + self.position_embedding.weight


class VisionTransformer(nn.Module):
    """The image tower without a projection."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # the name as published
        self.encoder = Encoder(config, causal=False)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor, *, hidden_states: bool = False) -> VisionOutput:
        """What pixels [B 3 H W] in the units of `normalise` show."""
        states = self.encoder(self.pre_layrnorm(self.embeddings(pixels)))
        return VisionOutput(states[-1], self.post_layernorm(states[-1][:, 0]), states if hidden_states else None)


class CLIPVisionModel(nn.Module):
    """The image tower by the names in published files (vision_model. ...), with its projection if the config has it."""

    def __init__(self, config: CLIPVisionConfig, transformer: VisionTransformer | None = None) -> None:
        """Build new weights, or stand around those of a transformer (a CLIPModel's), which are then shared."""
        super().__init__()
        self.config = config
        self.vision_model = VisionTransformer(config) if transformer is None else transformer
        self.visual_projection = None
        if config.with_projection:
            self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            nn.init.normal_(self.visual_projection.weight, std=config.hidden_size**-0.5)

    def forward(self, pixels: Tensor, *, hidden_states: bool = False) -> VisionOutput:
        """What pixels [B 3 H W] in the units of `normalise` show; hidden_states keeps every block's output too."""
        found: VisionOutput = self.vision_model(pixels, hidden_states=hidden_states)
        if self.visual_projection is None:
            return found
        return VisionOutput(found.tokens, found.pooled, found.hidden_states, self.visual_projection(found.pooled))
