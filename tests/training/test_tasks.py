"""The losses, where their truth is known: exact denoisers, standardised latents, crops, and reading scenes back."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from mezzotint.conditioning.clip import CLIPModel
from mezzotint.conditioning.clip_config import CLIPVisionConfig
from mezzotint.conditioning.clip_text import CLIPTextModel
from mezzotint.conditioning.clip_vision import MEAN, STD, CLIPVisionModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet
from mezzotint.noise.parameterisation import Prediction, scalings
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.folder import Parts
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.training import vae
from mezzotint.training.cells import Cells, cells_loss
from mezzotint.training.clip import (
    ABSENT,
    ATTRIBUTES,
    ORDERS,
    UNSAID,
    CLIPTask,
    ReadOut,
    alike,
    truth_of,
    truth_seen,
    truth_told,
)
from mezzotint.training.data import Folder, Pictures, StillLife
from mezzotint.training.decoder import DecoderTask, Redraw, trained_autoencoder, windows
from mezzotint.training.latents import LatentCache
from mezzotint.training.unet import OFF, DenoiserTask, Segment, level_shares, trained
from mezzotint.training.vae import AutoencoderTask, psnr, random_crops, reconstruction_loss, row_errors, standardise
from mezzotint.training.walks import Ends, Walks
from mezzotint.types import Conditioning, UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import Codec
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.world.captions import Told
from mezzotint.world.scene import COLOURS, SHAPES, Scene, Solid


class Squares:
    """Twelve pictures of noise."""

    size = 16
    identity = "squares"

    def __init__(self) -> None:
        self.all = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 12

    def pixels(self, index: Tensor) -> Tensor:
        self.asked += index.tolist()
        return self.all[index]

    def captions(self, index: Tensor, seed: int) -> list[str]:
        return [f"picture {i}" for i in index.tolist()]


class Known:
    """A codec whose latent of picture i is i / 4 everywhere, exact in half precision."""

    factor, channels = 8, 4

    def encode(self, pixels: Tensor) -> Tensor:
        number = [int((Squares().all == one).flatten(1).all(dim=1).nonzero()) for one in pixels]
        return (torch.tensor(number) / 4)[:, None, None, None].expand(-1, 4, 2, 2)


class Reader:
    """A conditioner that remembers what it was asked, and tells the denoiser which picture it is."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, prompts: list[str]) -> Conditioning:
        self.prompts += prompts
        numbers = [float(prompt.split()[-1]) if prompt else math.nan for prompt in prompts]
        return Conditioning(sequence=torch.tensor(numbers)[:, None, None])


class Exact(nn.Module):
    """Knows each picture's latent, and errs by `error` in the units of the network's own prediction."""

    def __init__(self, prediction: Prediction, error: float) -> None:
        super().__init__()
        zero_snr = prediction is not Prediction.EPSILON
        self.schedule = NoiseSchedule(prediction_type=prediction, rescale_betas_zero_snr=zero_snr)
        self.error = nn.Parameter(torch.tensor(error))
        self.sigmas: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.sequence is not None
        self.sigmas.append(sigma)
        x0 = (conditioning.sequence[:, 0, 0] / 4)[:, None, None, None].expand_as(x)
        c_out = scalings(self.schedule.prediction_type, sigma).c_out.to(x)
        return x0 + self.error * c_out[:, None, None, None]


def denoiser_task(denoiser: Exact, dropout: float = 0.0, **levels: float) -> tuple[DenoiserTask, Reader]:
    reader = Reader()
    task = DenoiserTask(denoiser, reader, Known(), Squares(), caption_dropout=dropout, **levels)  # pyright: ignore
    return task, reader


@pytest.mark.parametrize("prediction", list(Prediction))
def test_the_exact_denoiser_has_no_loss(prediction: Prediction):
    task, _ = denoiser_task(Exact(prediction, 0.0))
    loss, figures = task.loss(torch.arange(8), torch.Generator().manual_seed(0))
    assert loss.item() == 0
    assert {name: value.item() for name, value in figures.items()} == {"low_noise": 0, "high_noise": 0}


@pytest.mark.parametrize("prediction", list(Prediction))
def test_the_loss_is_the_squared_error_of_the_network_s_own_prediction(prediction: Prediction):
    task, _ = denoiser_task(Exact(prediction, 0.5))
    loss, _ = task.loss(torch.arange(8), torch.Generator().manual_seed(0))
    # x0 is up to 3 and c_out down to 0.03, so float32 leaves 1e-5 of the quotient; sigma 4096 takes nothing away.
    assert loss.item() == pytest.approx(0.25, rel=1e-3)


