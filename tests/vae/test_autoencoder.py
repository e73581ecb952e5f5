"""The autoencoder and the codec, by closed forms and properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mezzotint.types import UserError
from mezzotint.vae import Autoencoder, AutoencoderConfig, Codec, Moments, from_uint8, to_uint8

TINY = AutoencoderConfig.of_widths(8, 16, norm_num_groups=4, scaling_factor=0.5)


def test_kl_of_known_gaussians() -> None:
    shape = (2, 4, 3, 3)
    standard = Moments(torch.zeros(shape), torch.zeros(shape))
    assert standard.kl().tolist() == [0.0, 0.0]
    shifted = Moments(torch.full(shape, 2.0), torch.zeros(shape))  # mean^2 / 2 a dimension
    torch.testing.assert_close(shifted.kl(), torch.full((2,), 36 * 2.0))
    wide = Moments(torch.zeros(shape), torch.full(shape, math.log(4.0)))  # (s^2 - 1) / 2 - ln s a dimension
    torch.testing.assert_close(wide.kl(), torch.full((2,), 36 * (1.5 - math.log(2.0))))


def test_kl_is_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    moments = Moments(torch.randn(3, 2, 4, 4, generator=generator), torch.randn(3, 2, 4, 4, generator=generator))
    q = torch.distributions.Normal(moments.mean, moments.std)
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(moments.kl(), expected)


def test_sample_is_mean_and_std_times_noise() -> None:
    moments = Moments(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), math.log(0.25)))
    assert torch.equal(moments.sample(torch.zeros(1, 1, 2, 2)), moments.mean)
    torch.testing.assert_close(moments.sample(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 3.5))


def test_logvar_is_clamped() -> None:
    model = Autoencoder(TINY)
    with torch.no_grad():
        model.quant_conv.weight.zero_()
        model.quant_conv.bias.copy_(torch.tensor([0.0] * 4 + [-1e3, 1e3, 0.0, 1.0]))
        logvar = model.encode(torch.zeros(1, 3, 4, 4)).logvar
    assert logvar[0, :, 0, 0].tolist() == [-30.0, 20.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_and_bf16_agree_with_float32(dtype: torch.dtype) -> None:
    model = Autoencoder(TINY).eval()
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = model(pixels)[0]
        model.to(dtype=dtype, memory_format=torch.channels_last)
        found = model(pixels.to(dtype=dtype, memory_format=torch.channels_last))[0]
    assert found.dtype == dtype
    # bfloat16 has 8 bits of mantissa: 2^-8 a step, over about twenty layers of values near 1.
    tolerance = 1e-5 if dtype == torch.float32 else 0.08
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)


def test_a_gradient_step_lowers_the_loss_and_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    model = Autoencoder(TINY)
    pixels, noise = torch.rand(2, 3, 8, 8) * 2 - 1, torch.randn(2, 4, 4, 4)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses: list[float] = []
    for _ in range(2):
        found, moments = model(pixels, noise)
        loss = (found - pixels).square().mean() + 1e-3 * moments.kl().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("shift", [None, 0.25])
def test_codec_scales_by_the_config(shift: float | None) -> None:
    config = AutoencoderConfig.of_widths(8, 16, norm_num_groups=4, scaling_factor=0.5, shift_factor=shift)
    model = Autoencoder(config).eval()
    codec = Codec(model)
    pixels = torch.rand(1, 3, 8, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = model.encode(pixels).mean
        latent = codec.encode(pixels)
        torch.testing.assert_close(latent, (mean - (0.0 if shift is None else shift)) * 0.5)
        torch.testing.assert_close(codec.decode(latent), model.decode(mean).clamp(-1, 1))
    assert latent.shape == (1, codec.channels, 8 // codec.factor, 4 // codec.factor)


def test_codec_follows_the_dtype_of_its_autoencoder() -> None:
    codec = Codec(Autoencoder(TINY).to(torch.bfloat16))
    with torch.no_grad():
        assert codec.decode(torch.zeros(1, 4, 2, 2)).dtype == torch.bfloat16


def test_codec_refuses_a_size_that_does_not_fit() -> None:
    with pytest.raises(UserError, match="multiples of 2"):
        Codec(Autoencoder(TINY)).encode(torch.zeros(1, 3, 7, 8))


def test_bytes_survive_a_round_trip() -> None:
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    pixels = from_uint8(every)
    assert pixels.shape == (1, 3, 16, 16)
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert torch.equal(to_uint8(pixels), every)
    assert to_uint8(torch.tensor([-9.0, 0.0, 9.0]).reshape(1, 3, 1, 1)).tolist() == [[[[0, 128, 255]]]]


def test_config_round_trip_and_defaults() -> None:
    assert AutoencoderConfig.from_dict(TINY.to_dict()) == TINY
    assert AutoencoderConfig.from_dict({"_diffusers_version": "0.6.0", "conv_shortcut": None}) == AutoencoderConfig()
    Autoencoder(AutoencoderConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temporal_layers": 2}, "temporal_layers"),
        ({"latents_mean": [0.0]}, "latents_mean"),
        ({"block_out_channels": [30]}, "norm_num_groups"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"block_out_channels": [32, 32]}, "down_block_types"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "down_block_types"),
        ({"act_fn": "tanh"}, "act_fn"),
        ({"scaling_factor": 0.0}, "scaling_factor"),
        ({"latent_channels": 0}, "latent_channels"),
    ],
)
def test_bad_configs_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AutoencoderConfig.from_dict(values)
