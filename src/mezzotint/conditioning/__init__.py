"""What the user gives (text, pictures) to the Conditioning that the U-Net reads."""

from __future__ import annotations

from mezzotint.conditioning.clip import (
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
from mezzotint.conditioning.text import TextConditioner

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
