"""CLIP: a text tower and an image tower that meet in one space (Radford et al. 2021, arXiv:2103.00020).

B texts or pictures, P the width of the shared space. Parameters carry the names of transformers' CLIPModel.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from mezzotint.conditioning.clip_text import CLIPTextModel, TextOutput
from mezzotint.conditioning.clip_vision import CLIPVisionModel, VisionOutput, normalise

__all__ = [
    "CLIPConfig",
    "CLIPModel",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "TextOutput",
    "VisionOutput",
    "normalise",
]


class CLIPModel(nn.Module):
    """Both towers, a projection for each, and the learnt inverse temperature."""

    def __init__(
        self,
        text: CLIPTextModel,
        vision: CLIPVisionModel,
        projection_dim: int = CLIPConfig.projection_dim,
        logit_scale: float = CLIPConfig.logit_scale_init_value,
    ) -> None:
        """Join two towers, which keep their weights; their own projections, if they have any, are left out."""
        super().__init__()
        self.config = CLIPConfig(
            text=text.config, vision=vision.config, projection_dim=projection_dim, logit_scale_init_value=logit_scale
        )
        self.text_model = text.text_model
        self.vision_model = vision.vision_model
        text_width, vision_width = text.config.hidden_size, vision.config.hidden_size
        self.text_projection = nn.Linear(text_width, projection_dim, bias=False)
        self.visual_projection = nn.Linear(vision_width, projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))
        nn.init.normal_(self.text_projection.weight, std=text_width**-0.5)
        nn.init.normal_(self.visual_projection.weight, std=vision_width**-0.5)

    @classmethod
    def of_config(cls, config: CLIPConfig) -> CLIPModel:
        """New towers of the sizes that a config says."""
        text, vision = CLIPTextModel(config.text), CLIPVisionModel(config.vision)
        return cls(text, vision, config.projection_dim, config.logit_scale_init_value)

    def text_encoder(self) -> CLIPTextModel:
        """The text tower alone, sharing these weights: what a pipeline's text encoder is."""
        return CLIPTextModel(self.config.text, self.text_model)

    def image_encoder(self) -> CLIPVisionModel:
        """The image tower alone with its projection, sharing these weights."""
        encoder = CLIPVisionModel(replace(self.config.vision, with_projection=True), self.vision_model)
        encoder.visual_projection = self.visual_projection
        return encoder

    def encode_text(self, ids: Tensor) -> Tensor:
        """Unit vectors [B P] of ids [B L]."""
        found: TextOutput = self.text_model(ids)
        return F.normalize(self.text_projection(found.pooled), dim=-1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Unit vectors [B P] of pixels [B 3 H W] in the units of `normalise`."""
        found: VisionOutput = self.vision_model(pixels)
        return F.normalize(self.visual_projection(found.pooled), dim=-1)

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Logits [T B] of T texts against B pictures: cosines times exp(logit_scale) (arXiv:2103.00020, figure 3)."""
        return self.logit_scale.exp() * self.encode_text(ids) @ self.encode_image(pixels).T