def test_what_is_held_learns_what_the_denoiser_says_already():
    """Above sigma 1 the error of 0.5 is the truth; below it is an error still."""
    task, _ = denoiser_task(Exact(Prediction.V, 0.5), held=1.0)
    loss, figures = task.loss(torch.arange(8), torch.Generator().manual_seed(0))
    assert figures["high_noise"].item() == pytest.approx(0, abs=1e-9)
    assert 0 < loss.item() < 0.25
    loss.backward()
    with torch.no_grad():
        task.network.get_parameter("denoiser.error").add_(0.25)  # What it said before is remembered.
    _, figures = task.loss(torch.arange(8), torch.Generator().manual_seed(0))
    assert figures["high_noise"].item() == pytest.approx(0.0625, rel=1e-3)


def test_states_of_walks_take_the_place_of_pictures():
    denoiser, reader, error = Exact(Prediction.V, 0.5), Reader(), 0.2
    number, sigma = torch.tensor([9, 10, 11]), torch.tensor([0.5, 1.0, 2.0])
    truth = (number / 4 + error)[:, None, None, None].expand(-1, 4, 2, 2)
    walks = Walks(state=torch.zeros(3, 4, 2, 2), sigma=sigma, truth=truth, place=number)
    task = DenoiserTask(denoiser, reader, Known(), Squares(), caption_dropout=0.0, walks=walks, walked=0.5)  # pyright: ignore
    loss, figures = task.loss(torch.arange(8), torch.Generator().manual_seed(0))
    assert all(prompt in {f"picture {i}" for i in number.tolist()} for prompt in reader.prompts[:4])
    assert reader.prompts[4:] == [f"picture {i}" for i in range(4, 8)]
    asked = denoiser.sigmas[0][:4]
    assert torch.isin(asked, sigma).all()
    # It is off the truth by 0.5 c_out - 0.2, which counts by c_out and by how far walks are off.
    c_out = scalings(Prediction.V, asked).c_out
    own = ((0.5 * c_out - error) ** 2 / (c_out**2 + OFF)).mean().item()
    assert figures["walked"].item() == pytest.approx(own, rel=1e-4)
    assert loss.item() == pytest.approx((own + 0.25) / 2, rel=1e-3)
    alone, _ = task.loss(torch.arange(1), torch.Generator().manual_seed(0))  # One at least is a picture.
    assert alone.item() == pytest.approx(0.25, rel=1e-3)


