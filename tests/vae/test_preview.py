"""Small pictures of latents, by a fit that the autoencoder itself tells."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mezzotint.vae.codec import Codec
from mezzotint.vae.preview import LatentPreview, fit
from mezzotint.vae.tiny import TinyAutoencoder
from mezzotint.vae.tiny_config import TinyAutoencoderConfig

FACTOR = 4
MIX = torch.tensor([[0.5, 0.2, -0.1], [0.1, -0.6, 0.3], [0.0, 0.3, 0.7], [0.2, 0.2, 0.2]])


class Linear(nn.Module):
    """An autoencoder whose latents are a linear function of the mean colour of each square."""

    class Config:
        factor, latent_channels, scaling_factor, shift_factor = FACTOR, 4, 0.5, 0.1

    class Latent:
        def __init__(self, mean):
            self.mean = mean

    def __init__(self, encoder=True):
        super().__init__()
        self.config = self.Config()
        self.encoder = nn.Identity() if encoder else None
        self.mix = nn.Parameter(MIX.clone())
        self.calls = 0

    def encode(self, pixels):
        self.calls += 1
        return self.Latent(torch.einsum("zc,bchw->bzhw", self.mix, F.avg_pool2d(pixels, FACTOR)) + 0.3)

    def decode(self, z):
        self.calls += 1
        pixels = torch.einsum("cz,bzhw->bchw", torch.linalg.pinv(self.mix), z - 0.3)
        return F.interpolate(pixels, scale_factor=float(FACTOR), mode="nearest")


@pytest.mark.parametrize("encoder", [True, False])
def test_a_linear_autoencoder_is_found_exactly(encoder):
    codec = Codec(Linear(encoder))
    truth = Codec(Linear())
    pixels = F.interpolate(torch.rand(2, 3, 5, 6) * 0.5, scale_factor=4.0)
    latents = truth.encode(pixels)
    weight, bias = fit(codec)
    told = torch.einsum("cz,bzhw->bchw", weight, latents) + bias[:, None, None]
    # Without an encoder the codec clamps what chance makes too bright, so the fit is not exact then.
    error = float((told - F.avg_pool2d(pixels, FACTOR)).detach().abs().max())
    assert error < (1e-4 if encoder else 0.4)


def test_pictures_have_a_pixel_a_place_or_a_square():
    codec = Codec(Linear())
    pixels = torch.zeros(1, 3, 8, 12)
    pixels[:, 0] = 1.0
    pixels[:, 2, :, 4:] = -1.0
    with torch.no_grad():
        latents = codec.encode(pixels)
    (small,) = LatentPreview.of(codec)(latents)
    assert small.size == (3, 2)
    assert small.mode == "RGB"
    for place, colour in {(0, 0): (255, 128, 128), (2, 1): (255, 128, 0)}.items():
        assert all(abs(a - b) <= 1 for a, b in zip(small.getpixel(place), colour, strict=True))
    (large,) = LatentPreview.of(codec)(latents, times=4)
    assert large.size == (12, 8)
    assert large.getpixel((11, 7)) == small.getpixel((2, 1))
    assert len(LatentPreview.of(codec)(latents.repeat(3, 1, 1, 1))) == 3


def test_it_is_found_once_for_an_autoencoder_and_when_it_is_asked_for():
    network = Linear()
    codec = Codec(network)
    assert network.calls == 0
    assert LatentPreview.of(codec) is LatentPreview.of(Codec(network))
    assert network.calls == 1
    assert LatentPreview.of(Codec(Linear())) is not LatentPreview.of(codec)


def test_a_tiny_decoder_alone_will_do():
    torch.manual_seed(0)
    config = TinyAutoencoderConfig(
        encoder_block_out_channels=(),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(),
        num_decoder_blocks=(1, 1),
    )
    (picture,) = LatentPreview.of(Codec(TinyAutoencoder(config)))(torch.randn(1, 4, 3, 5))
    assert picture.size == (5, 3)
