"""The autoencoder against diffusers' AutoencoderKL: names, shapes and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from mezzotint.vae import Autoencoder, AutoencoderConfig, Codec

# The same float32 operations in the same order up to fused attention: a few units in the last place, grown by depth.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

TINY = AutoencoderConfig.of_widths(8, 16, norm_num_groups=4)
CONFIGS = {
    "tiny": TINY,
    "four levels": AutoencoderConfig.of_widths(8, 8, 16, 16, norm_num_groups=4, layers_per_block=2),
    "wide latent without quantising": AutoencoderConfig.of_widths(
        8, 16, norm_num_groups=8, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
    ),
    "no attention": AutoencoderConfig.of_widths(
        8, norm_num_groups=2, mid_block_add_attention=False, layers_per_block=3
    ),
    "mish, one channel in": AutoencoderConfig.of_widths(12, 8, 4, norm_num_groups=2, act_fn="mish", in_channels=1),
}
STABLE_DIFFUSION_1 = AutoencoderConfig.of_widths(128, 256, 512, 512, layers_per_block=2, sample_size=512)


def theirs_of(config: AutoencoderConfig) -> Any:
    return AutoencoderKL.from_config(config.to_dict()).eval()


def randomise(module: torch.nn.Module) -> None:
    """Every parameter random, so that biases and norms count too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_numbers_agree_both_ways(config: AutoencoderConfig) -> None:
    ours, theirs = Autoencoder(config).eval(), theirs_of(config)
    randomise(ours)
    theirs.load_state_dict(ours.state_dict())  # strict
    side = 4 * config.factor
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, config.in_channels, side, 2 * side, generator=generator)
    with torch.no_grad():
        expected = theirs.encode(pixels).latent_dist
        moments = ours.encode(pixels)
        torch.testing.assert_close(moments.mean, expected.mean, **TOLERANCE)
        torch.testing.assert_close(moments.logvar, expected.logvar, **TOLERANCE)
        torch.testing.assert_close(moments.kl(), expected.kl(), **TOLERANCE)
        torch.testing.assert_close(ours.decode(moments.mean), theirs.decode(moments.mean).sample, **TOLERANCE)

    again = Autoencoder(config)
    again.load_state_dict(theirs.state_dict())  # strict
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


def test_gradients_agree() -> None:
    ours, theirs = Autoencoder(TINY), theirs_of(TINY)
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours(pixels)[0].square().mean().backward()
    theirs(pixels).sample.square().mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_stable_diffusion_shapes() -> None:
    with torch.device("meta"):
        ours, theirs = Autoencoder(STABLE_DIFFUSION_1), theirs_of(STABLE_DIFFUSION_1)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == shapes
    assert len(shapes) == 248


def test_a_saved_folder_loads_in_diffusers(tmp_path: Path) -> None:
    ours = Autoencoder(TINY).eval()
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    save_file(ours.state_dict(), tmp_path / "diffusion_pytorch_model.safetensors")
    theirs, info = AutoencoderKL.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert AutoencoderConfig.from_dict(dict(theirs.config)) == TINY
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.decode(latent / theirs.config.scaling_factor).sample.clamp(-1, 1)
        torch.testing.assert_close(Codec(ours).decode(latent), expected, **TOLERANCE)
