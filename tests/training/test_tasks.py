"""The losses, where their truth is known: exact denoisers, standardised latents, crops, and reading scenes back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.noise.parameterisation import Prediction, scalings
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.training.clip import ABSENT, ATTRIBUTES, ORDERS, UNSAID, ReadOut, truth_of, truth_seen, truth_told
from mezzotint.training.unet import DenoiserTask, LatentCache
from mezzotint.training.vae import AutoencoderTask, psnr, random_crops, reconstruction_loss, standardise
from mezzotint.types import Conditioning, UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.world.captions import Told
from mezzotint.world.scene import Scene, Solid


class Squares:
    """Twelve pictures of noise."""

    size = 16

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
        self.schedule = NoiseSchedule(prediction_type=prediction)
        self.error = nn.Parameter(torch.tensor(error))
        self.sigmas: list[Tensor] = []

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.sequence is not None
        self.sigmas.append(sigma)
        x0 = (conditioning.sequence[:, 0, 0] / 4)[:, None, None, None].expand_as(x)
        c_out = scalings(self.schedule.prediction_type, sigma).c_out.to(x)
        return x0 + self.error * c_out[:, None, None, None]


def denoiser_task(denoiser: Exact, dropout: float = 0.0) -> tuple[DenoiserTask, Reader]:
    reader = Reader()
    task = DenoiserTask(denoiser, reader, Known(), Squares(), caption_dropout=dropout)  # pyright: ignore
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


def test_a_batch_sees_the_whole_schedule():
    denoiser = Exact(Prediction.V, 0.0)
    task, _ = denoiser_task(denoiser)
    task.loss(torch.arange(10), torch.Generator().manual_seed(0))
    (sigmas,) = denoiser.sigmas
    table = denoiser.schedule.sigmas
    levels = sorted((table - sigma).abs().argmin().item() for sigma in sigmas.double())
    assert [level // 100 for level in levels] == list(range(10))


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


def test_the_decoder_alone_learns_when_told_so(autoencoder: Autoencoder):
    task = AutoencoderTask(autoencoder, Squares(), 16, decoder_only=True)
    loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(0))
    loss.backward()
    learning = {name.split(".")[0] for name, p in autoencoder.named_parameters() if p.grad is not None}
    assert learning == {"decoder", "post_quant_conv"}
    assert set(figures) == {"psnr"}


def test_the_loss_of_an_autoencoder_counts_its_kl(autoencoder: Autoencoder):
    task = AutoencoderTask(autoencoder, Squares(), 16)
    loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(0))
    assert loss.requires_grad
    assert float(figures["kl"]) > 0
    loss.backward()
    assert all(p.grad is not None for p in autoencoder.parameters())


def test_a_perfect_reconstruction_has_no_loss():
    pixels = Squares().all
    assert float(reconstruction_loss(pixels, pixels)) == 0
    # A picture too light by 0.1 everywhere has no error of gradients: 0.1 + 2 * 0.01.
    assert float(reconstruction_loss(pixels + 0.1, pixels)) == pytest.approx(0.12, rel=1e-4)


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