def test_a_batch_sees_the_whole_schedule():
    denoiser = Exact(Prediction.V, 0.0)
    task, _ = denoiser_task(denoiser)
    task.loss(torch.arange(10), torch.Generator().manual_seed(0))
    (sigmas,) = denoiser.sigmas
    table = denoiser.schedule.sigmas
    levels = sorted((table - sigma).abs().argmin().item() for sigma in sigmas.double())
    assert [level // 100 for level in levels] == list(range(10))


@pytest.mark.parametrize(("middle", "breadth"), [(2.0, 1.0), (0.8, 1.0), (1.5, 0.6)])
def test_levels_stand_evenly_or_around_the_focus(middle: float, breadth: float):
    sigmas = NoiseSchedule(rescale_betas_zero_snr=True).sigmas
    assert torch.allclose(level_shares(sigmas, 0.0), torch.arange(1, 1001).double() / 1000)
    focused = level_shares(sigmas, 1.0, middle, breadth)
    # Half of a lognormal lies below its middle, and 68.27% within one standard deviation of its logarithm.
    away = math.exp(breadth)
    below = [focused[sigmas <= sigma][-1].item() for sigma in (middle, middle / away, middle * away)]
    assert below[0] == pytest.approx(0.5, abs=0.01)
    assert below[2] - below[1] == pytest.approx(0.6827, abs=0.01)
    even = level_shares(sigmas, 0.0)
    assert torch.allclose(level_shares(sigmas, 0.5, middle, breadth), (focused + even) / 2)


def test_the_middle_that_is_asked_for_is_trained_around():
    sigmas = []
    for middle in (0.5, 8.0):
        denoiser = Exact(Prediction.V, 0.0)
        task, _ = denoiser_task(denoiser, focus=1.0, middle=middle)
        task.loss(torch.zeros(64, dtype=torch.int64), torch.Generator().manual_seed(0))
        sigmas.append(denoiser.sigmas[0].median().item())
    assert sigmas == pytest.approx([0.5, 8.0], rel=0.2)


def test_captions_are_dropped_at_the_rate_that_is_asked_for():
    for dropout, expected in ((0.0, 0), (1.0, 12)):
        task, reader = denoiser_task(Exact(Prediction.V, 0.0), dropout)
        task.loss(torch.arange(12), torch.Generator().manual_seed(0))
        assert reader.prompts.count("") == expected
    task, reader = denoiser_task(Exact(Prediction.V, 0.0), 0.25)
    for seed in range(100):
        task.loss(torch.arange(12), torch.Generator().manual_seed(seed))
    assert reader.prompts.count("") / 1200 == pytest.approx(0.25, abs=0.05)  # Four deviations.


def test_all_chance_comes_from_the_generator():
    task, _ = denoiser_task(Exact(Prediction.V, 0.3), 0.2)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    task.loss(torch.arange(8), torch.Generator().manual_seed(5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [1, 3])
def test_figures_of_small_batches_are_numbers(count: int):
    task, _ = denoiser_task(Exact(Prediction.V, 0.5))
    _, figures = task.loss(torch.arange(count), torch.Generator().manual_seed(0))
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(
        {"low_noise": 0.25, "high_noise": 0.25}, rel=1e-3
    )


def test_every_picture_is_encoded_once():
    pictures = Squares()
    cache = LatentCache(pictures, Known())  # pyright: ignore
    index = torch.tensor([3, 3, 5])
    assert torch.equal(cache(index)[:, 0, 0, 0], torch.tensor([0.75, 0.75, 1.25]))
    assert torch.equal(cache(torch.tensor([5, 7]))[:, 0, 0, 0], torch.tensor([1.25, 1.75]))
    assert pictures.asked == [3, 5, 7]


@pytest.fixture
def autoencoder() -> Autoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Autoencoder(AutoencoderConfig.of_widths(8, 8, norm_num_groups=4, layers_per_block=1))


def test_latents_are_found_again(tmp_path: Path, autoencoder: Autoencoder):
    """By a resumed run and by other processes: what one has encoded, no other encodes."""
    first, again = Squares(), Squares()
    one, other = LatentCache(first, Codec(autoencoder), tmp_path), LatentCache(again, Codec(autoencoder), tmp_path)
    latents = one(torch.tensor([2, 7]))
    assert torch.equal(other(torch.tensor([7, 2])), latents.flip(0))
    assert again.asked == []
    assert torch.equal(LatentCache(again, Codec(autoencoder))(torch.tensor([2, 7])), latents)
    resumed = Squares()
    assert torch.equal(LatentCache(resumed, Codec(autoencoder), tmp_path)(torch.tensor([2, 3]))[:1], latents[:1])
    assert resumed.asked == [3]


@pytest.mark.parametrize("change", ["weights", "config", "pictures"])
def test_latents_of_another_autoencoder_or_other_pictures_are_not_used(
    tmp_path: Path, autoencoder: Autoencoder, change: str
):
    LatentCache(Squares(), Codec(autoencoder), tmp_path)(torch.arange(12))
    before = {path.name for path in tmp_path.iterdir()}
    pictures = Squares()
    if change == "weights":
        with torch.no_grad():
            autoencoder.encoder.conv_in.bias.add_(1)  # pyright: ignore[reportOptionalMemberAccess]
    elif change == "config":
        state = autoencoder.state_dict()
        autoencoder = Autoencoder(replace(autoencoder.config, scaling_factor=0.5))
        autoencoder.load_state_dict(state)
    else:
        pictures.identity = "squares, one of them painted over"
    latents = LatentCache(pictures, Codec(autoencoder), tmp_path)(torch.arange(12))
    assert pictures.asked == list(range(12))
    assert torch.equal(latents, LatentCache(Squares(), Codec(autoencoder))(torch.arange(12)))
    after = {path.name for path in tmp_path.iterdir()}
    assert len(after) == len(before) == 2  # What is of no use is not kept.
    assert not after & before


@torch.no_grad()
def test_standardising_changes_latents_and_not_pictures(autoencoder: Autoencoder):
    pictures = Squares()
    before = autoencoder.encode(pictures.all)
    drawn = autoencoder.decode(before.mean)
    standardise(autoencoder, pictures)
    after = autoencoder.encode(pictures.all)
    # Two float32 products of 4 channels more, on values of order 1.
    torch.testing.assert_close(autoencoder.decode(after.mean), drawn, rtol=1e-4, atol=1e-4)
    latents = after.mean.transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(dim=1), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(dim=1), torch.ones(4), rtol=1e-4, atol=0)
    # The noise that the encoder adds is scaled alike.
    deviation = before.mean.transpose(0, 1).flatten(1).std(dim=1)[:, None, None]
    torch.testing.assert_close(after.std * deviation, before.std, rtol=1e-3, atol=1e-5)


def test_an_autoencoder_without_its_small_convolutions():
    config = AutoencoderConfig.of_widths(8, 8, norm_num_groups=4, layers_per_block=1, use_quant_conv=False)
    with pytest.raises(UserError, match="use_quant_conv"):
        standardise(Autoencoder(config), Squares())


def test_the_decoder_alone_learns(autoencoder: Autoencoder):
    task = DecoderTask(Codec(autoencoder), Squares(), 16)
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(0))
    loss.backward()
    learning = {name.split(".")[0] for name, p in autoencoder.named_parameters() if p.grad is not None}
    assert learning == {"decoder", "post_quant_conv"}
    assert set(figures) == {"psnr"}
    with torch.no_grad():
        drawn = autoencoder.decode(autoencoder.encode(Squares().all[:4]).mean)
    # Nothing is redrawn: the loss is that of autoencoders, but for latents that are kept in 16 bits.
    assert float(loss.detach()) == pytest.approx(float(reconstruction_loss(drawn, Squares().all[:4])), rel=1e-2)
    assert all(torch.equal(before[name], value) for name, value in autoencoder.state_dict().items())


