"""The tiny autoencoder: a few convolutions in the place of the big one, for the same scaled latents.

B pictures, H W their height and width in pixels, h w those of the latent, z the latent's channels, C channels inside.
It is TAESD (github.com/madebyollin/taesd), a network distilled from an autoencoder whose latents it gives and takes as
the U-Net reads them. Parameters carry the names of diffusers' AutoencoderTiny.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.types import UserError
from mezzotint.vae.autoencoder import ACTIVATIONS
from mezzotint.vae.tiny_config import TinyAutoencoderConfig

BOUND = 3.0
"""Beyond about this a latent is squeezed before it is decoded: tanh(z / 3) * 3."""


@dataclass(frozen=True)
class Point:
    """A latent without a spread: what the tiny encoder gives in place of a Gaussian's moments."""

    mean: Tensor


class Activation(nn.Module):
    """The activation of that name, without parameters, so that it takes a place among numbered layers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        return self.act(x)


class Enlarge(nn.Module):
    """Make height and width so many times larger."""

    def __init__(self, times: int, mode: str) -> None:
        super().__init__()
        self.times, self.mode = float(times), mode

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C times*h times*w]."""
        return F.interpolate(x, scale_factor=self.times, mode=self.mode)


class TinyBlock(nn.Module):
    """Three 3x3 convolutions added to their input, then a ReLU: [B C h w] -> [B C h w]."""

    def __init__(self, channels: int, act_fn: str) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(channels, channels),
            Activation(act_fn),
            conv(channels, channels),
            Activation(act_fn),
            conv(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]."""
        return F.relu(self.conv(x) + x)  # ReLU whatever act_fn says: so it is in diffusers.


class TinyEncoder(nn.Module):
    """Pixels [B in H W] in [-1, 1] to a latent [B z h w]."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width = config.encoder_block_out_channels[0]
        layers: list[nn.Module] = []
        for level, blocks in enumerate(config.num_encoder_blocks):
            layers.append(conv(config.in_channels, width) if level == 0 else conv(width, width, stride=2, bias=False))
            layers += [TinyBlock(width, config.act_fn) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, conv(width, config.latent_channels))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B in H W] -> [B z h w]."""
        return self.layers((pixels + 1) / 2)


class TinyDecoder(nn.Module):
    """A latent [B z h w] to pixels [B out H W], about [-1, 1]."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        width = config.decoder_block_out_channels[0]
        layers: list[nn.Module] = [conv(config.latent_channels, width), Activation(config.act_fn)]
        for level, blocks in enumerate(config.num_decoder_blocks):
            if level > 0:
                layers += [
                    Enlarge(config.upsampling_scaling_factor, config.upsample_fn),
                    conv(width, width, bias=False),
                ]
            layers += [TinyBlock(width, config.act_fn) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, conv(width, config.out_channels))

    def forward(self, z: Tensor) -> Tensor:
        """[B z h w] -> [B out H W]."""
        return self.layers(torch.tanh(z / BOUND) * BOUND) * 2 - 1


class TinyAutoencoder(nn.Module):
    """The network of diffusers' AutoencoderTiny, or one half of it."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config) if "encoder" in config.halves else None
        self.decoder = TinyDecoder(config) if "decoder" in config.halves else None

    def encode(self, pixels: Tensor) -> Point:
        """The latent of pixels [B in H W] in [-1, 1]; h = H / config.factor. Raises UserError without an encoder."""
        if self.encoder is None:
            raise UserError("The tiny autoencoder has only a decoder, so no picture can be read: give one with both.")
        return Point(self.encoder(pixels))

    def decode(self, z: Tensor) -> Tensor:
        """Pixels [B out H W], about [-1, 1] and not clamped, of a latent [B z h w]. Raises UserError as `encode`."""
        if self.decoder is None:
            raise UserError("The tiny autoencoder has only an encoder, so nothing can be drawn: give one with both.")
        return self.decoder(z)


def conv(channels_in: int, channels_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width, or halves them with stride 2."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=bias)
