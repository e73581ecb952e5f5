"""The U-Net against diffusers' UNet2DConditionModel: names, shapes and numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.layers import sinusoid

# The same float32 operations, summed in another order where memory lies otherwise: relative to the largest value.
TOLERANCE = 1e-5

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SIZES = 6  # SDXL's time_ids: original size, crop, target size

TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": [CROSS_DOWN, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", CROSS_UP],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
}
XL = {
    "down_block_types": ["DownBlock2D", CROSS_DOWN],
    "up_block_types": [CROSS_UP, "UpBlock2D"],
    "attention_head_dim": [2, 4],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 10 + SIZES * 8,
    "upcast_attention": None,
}
CONFIGS: dict[str, dict[str, Any]] = {
    # 8 is the number of heads, not their width: the quirk of `attention_head_dim`.
    "SD 1": TINY | {"attention_head_dim": 8, "layers_per_block": 2},
    "SD 2": TINY | {"attention_head_dim": [2, 4], "use_linear_projection": True, "upcast_attention": True},
    "SDXL": TINY | XL | {"transformer_layers_per_block": [1, 3]},
    "SDXL refiner": TINY | XL | {"transformer_layers_per_block": 2},
    "inpainting, three levels": TINY
    | {
        "in_channels": 9,
        "block_out_channels": [16, 32, 32],
        "down_block_types": [CROSS_DOWN, CROSS_DOWN, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", CROSS_UP, CROSS_UP],
    },
    "unCLIP": TINY | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
    "no middle, sines first": TINY | {"mid_block_type": None, "flip_sin_to_cos": False, "freq_shift": 1},
}

SD_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD_2 = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "upcast_attention": True,
}
SDXL = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
    "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": [384, 768, 1536, 1536],
    "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", CROSS_UP, CROSS_UP, "UpBlock2D"],
    "cross_attention_dim": 1280,
    "attention_head_dim": [6, 12, 24, 24],
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
RELEASED: dict[str, dict[str, Any]] = {
    "SD 1.5": SD_1,
    "SD 1.5 inpainting": SD_1 | {"in_channels": 9},
    "SD 2.1": SD_2,
    "SD 2 depth": SD_2 | {"in_channels": 5},
    "SDXL": SDXL,
    "SDXL refiner": REFINER,
}


def theirs_of(config: dict[str, Any]) -> Any:
    return UNet2DConditionModel(**config).eval()


def pair(config: dict[str, Any]) -> tuple[UNet, Any]:
    """Both networks with the same weights, every one of them random, so that biases and norms count too."""
    torch.manual_seed(0)
    theirs = theirs_of(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    ours = UNet(UNetConfig.from_dict(dict(theirs.config))).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(config: dict[str, Any], size: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One batch, as ours and theirs are called."""
    x = torch.randn(2, config.get("in_channels", 4), *size)
    t = torch.tensor([3.0, 987.25])
    sequence = torch.randn(2, 7, config["cross_attention_dim"])
    ours: dict[str, Any] = {"x": x, "t": t, "sequence": sequence}
    theirs: dict[str, Any] = {"sample": x, "timestep": t, "encoder_hidden_states": sequence}
    if config.get("addition_embed_type") is not None:
        text, sizes = torch.randn(2, 10), torch.randint(0, 1024, (2, SIZES)).float()
        width = config["addition_time_embed_dim"]
        ours["pooled"] = torch.cat([text, sinusoid(sizes, width).flatten(1)], dim=1)
        theirs["added_cond_kwargs"] = {"text_embeds": text, "time_ids": sizes}
    elif config.get("class_embed_type") is not None:
        ours["pooled"] = theirs["class_labels"] = torch.randn(2, 12)
    return ours, theirs


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("size", [(8, 8), (7, 5)], ids=["even", "odd"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_numbers_agree(config: dict[str, Any], size: tuple[int, int]) -> None:
    ours, theirs = pair(config)
    mine, yours = inputs(config, size)
    with torch.no_grad():
        expected = theirs(**yours).sample
        assert_near(ours(**mine), expected)
        assert_near(ours.to(memory_format=torch.channels_last)(**mine), expected)


@pytest.mark.parametrize("config", [CONFIGS["SD 1"], CONFIGS["SDXL"]], ids=["SD 1", "SDXL"])
def test_gradients_agree(config: dict[str, Any]) -> None:
    ours, theirs = pair(config)
    mine, yours = inputs(config, (8, 8))
    ours(**mine).square().mean().backward()
    theirs(**yours).sample.square().mean().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        # A gradient sums over the batch and every position, so its rounding error is that of a longer sum.
        scale = expected[name].abs().max()
        assert (parameter.grad - expected[name]).abs().max() <= 1e-4 * scale + 1e-7, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_diffusers_reads_the_config_that_we_write(config: dict[str, Any]) -> None:
    ours = UNetConfig.from_dict(config)
    theirs: Any = UNet2DConditionModel.from_config(ours.to_dict())
    theirs.load_state_dict(UNet(ours).state_dict(), strict=True)
    assert UNetConfig.from_dict(dict(theirs.config)) == ours


@pytest.mark.parametrize("config", RELEASED.values(), ids=RELEASED.keys())
def test_released_models_have_the_same_names_and_shapes(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        theirs = theirs_of(config)
        ours = UNet(UNetConfig.from_dict(dict(theirs.config)))
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
