"""The tiny autoencoder, by closed forms and properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.types import UserError
from mezzotint.vae import Codec, TinyAutoencoder, TinyAutoencoderConfig

WIDTHS: dict[str, Any] = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
TINY = TinyAutoencoderConfig(**WIDTHS, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
DECODER = TinyAutoencoderConfig(
    encoder_block_out_channels=(), num_encoder_blocks=(), decoder_block_out_channels=(8, 8), num_decoder_blocks=(1, 1)
)
ENCODER = TinyAutoencoderConfig(
    decoder_block_out_channels=(), num_decoder_blocks=(), encoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1)
)


def pixels(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 8, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@torch.no_grad()
def test_what_the_encoder_is_told_lies_between_0_and_1() -> None:
    model = TinyAutoencoder(TINY)
    assert model.encoder is not None
    seen: list[Tensor] = []
    model.encoder.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.encode(pixels())
    torch.testing.assert_close(seen[0], (pixels() + 1) / 2)


@torch.no_grad()
def test_a_latent_is_squeezed_and_pixels_are_stretched() -> None:
    """A decoder of one resolution, whose convolutions hand the middle place on, draws 2 * 3 tanh(z / 3) - 1."""
    model = TinyAutoencoder(
        TinyAutoencoderConfig(
            encoder_block_out_channels=(4,),
            decoder_block_out_channels=(4,),
            num_encoder_blocks=(0,),
            num_decoder_blocks=(0,),
            out_channels=4,
        )
    )
    assert model.decoder is not None
    for layer in model.decoder.layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)
    z = torch.tensor([0.0, 1.0, 3.0, 1e3]).reshape(1, 4, 1, 1)
    expected = [2 * 3 * math.tanh(value / 3) - 1 for value in (0.0, 1.0, 3.0, 1e3)]
    torch.testing.assert_close(model.decode(z).flatten(), torch.tensor(expected))


@torch.no_grad()
def test_a_block_without_weights_is_a_relu() -> None:
    model = TinyAutoencoder(TINY)
    assert model.decoder is not None
    block = model.decoder.layers[2]
    for parameter in block.parameters():
        parameter.zero_()
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.relu())


@torch.no_grad()
def test_the_codec_takes_it_as_any_other() -> None:
    model = TinyAutoencoder(TINY)
    codec = Codec(model)
    latent = codec.encode(pixels())
    assert latent.shape == (2, codec.channels, 4, 2)
    assert torch.equal(latent, model.encode(pixels()).mean)  # the U-Net's own scale, so nothing is multiplied
    drawn = codec.decode(latent)
    assert drawn.shape == pixels().shape
    assert torch.equal(drawn, model.decode(latent).clamp(-1, 1))
    assert Codec(model.to(torch.bfloat16)).decode(latent).dtype == torch.bfloat16


@torch.no_grad()
def test_a_half_does_its_half() -> None:
    latent = torch.zeros(1, 4, 2, 2)
    with pytest.raises(UserError, match="only a decoder"):
        Codec(TinyAutoencoder(DECODER)).encode(pixels())
    assert Codec(TinyAutoencoder(DECODER)).decode(latent).shape == (1, 3, 4, 4)
    with pytest.raises(UserError, match="only an encoder"):
        Codec(TinyAutoencoder(ENCODER)).decode(latent)
    assert Codec(TinyAutoencoder(ENCODER)).encode(pixels()).shape == (2, 4, 4, 2)
    assert (DECODER.halves, ENCODER.halves, TINY.halves) == (("decoder",), ("encoder",), ("encoder", "decoder"))
    for half in (DECODER, ENCODER):
        with pytest.raises(UserError, match="diffusers cannot hold"):
            half.to_dict()


def test_config_round_trip_and_defaults() -> None:
    assert TinyAutoencoderConfig.from_dict(TINY.to_dict()) == TINY
    theirs = {"_diffusers_version": "0.20.0", "block_out_channels": [64, 64, 64, 64], "temporal": None}
    assert TinyAutoencoderConfig.from_dict(theirs) == TinyAutoencoderConfig()
    assert (TINY.factor, TinyAutoencoderConfig().factor, TinyAutoencoderConfig().sample_size) == (2, 8, 512)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temporal_layers": 2}, "temporal_layers"),
        ({"num_encoder_blocks": [1, 3, 3]}, "encoder_block_out_channels"),
        ({"decoder_block_out_channels": [64, 64, 64, 32]}, "one width"),
        ({"num_decoder_blocks": [3, 3, 3, -1]}, "num_decoder_blocks"),
        ({"encoder_block_out_channels": [0, 0, 0, 0]}, "one width"),
        ({"upsampling_scaling_factor": 3}, "8 times smaller and a decoder that makes them 27 times larger"),
        ({"upsampling_scaling_factor": 0}, "upsampling_scaling_factor"),
        ({"act_fn": "tanh"}, "act_fn"),
        ({"upsample_fn": "lanczos"}, "upsample_fn"),
        ({"latent_channels": 0}, "latent_channels"),
        ({"scaling_factor": 0.0}, "scaling_factor"),
        (
            {f"num_{side}_blocks": [] for side in ("encoder", "decoder")}
            | {f"{side}_block_out_channels": [] for side in ("encoder", "decoder")},
            "neither an encoder nor a decoder",
        ),
    ],
)
def test_bad_configs_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TinyAutoencoderConfig.from_dict(values)
