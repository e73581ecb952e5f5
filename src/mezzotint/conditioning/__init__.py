"""What the user gives (text, pictures) to the Conditioning that the U-Net reads.

Importing this, or the configs, imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mezzotint.conditioning.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig

if TYPE_CHECKING:
    from mezzotint.conditioning.bert import LDMBertModel
    from mezzotint.conditioning.clip import (
        CLIPModel,
        CLIPTextModel,
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

HOMES = {
    "CLIPModel": "clip",
    "CLIPTextModel": "clip",
    "CLIPVisionModel": "clip",
    "Conditioner": "text",
    "LDMBertModel": "bert",
    "SizeNumbers": "sizes",
    "SizedConditioner": "sizes",
    "TextConditioner": "text",
    "TextOutput": "clip",
    "VisionOutput": "clip",
    "normalise": "clip",
}
"""The modules that import torch, by the names that they hold."""


def __getattr__(name: str) -> Any:
    """What imports torch, imported when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
