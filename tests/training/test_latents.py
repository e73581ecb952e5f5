"""Pictures noised as others than they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.training.data import StillLife
from mezzotint.training.latents import Disguised, LatentCache
from mezzotint.training.unet import DenoiserTask
from mezzotint.types import Conditioning

COUNT, SIZE, LEAST = 16, 16, 1.2


class Pooled:
    """A codec whose latents are the pictures made smaller, and one channel of zeros."""

    factor, channels = 8, 4
    autoencoder = nn.Linear(1, 1)
    autoencoder.config = "pooled"  # pyright: ignore

    def encode(self, pixels: Tensor) -> Tensor:
        return torch.nn.functional.pad(torch.nn.functional.avg_pool2d(pixels, 8), (0, 0, 0, 0, 0, 1))


class Watched(nn.Module):
    """A denoiser that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)  # pyright: ignore
        self.error = nn.Parameter(torch.zeros(()))
        self.x = self.sigma = torch.zeros(0)

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.x, self.sigma = x, sigma
        return torch.zeros_like(x) + self.error


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> StillLife:
    return StillLife(tmp_path_factory.mktemp("data"), COUNT, SIZE)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> StillLife:
    return StillLife(tmp_path_factory.mktemp("data"), COUNT, SIZE, disguise=("colour",))


CODEC: Any = Pooled()
INDEX = torch.arange(COUNT)


def test_above_a_level_and_where_colours_are_told_some_are_noised_in_others(
    own: StillLife, other: StillLife, tmp_path: Path
):
    x0, twins = LatentCache(own, CODEC)(INDEX), LatentCache(other, CODEC)(INDEX)
    sigma = torch.where(INDEX % 2 == 0, LEAST + 0.1, LEAST - 0.1)
    told = INDEX < 8
    generator = torch.Generator().manual_seed(0)
    noised = Disguised(other, 1.0, LEAST, CODEC, tmp_path)(x0, INDEX, sigma, told, generator)
    which = told & (INDEX % 2 == 0)
    assert torch.equal(noised, torch.where(which[:, None, None, None], twins, x0))
    assert not torch.equal(noised, x0)
    assert torch.equal(Disguised(other, 0.0, LEAST, CODEC, tmp_path)(x0, INDEX, sigma, told, generator), x0)
    half = Disguised(other, 0.5, LEAST, CODEC, tmp_path)
    drawn = [half(x0, INDEX, sigma + 1, INDEX >= 0, generator) for _ in range(50)]
    shares = torch.stack([(one != x0).flatten(1).any(dim=1).float().mean() for one in drawn])
    assert shares.mean() == pytest.approx(0.5, abs=0.07)  # Four deviations.


@pytest.mark.parametrize(
    ("dropout", "clear", "shown"), [(0.0, 0.0, False), (0.0, 1.0, False), (1.0, 0.0, False), (1.0, 0.0, True)]
)
def test_what_is_noised_is_another_and_what_is_learned_its_own(
    own: StillLife, other: StillLife, tmp_path: Path, dropout: float, clear: float, shown: bool
):
    """Where a caption tells all colours or the picture itself is shown, and nowhere else."""
    watched = Watched()
    said: list[str] = []

    def tells(prompts: list[str]) -> Conditioning:
        said[:] = prompts
        return Conditioning(sequence=torch.zeros(len(prompts), 1, 1))

    class Shows:
        reader = None

        def __call__(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
            return torch.zeros(len(index), 1, 1, 1), torch.ones(len(index), 1), index % 2 == 0

    task: Any = DenoiserTask(
        watched,  # pyright: ignore
        tells,  # pyright: ignore
        CODEC,
        own,
        caption_dropout=dropout,
        clear=clear,
        prompts=Shows() if shown else None,  # pyright: ignore
        disguised=Disguised(other, 1.0, LEAST, CODEC, tmp_path),
    )
    x0, twins = LatentCache(own, CODEC)(INDEX), LatentCache(other, CODEC)(INDEX)
    chance = torch.Generator().manual_seed(3)
    loss, _ = task.loss(INDEX, chance)
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(3)))
    captions = own.told(INDEX, seed, clear=clear)
    assert dropout == 1 or said == [each.text for each in captions]
    told = torch.tensor([each.tells(("colour",)) for each in captions])
    assert told.any()
    assert told.all() == (clear == 1)
    told = told if dropout == 0 else (INDEX % 2 == 0) & shown
    high, disguised = watched.sigma > LEAST, watched.x
    plain: Any = DenoiserTask(watched, tells, CODEC, own, caption_dropout=dropout, clear=clear)  # pyright: ignore
    undisguised, _ = plain.loss(INDEX, torch.Generator().manual_seed(3))
    assert (told & high).any() or not told.any()
    moved = (disguised - watched.x).flatten(1)
    assert torch.allclose(moved, torch.where((told & high)[:, None], (twins - x0).flatten(1), 0.0), atol=2e-3)
    assert loss.item() == undisguised.item()  # The denoiser says 0, so the loss is of what is to be learned alone.
    assert (len([text for text in said if text]) == 0) == (dropout == 1)
