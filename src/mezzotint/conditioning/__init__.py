"""What the user gives (text, pictures) to the Conditioning that the U-Net reads."""

from __future__ import annotations

from .clip import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    TextOutput,
    VisionOutput,
    normalise,
)
from .text import TextConditioner

__all__ = [
    "CLIPConfig",
    "CLIPModel",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "TextConditioner",
    "TextOutput",
    "VisionOutput",
    "normalise",
]