def test_an_exact_denoiser_redraws_what_was_noised(tiny_parts: Parts):
    """One that tells x0 apart from the noise at once comes back to it, whatever the noise."""
    x0 = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    sigmas: list[Tensor] = []

    class Exact:
        def project(self, conditioning: Conditioning) -> None: ...

        def __call__(self, x: Tensor, sigma: Tensor, *_: object) -> Tensor:
            sigmas.append(sigma)
            return x0

    redraw = Redraw(Exact(), Reader(), Squares())  # pyright: ignore[reportArgumentType]
    drawn, top = redraw(torch.arange(6), x0, torch.Generator().manual_seed(2))
    assert torch.allclose(drawn, x0, atol=1e-5)
    assert torch.equal(sigmas[0], top)
    assert ((top >= 0.3) & (top <= 6)).all()
    assert len(set(top.tolist())) == 6
    assert all((after < before).all() for before, after in pairwise(sigmas))


def test_redrawn_latents_count_less_the_further_they_were_noised(autoencoder: Autoencoder):
    class Far:
        """Redraws nothing, and says that it noised to sigma 3."""

        def __call__(self, index: Tensor, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return x0, torch.full((len(index),), 3.0)

    losses = [
        float(
            DecoderTask(Codec(autoencoder), Squares(), 16, redraw=redraw, share=0.5)  # pyright: ignore[reportArgumentType]
            .loss(torch.arange(4), torch.Generator().manual_seed(0))[0]
            .detach()
        )
        for redraw in (None, Far())
    ]
    with torch.no_grad():
        codec = Codec(autoencoder)
        drawn = autoencoder.decode(codec.unscale(LatentCache(Squares(), codec)(torch.arange(4))))
    truth = Squares().all[:4]
    errors, squares = row_errors(drawn, truth), (drawn - truth).square().flatten(1).mean(dim=1)
    assert losses[0] == pytest.approx(float(errors.mean() + 2 * squares.mean()), rel=1e-4)
    fewer = (errors * torch.tensor([1, 1, 0.1, 0.1])).mean() + 2 * squares[:2].sum() / 4
    assert losses[1] == pytest.approx(float(fewer), rel=1e-4)


def test_ends_of_walks_are_decoded_to_pictures_of_their_own(autoencoder: Autoencoder):
    """They count in full, but for their squared error; with nothing of the places that they stand at."""
    codec, grey = Codec(autoencoder), torch.full((3, 16, 16), 51, dtype=torch.uint8)
    ends = Ends(torch.ones(1, 4, 8, 8).half(), grey[None])
    loss, _ = DecoderTask(codec, Squares(), 16, ends=ends, share=0.5).loss(
        torch.arange(4), torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        latents = LatentCache(Squares(), codec)(torch.arange(4))
        latents[2:] = 1
        drawn = autoencoder.decode(codec.unscale(latents))
    truth = torch.cat([Squares().all[:2], torch.full((2, 3, 16, 16), 51 / 127.5 - 1)])
    squares = (drawn - truth).square().flatten(1).mean(dim=1)
    asked = row_errors(drawn, truth).mean() + 2 * squares[:2].sum() / 4
    assert float(loss.detach()) == pytest.approx(float(asked), rel=1e-4)


def test_an_adversary_weighs_what_it_is_given(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch):
    """At the pictures its gradient is that share of the errors', whatever it is by itself."""
    decode, gradients = autoencoder.decode, list[Tensor]()

    def watched(latents: Tensor) -> Tensor:
        drawn = decode(latents)
        drawn.register_hook(gradients.append)
        return drawn

    monkeypatch.setattr(autoencoder, "decode", watched)
    for weight in (0.0, 0.25):
        torch.manual_seed(0)
        gradients.clear()
        task = DecoderTask(Codec(autoencoder), Squares(), 16, adversary=weight)
        loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(0))
        loss.backward()
        if weight == 0:
            errors, alone = gradients[-1], float(loss.detach())
            continue
        assert float((gradients[-1] - errors).norm() / errors.norm()) == pytest.approx(0.25, rel=1e-3)  # pyright: ignore[reportPossiblyUnboundVariable]
        assert float(figures["errors"]) == pytest.approx(alone)  # pyright: ignore[reportPossiblyUnboundVariable]
        learning = {name.split(".")[0] for name, p in task.network.named_parameters() if p.grad is not None}
        assert learning == {"autoencoder", "adversary"}
        assert trained_autoencoder(task.network) is autoencoder


def test_windows_of_pictures_and_latents_are_of_one_place():
    pixels = torch.arange(32.0).expand(2, 3, 32, 32) + 100 * torch.arange(32.0)[:, None]
    latents = pixels[:, :1, ::8, ::8]
    for seed in range(4):
        cut, parts = windows(pixels, latents, 16, torch.Generator().manual_seed(seed))
        assert cut.shape == (2, 3, 16, 16)
        assert torch.equal(cut[:, :1, ::8, ::8], parts)


def test_the_loss_of_an_autoencoder_counts_its_kl(autoencoder: Autoencoder):
    task = AutoencoderTask(autoencoder, Squares(), 16)
    loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(0))
    assert loss.requires_grad
    assert float(figures["kl"]) > 0
    loss.backward()
    assert all(p.grad is not None for p in autoencoder.parameters())


