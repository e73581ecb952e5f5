"""A tiny model to put adapters on, and what the latent diffusion code calls its U-Net's tensors."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

    from mezzotint.store.folder import Parts
    from mezzotint.store.keymap import Piece
    from mezzotint.store.lora.names import Layers

LDM_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""The tiny U-Net's blocks, by hand."""
LDM_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def ldm_layer(layer: str) -> str:
    """What the latent diffusion code calls a layer of the tiny U-Net."""
    block = max((block for block in LDM_BLOCKS if f"{layer}.".startswith(f"{block}.")), key=len)
    rest = layer.removeprefix(block)
    if ".resnets." in block and rest:
        rest = "." + LDM_RESNET[rest[1:]]
    return LDM_BLOCKS[block] + rest


@pytest.fixture
def model(tiny_parts: Parts) -> dict[str, nn.Module]:
    """The tiny model's own copy for one test."""
    return {"unet": copy.deepcopy(tiny_parts.unet), "text_encoder": copy.deepcopy(tiny_parts.text_encoder)}


@pytest.fixture
def places(model: dict[str, nn.Module]) -> dict[str, Piece]:
    from mezzotint.store.keymap import Piece

    return {
        name: Piece(f"{ldm_layer(name.rpartition('.')[0])}.{name.rpartition('.')[2]}")
        for name, _ in model["unet"].named_parameters()
    }


@pytest.fixture
def layers(model: dict[str, nn.Module], places: dict[str, Piece]) -> Layers:
    from mezzotint.store.lora.read import layers_of

    return layers_of(model, places)
