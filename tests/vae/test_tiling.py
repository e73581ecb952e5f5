"""The autoencoder in bands gives what it gives in one piece."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mezzotint.vae import tiling
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import WHOLE, Codec
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.vae.tiling import Held, Upsampled, bands, hold, statistics
from mezzotint.vae.tiny import TinyAutoencoder
from mezzotint.vae.tiny_config import TinyAutoencoderConfig

# Sums of up to a few thousand fp32 products in another order, through some twenty layers.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def narrow(monkeypatch):
    """Bands of one or a few rows, and a few queries at a time."""
    monkeypatch.setattr(tiling, "BAND", 64)
    monkeypatch.setattr(tiling, "SCORES", 1000)


def autoencoder(**others) -> Autoencoder:
    torch.manual_seed(0)
    made = Autoencoder(AutoencoderConfig.of_widths(8, 16, 16, norm_num_groups=4, **others)).eval()
    for parameter in made.parameters():  # biases and norms that are not 0 and 1
        nn.init.normal_(parameter, std=0.3)
    return made


CONFIGS = [{}, {"layers_per_block": 2, "act_fn": "gelu"}, {"mid_block_add_attention": False, "use_quant_conv": False}]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("size", [(12, 7), (5, 16), (1, 1)])
def test_it_decodes_the_same(config, size):
    made, z = autoencoder(**config), torch.randn(2, 4, *size)
    with torch.inference_mode():
        torch.testing.assert_close(tiling.decode(made, z), made.decode(z), **TOLERANCE)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("size", [(48, 28), (20, 64), (4, 4), (30, 18)])
def test_it_encodes_the_same(config, size):
    made, pixels = autoencoder(**config), torch.randn(2, 3, *size)
    with torch.inference_mode():
        mine, whole = tiling.encode(made, pixels), made.encode(pixels)
        torch.testing.assert_close(mine.mean, whole.mean, **TOLERANCE)
        torch.testing.assert_close(mine.logvar, whole.logvar, **TOLERANCE)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_the_tiny_one_too(mode):
    torch.manual_seed(0)
    config = TinyAutoencoderConfig(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(2, 2, 1),
        upsample_fn=mode,
    )
    made = TinyAutoencoder(config).eval()
    z, pixels = torch.randn(2, 4, 9, 6), torch.randn(2, 3, 36, 20)
    with torch.inference_mode():
        torch.testing.assert_close(tiling.decode(made, z), made.decode(z), **TOLERANCE)
        torch.testing.assert_close(tiling.encode(made, pixels).mean, made.encode(pixels).mean, **TOLERANCE)


@pytest.mark.usefixtures("narrow")
def test_no_band_is_an_edge():
    """A change at one place of the latent reaches pixels across bands just as it does in one piece."""
    made, z = autoencoder(mid_block_add_attention=False), torch.randn(1, 4, 12, 8)
    other = z.clone()
    other[:, :, 6, 4] += 1
    with torch.inference_mode():
        mine = (tiling.decode(made, other) - tiling.decode(made, z)).abs().amax((0, 1, 3))
        whole = (made.decode(other) - made.decode(z)).abs().amax((0, 1, 3))
    torch.testing.assert_close(mine, whole, rtol=1e-3, atol=1e-4)
    assert int((mine > 1e-3).sum()) > 16


@pytest.mark.usefixtures("narrow")
def test_statistics_of_bands_are_those_of_the_whole():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 37, 5) * 0.01 + 100  # where a mean of squares less a squared mean would lose all digits
    mean, variance = statistics(Held(x), 4)
    parts = x.double().unflatten(1, (4, 2)).flatten(2)
    torch.testing.assert_close(mean, parts.mean(2), rtol=1e-7, atol=0)
    # Each band's variance is worked out in fp32 of numbers whose last digit is worth 8e-6.
    torch.testing.assert_close(variance, parts.var(2, correction=0), rtol=1e-3, atol=0)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("width", [7, 64, 200])
def test_a_map_may_be_written_over_what_it_reads(width):
    torch.manual_seed(0)
    x, layer = torch.randn(1, 4, 19, width), nn.Conv2d(4, 4, 3, padding=1)
    with torch.inference_mode():
        want = layer(x)
        held = Held(x.clone())
        got = hold(tiling.Convolved(held, layer), over=held)
    assert got.x.data_ptr() == held.x.data_ptr()
    torch.testing.assert_close(got.x, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [(0, 1), (1, 2), (3, 8), (0, 10), (9, 10)])
def test_rows_of_an_upsampled_map(rows):
    x = torch.randn(1, 2, 5, 3)
    whole = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(Upsampled(Held(x)).rows(*rows), whole[:, :, slice(*rows)])


@pytest.mark.usefixtures("narrow")
def test_bands_cover_a_map():
    covered = [row for a, b in bands(Held(torch.zeros(1, 1, 23, 20))) for row in range(a, b)]
    assert covered == list(range(23))


@pytest.mark.usefixtures("narrow")
def test_half_precision_stays_what_it_is():
    made, z = autoencoder().to(torch.bfloat16), torch.randn(1, 4, 6, 6, dtype=torch.bfloat16)
    with torch.inference_mode():
        mine, whole = tiling.decode(made, z), made.decode(z)
    assert mine.dtype == torch.bfloat16
    # bf16 keeps 8 bits, and each of some twenty layers rounds.
    assert float((mine - whole).float().std() / whole.float().std()) < 0.05


def test_the_codec_takes_bands_for_large_pictures_where_no_gradient_is_wanted(monkeypatch):
    called = []
    for name in ("encode", "decode"):
        plain = getattr(tiling, name)
        monkeypatch.setattr(tiling, name, lambda *given, plain=plain, name=name: called.append(name) or plain(*given))
    monkeypatch.setattr("mezzotint.vae.codec.WHOLE", 16 * 16)
    codec = Codec(autoencoder())
    with torch.inference_mode():
        codec.decode(torch.randn(3, 4, 4, 4)), codec.encode(torch.randn(3, 3, 16, 16))
        assert called == []
        large = codec.decode(torch.randn(1, 4, 4, 5))
        codec.encode(large)
        assert called == ["decode", "encode"]
        codec.decode(torch.randn(1, 4, 4, 5), bands=False), codec.encode(large, bands=False)
        assert called == ["decode", "encode"]
        codec.decode(torch.randn(1, 4, 1, 1), bands=True), codec.encode(large[:, :, :4, :4], bands=True)
        assert called == ["decode", "encode"] * 2
    codec.decode(torch.randn(1, 4, 4, 5)).sum().backward()
    assert called == ["decode", "encode"] * 2
    assert WHOLE == 1024 * 1024


def test_rows_asked_for_again_are_not_worked_out_again():
    class Counted(Held):
        asked = 0

        def rows(self, a, b):
            self.asked += 1
            return super().rows(a, b)

    source = Counted(torch.randn(1, 2, 9, 3))
    recent = tiling.Recent(source)
    for a, b in ((2, 7), (3, 6), (2, 7), (6, 7)):
        assert torch.equal(recent.rows(a, b), source.x[:, :, a:b])
    assert source.asked == 1
    assert torch.equal(recent.rows(0, 3), source.x[:, :, :3])
    assert source.asked == 2