def test_latents_are_noised_by_their_own_deviation_and_the_noisier_count_less(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
):
    decoded: list[Tensor] = []
    counted: list[Tensor] = []
    decode, loss = autoencoder.decode, vae.reconstruction_loss

    def watched_loss(drawn: Tensor, pixels: Tensor, counts: Tensor) -> Tensor:
        counted.append(counts)
        return loss(drawn, pixels, counts)

    monkeypatch.setattr(autoencoder, "decode", lambda latents: decode(decoded.append(latents.detach()) or latents))
    monkeypatch.setattr(vae, "reconstruction_loss", watched_loss)
    for noise in (0.0, 0.5):
        task = AutoencoderTask(autoencoder, Squares(), 16, noise=noise)
        task.loss(torch.arange(4).repeat(100), torch.Generator().manual_seed(0))
    plain, noised = decoded
    assert counted[0].tolist() == [1] * 400
    difference = (noised - plain) / (0.5 * plain.std(dim=(0, 2, 3), keepdim=True))
    size = difference.square().mean(dim=(1, 2, 3)).sqrt()  # Of each picture, by its 16 values.
    clean = size == 0
    assert 0.1 < float(clean.float().mean()) < 0.3
    assert torch.equal(counted[1] == 1, clean)
    assert float((counted[1] - 1 / (1 + size.square()))[~clean].abs().mean()) < 0.1
    assert float(size[~clean].square().mean()) == pytest.approx(1, rel=0.2)  # Half-normal:
    assert float((size[~clean] < 0.6745).float().mean()) == pytest.approx(0.5, abs=0.1)


