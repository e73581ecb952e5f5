"""What the user gives (text, pictures) to the Conditioning that the U-Net reads."""

from __future__ import annotations

from mezzotint.conditioning.bert import LDMBertConfig, LDMBertModel
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
from mezzotint.conditioning.sizes import SizedConditioner, SizeNumbers
from mezzotint.conditioning.text import Conditioner, TextConditioner

__all__ = [
    "CLIPConfig",
    "CLIPModel",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPVisionConfig",
    "CLIPVisionModel",
    "Conditioner",
    "LDMBertConfig",
    "LDMBertModel",
    "SizeNumbers",
    "SizedConditioner",
    "TextConditioner",
    "TextOutput",
    "VisionOutput",
    "normalise",
]