def test_latents_gain_nothing_by_growing(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(AutoencoderTask, "KL", 0.0)
    task = AutoencoderTask(autoencoder, Squares(), 16, noise=0.5)
    task.loss(torch.arange(4).repeat(8), torch.Generator().manual_seed(0))[0].backward()
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    assert isinstance(quant, nn.Conv2d)
    assert isinstance(post, nn.Conv2d)
    means = slice(0, post.in_channels)

    def along(parameter: Tensor | None, rows: slice = slice(None)) -> float:
        """How the loss changes as these values grow in proportion."""
        assert parameter is not None
        assert parameter.grad is not None
        return float((parameter.detach() * parameter.grad)[rows].sum())

    assert quant.bias is not None
    assert quant.bias.grad is not None
    spread = 2 * float(quant.bias.grad[post.in_channels :].sum())  # Log-variances grow by twice the logarithm.
    grown = along(quant.weight, means) + along(quant.bias, means) + spread
    assert grown == pytest.approx(along(post.weight), abs=1e-5)
    assert abs(along(post.weight)) > 1e-3


def test_a_perfect_reconstruction_has_no_loss():
    pixels = Squares().all
    assert float(reconstruction_loss(pixels, pixels)) == 0
    # A picture too light by 0.1 everywhere has no error of gradients: 0.1 + 2 * 0.01.
    assert float(reconstruction_loss(pixels + 0.1, pixels)) == pytest.approx(0.12, rel=1e-4)
    errors = (pixels + 0.1).requires_grad_(True)
    reconstruction_loss(errors, pixels).backward()
    gradient = errors.grad
    errors.grad = None
    (row_errors(errors, pixels).mean() + 2 * F.mse_loss(errors, pixels)).backward()
    assert gradient is not None
    assert errors.grad is not None
    torch.testing.assert_close(gradient, errors.grad)
    counts = torch.zeros(len(pixels))
    counts[0] = 1
    assert float(reconstruction_loss(pixels + 0.1, pixels, counts)) == pytest.approx(0.12 / len(pixels), rel=1e-4)


def test_psnr_in_closed_form():
    pixels = torch.zeros(2, 3, 4, 4)
    # Of a range of 2, an error of 0.2 is a tenth: 20 decibels; of two pictures, the mean.
    assert float(psnr(pixels + 0.2, pixels)) == pytest.approx(20, abs=1e-4)
    assert float(psnr(torch.cat([pixels[:1] + 0.2, pixels[:1] + 0.02]), pixels)) == pytest.approx(30, abs=1e-3)


def test_crops_are_squares_of_the_picture_and_lively():
    pixels = torch.zeros(5, 3, 32, 32)
    pixels[:, :, 16:, 16:] = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    crops = random_crops(pixels, 16, torch.Generator().manual_seed(0), tries=60)
    assert crops.shape == (5, 3, 16, 16)
    assert torch.equal(crops, pixels[:, :, 16:, 16:])  # Of 60 tries among 9 places the liveliest is there.
    assert torch.equal(random_crops(pixels, 32, torch.Generator(), tries=1), pixels)


SPOKEN = Told("a red cube left of a ball", (Solid("cube", "red", "", ""), Solid("sphere", "", "", "")), "across")


def test_truth_of_a_caption():
    truth = truth_told([SPOKEN])
    assert truth["shape"].tolist() == [[3, 2, ABSENT, ABSENT]]
    assert truth["colour"].tolist() == [[2, UNSAID, ABSENT, ABSENT]]
    assert truth["size"].tolist() == [[UNSAID, UNSAID, ABSENT, ABSENT]]
    assert ORDERS[int(truth["order"])] == "across"


def test_truth_of_a_picture_is_read_from_left_to_right():
    scene = Scene((Solid("sphere", "red", x=1.0), Solid("cube", "red", x=-1.0)))
    assert truth_seen([scene])["shape"].tolist() == truth_of([[scene.solids[1], scene.solids[0]]])["shape"].tolist()


def test_a_perfect_reading_has_no_loss_and_every_place_right():
    read, truth = ReadOut(3), truth_told([SPOKEN])
    with torch.no_grad():
        for name, head in read.heads.items():
            assert isinstance(head, nn.Linear)
            head.weight.zero_()
            wanted = nn.functional.one_hot(truth[name], len(ATTRIBUTES[name]) + 2)
            head.bias.copy_(100.0 * wanted.flatten())
        read.order.weight.zero_()
        read.order.bias.copy_(100.0 * nn.functional.one_hot(truth["order"], 3)[0])
    loss, right = read.loss(torch.randn(1, 3), truth)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert right.item() == 1
    other = truth_told([Told("", (SPOKEN.solids[0], Solid("cone", "", "", "")), "across")])
    assert read.loss(torch.randn(1, 3), other)[1].item() == 0.5  # One of two places; absent ones do not count.


def levels(count: int) -> UNet:
    """A U-Net of 8, 16, 32, ... channels."""
    return UNet(
        UNetConfig(
            block_out_channels=tuple(8 * 2**level for level in range(count)),
            down_block_types=("CrossAttnDownBlock2D",) * count,
            up_block_types=("CrossAttnUpBlock2D",) * count,
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_stands_where_is_named_from_the_u_net_s_features(count: int, tmp_path: Path, tiny_parts: Parts):
    """At the latent's size, whatever the depth; the gradient reaches the U-Net, and the heads stay behind."""
    torch.manual_seed(0)
    denoiser = Denoiser(levels(count), NoiseSchedule())
    conditioner = TextConditioner(tiny_parts.tokenizer, tiny_parts.text_encoder)
    pictures = StillLife(tmp_path, 4, 32)
    task = DenoiserTask(denoiser, conditioner, Codec(tiny_parts.vae), pictures, segment=0.5)
    loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(0))
    assert set(figures) == {"low_noise", "high_noise", "segment"}
    error = (figures["low_noise"] + figures["high_noise"]) / 2
    assert loss.item() == pytest.approx((error + 0.5 * figures["segment"]).item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in task.network.parameters())
    assert trained(task.network) is denoiser
    assert not any("segment" in name for name in denoiser.state_dict())
    plain = DenoiserTask(denoiser, conditioner, Codec(tiny_parts.vae), pictures, segment=0.0)
    assert set(plain.loss(torch.arange(4), torch.Generator())[1]) == {"low_noise", "high_noise"}


def test_naming_what_stands_where_begins_alike_and_changes_no_other_chance():
    segments: list[Segment] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        unet, before = levels(2), torch.get_rng_state()
        segments.append(Segment(unet))
        assert torch.equal(torch.get_rng_state(), before)
    one, other = (segment.state_dict() for segment in segments)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_image_tower_is_asked_among_pairs_that_pictures_show(
    tmp_path: Path, tiny_parts: Parts, monkeypatch: pytest.MonkeyPatch
):
    """Patches and whole pictures both: every pair that is taken out of what is seen lowers the loss of each."""
    pictures = StillLife(tmp_path, 12, 32)
    task = clip_task(pictures, tiny_parts)
    read: list[float] = []
    loss = ReadOut.loss

    def noted(*given: Any) -> tuple[Tensor, Tensor]:
        found = loss(*given)
        read.append(found[0].item())
        return found

    monkeypatch.setattr(ReadOut, "loss", noted)
    found: list[tuple[float, float]] = []
    for seen in (torch.ones_like(pictures.seen), pictures.seen):
        read.clear()
        pictures.seen = seen
        figures = task.loss(torch.arange(12), torch.Generator().manual_seed(0))[1]
        found.append((figures["patches"].item(), read[0]))
    assert found[1][0] < found[0][0]
    assert found[1][1] < found[0][1]


def test_naming_what_stands_where_in_closed_form():
    segment = Segment(levels(2))
    assert segment.block == 0
    shape, colour = torch.tensor([[2, 5, 0, 0]]), torch.tensor([[2, 5, 0, 0]])
    shares = torch.zeros(1, 4, 2, 2)
    shares[0, 0, 0, 0] = shares[0, 1, 1, 1] = 1  # A cell each; the other two are table.
    features = torch.zeros(1, 16, 2, 2)
    for name, y, x in ((3, 0, 0), (6, 1, 1), (0, 0, 1), (0, 1, 0)):
        features[0, name, y, x] = 100
    with torch.no_grad():
        for head in (segment.shape, segment.colour):
            head.bias.zero_()
            head.weight.copy_(torch.eye(head.out_channels, 16)[:, :, None, None])
    every = torch.ones(len(SHAPES), len(COLOURS), dtype=torch.bool)
    assert segment.loss(features, shape, colour, shares, every).item() == pytest.approx(0, abs=1e-6)
    # Knowing nothing costs the logarithm of the number of classes, shapes or colours and the table.
    ignorant = segment.loss(torch.zeros_like(features), shape, colour, shares, every).item()
    assert ignorant == pytest.approx((math.log(1 + len(SHAPES)) + math.log(1 + len(COLOURS))) / 2)
    # Half a cell of a solid is best named half and half.
    half = segment.loss(torch.zeros_like(features), shape, colour, shares / 2, every).item()
    assert half == pytest.approx(ignorant)


def test_what_never_comes_is_not_learned_to_be_impossible():
    """Where no picture has pyramids in red, red cells are asked among the other shapes, and pyramids among the other
    colours; cells of several solids among what any of those may be, and the table among all.
    """
    shares = torch.zeros(1, 4, 1, 3)
    shares[0, 0, 0, 0] = shares[0, 1, 0, 1] = 1
    shares[0, :2, 0, 2] = 0.5
    seen = torch.ones(6, 10, dtype=torch.bool)
    seen[5, 0] = False
    kind, colour = torch.tensor([[1, 2, 0, 0]]), torch.tensor([[0, 3, 0, 0]])
    logits = torch.zeros(1, 7, 1, 3, requires_grad=True)
    cells_loss(logits, kind, shares, seen.T[colour]).backward()
    assert logits.grad is not None
    pyramids = logits.grad[0, 6, 0]
    assert pyramids[0] == 0
    assert (pyramids[1:] > 0).all()
    assert logits.grad.abs().sum(dim=1).gt(0).all()
    cells, two = Cells(2, 6, 10), (torch.tensor([[1, 5, 0, 0]]), torch.tensor([[0, 1, 0, 0]]))
    for head, impossible, solid in ((cells.shape, 6, 0), (cells.colour, 1, 1)):
        alone = torch.zeros(1, 4, 1, 3)
        alone[0, solid] = 1
        cells.zero_grad()
        cells.loss(torch.ones(1, 2, 1, 3), *two, alone, seen).backward()
        assert head.bias is not None
        assert head.bias.grad is not None
        assert (head.bias.grad == 0).nonzero().flatten().tolist() == [impossible]
    table = torch.zeros(1, 4, 1, 3)
    assert cells_loss(torch.zeros(1, 7, 1, 3), kind, table, seen.T[colour]).item() == pytest.approx(math.log(7))


def test_scenes_are_read_without_learning_that_what_never_comes_is_impossible():
    seen = torch.ones(len(SHAPES), len(COLOURS), dtype=torch.bool)
    seen[5, 0] = False
    read = ReadOut(3)
    pooled = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    truth = truth_of([[Solid(SHAPES[1], COLOURS[0]), Solid(SHAPES[5], COLOURS[1]), Solid(SHAPES[1], "")]])
    read.loss(pooled, truth, seen)[0].backward()
    slots = {}
    for name in ("shape", "colour"):
        bias = read.heads[name].bias
        assert isinstance(bias, nn.Parameter)
        assert bias.grad is not None
        slots[name] = bias.grad.unflatten(0, (4, -1))
    assert (slots["shape"][:, 2 + 5] == 0).tolist() == [True, False, False, False]
    assert (slots["colour"][:, 2 + 0] == 0).tolist() == [False, True, False, False]
    everything = torch.ones_like(seen)
    assert torch.equal(read.loss(pooled, truth, everything)[0], read.loss(pooled, truth)[0])


def test_pairs_that_no_picture_shows(tmp_path: Path):
    pictures = StillLife(tmp_path, 40, 16)
    shown = {(solid.shape, solid.colour) for place in range(40) for solid in pictures.scene(place).solids}
    assert {(SHAPES[shape], COLOURS[colour]) for shape, colour in pictures.seen.nonzero().tolist()} == shown


def test_colours_are_asked_of_the_first_rows_alone():
    cells = Cells(3, len(SHAPES), len(COLOURS))
    features, shares = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 2, 2)
    shares[:, 0, 0] = 1
    shape = torch.tensor([[2, 0, 0, 0], [3, 0, 0, 0]])
    other = shape.clone()
    other[1, 0] = 1
    every = torch.ones(len(SHAPES), len(COLOURS), dtype=torch.bool)

    def loss(shape: Tensor, colour: Tensor, coloured: int | None = None) -> Tensor:
        return cells.loss(features, shape, colour, shares, every, coloured=coloured)

    assert loss(shape, other) != loss(shape, shape)
    assert loss(shape, other, 1) == loss(shape, shape, 1)
    assert loss(other, shape, 1) != loss(shape, shape, 1)


@pytest.mark.parametrize(("fixed_text", "rows", "coloured"), [(False, 1, 6), (False, 2, 3), (True, 2, 6)])
def test_grey_pictures_meet_no_caption(
    fixed_text: bool, rows: int, coloured: int, tmp_path: Path, tiny_parts: Parts, monkeypatch: pytest.MonkeyPatch
):
    """What is contrasted are the pictures with colours, each with its own caption."""
    task = clip_task(StillLife(tmp_path, 12, 32), tiny_parts, text_rows=rows, fixed_text=fixed_text, grey=0.5)
    clip = task.network.get_submodule("clip")
    seen: list[Tensor] = []
    found: list[Any] = []
    contrasts: list[tuple[Any, ...]] = []
    contrast = CLIPTask._contrast  # pyright: ignore[reportPrivateUsage]

    def noted(*given: Any) -> tuple[Tensor, Tensor]:
        contrasts.append(given)
        return contrast(*given)

    vision, text = (clip.get_submodule(name) for name in ("vision_model", "text_model"))
    vision.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vision.register_forward_hook(lambda *given: found.append(given[-1]))
    text.register_forward_hook(lambda *given: found.append(given[-1]))
    monkeypatch.setattr(task, "_contrast", noted)
    index = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    loss, _ = task.loss(index, torch.Generator().manual_seed(0))
    assert loss.isfinite()
    spread = colourfulness(seen[0])
    assert (spread[:coloured] > 1e-2).all()
    assert (spread[coloured:] < 1e-5).all()
    assert len(spread) > coloured
    _, words, shown, places, ids = contrasts[0]
    assert places.tolist() == index[:coloured].tolist()
    assert torch.equal(shown, found[0].pooled[:coloured])
    assert torch.equal(words, found[1].pooled[:coloured])
    assert len(ids) == coloured


def test_own_pictures_keep_their_colours(tmp_path: Path, tiny_parts: Parts):
    for name, colour in (("a", "red"), ("b", "lime"), ("c", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"{colour} {name}")
    task = clip_task(Folder(tmp_path, 32), tiny_parts, grey=0.5)
    seen: list[Tensor] = []
    task.network.get_submodule("clip.vision_model").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task.loss(torch.arange(3), torch.Generator().manual_seed(0))
    assert (colourfulness(seen[0]) > 0.1).all()


def clip_task(pictures: Pictures, parts: Parts, **settings: Any) -> CLIPTask:
    tokenizer, text = parts.tokenizer, parts.text_encoder
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(text, CLIPTextModel)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, projection_dim=8, image_size=32, patch_size=16)
    return CLIPTask(CLIPModel(copy.deepcopy(text), CLIPVisionModel(vision), 8), tokenizer, pictures, **settings)


def colourfulness(normalised: Tensor) -> Tensor:
    """How far apart red, green and blue are at most in each of the pictures that an image tower is given."""
    std, mean = (torch.tensor(values)[:, None, None] for values in (STD, MEAN))
    return (normalised * std + mean).std(dim=1).amax(dim=(1, 2))


def test_equal_pictures_and_equal_captions_are_no_contrast():
    index = torch.tensor([4, 4, 7, 8])
    ids = torch.tensor([[1, 2], [1, 3], [1, 4], [1, 4]])
    assert alike(index, ids).nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    clip = SimpleNamespace(text_projection=nn.Identity(), visual_projection=nn.Identity(), logit_scale=torch.zeros(()))
    pooled = F.one_hot(torch.tensor([0, 0, 1]), 2).float()
    places, ids = torch.tensor([5, 5, 6]), torch.tensor([[1], [2], [3]])
    contrast = CLIPTask._contrast  # pyright: ignore[reportPrivateUsage]
    loss, right = contrast(clip, pooled, pooled, places, ids)  # pyright: ignore[reportArgumentType]
    # Cosines 1 and 0 at temperature 1: the two that are one picture each meet one other, the third meets two.
    assert loss.item() == pytest.approx((2 * math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 3)
    assert right.item() == 1
