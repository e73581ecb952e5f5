"""Muon: which matrices it takes, what it makes of them, and that a run goes on with it to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mezzotint.training.fit import Progress, fit
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.muon import Muon, matrices, orthogonal


class Wide:
    """Find a linear map by three layers, of which the first two are Muon's."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.truth = torch.randn(64, 80) / 9
        self.network: nn.Module = nn.Sequential(nn.Linear(80, 64), nn.Linear(64, 64), nn.Linear(64, 4))

    def __len__(self) -> int:
        return 64

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.randn(len(index), 80, generator=generator)
        return (self.network(x) - x @ self.truth.T[:, :4]).square().mean(), {}


CONFIG = FitConfig(images=640, batch=32, lr=1e-2, warmup=32, ema=64, bf16=False, muon=True)


def test_matrices_are_those_inside_the_network_that_learn():
    network = nn.Sequential(
        nn.Conv2d(4, 64, 3),
        nn.Conv2d(64, 96, 3),
        nn.Embedding(70, 96),
        nn.Linear(96, 64),
        nn.Linear(64, 64),
        nn.Linear(64, 4),
    )
    network[4].weight.requires_grad_(False)
    assert matrices(network) == [network[1].weight, network[3].weight]


@pytest.mark.parametrize("shape", [(2, 64, 64), (1, 64, 150), (3, 100, 70)])
def test_singular_values_come_to_about_one_and_their_vectors_stay(shape: tuple[int, ...]):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    made = orthogonal(x * 1e-3)
    along = left.mT @ made @ right.mT
    diagonal = torch.diagonal(along, dim1=1, dim2=2)
    wide = values > 0.1 * values.amax()  # The smallest need more rounds.
    assert float(diagonal[wide].min()) > 0.5
    assert float(diagonal.max()) < 1.3
    assert float((along - torch.diag_embed(diagonal)).abs().max()) < 0.1


def test_a_step_is_about_as_long_as_adamws():
    lengths: list[float] = []
    for optimiser in (
        lambda p: Muon(p, lr=0.01),
        lambda p: Muon(p, lr=0.01, bf16=True),
        lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0),
    ):
        weight, chance = nn.Parameter(torch.zeros(64, 96)), torch.Generator().manual_seed(0)
        steps = optimiser([weight])
        for _ in range(100):
            weight.grad = torch.randn(64, 96, generator=chance) * 1e-4
            before = weight.detach().clone()
            steps.step()
        lengths.append(float((weight.detach() - before).square().mean().sqrt()))  # pyright: ignore[reportPossiblyUnboundVariable]
    assert lengths[0] == pytest.approx(lengths[2], rel=0.3)
    assert lengths[1] == pytest.approx(lengths[0], rel=0.02)


def test_weights_decay_and_layouts_are_kept():
    weight = nn.Parameter(torch.randn(64, 64, 3, 3).to(memory_format=torch.channels_last))
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), before * 0.95)
    plain = nn.Parameter(weight.detach().contiguous().clone())
    gradient = torch.randn(64, 64, 3, 3)
    weight.grad, plain.grad = gradient.to(memory_format=torch.channels_last), gradient
    for parameter in (weight, plain):
        Muon([parameter], lr=0.5).step()
    torch.testing.assert_close(weight.detach(), plain.detach())
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_both_optimisers_learn_and_a_run_goes_on_to_the_last_bit(tmp_path: Path):
    class Power(Exception):
        """Somebody pulled the plug."""

    def stop(progress: Progress) -> None:
        if progress.seen >= 320:
            raise Power

    losses: list[float] = []
    task = Wide()
    begun = [value.clone() for value in task.network.state_dict().values()]
    whole = fit(task, CONFIG, tmp_path / "whole", report=lambda p: losses.append(p.figures["loss"])).state_dict()
    assert losses[-1] < losses[0] / 2
    assert not any(torch.equal(a, b) for a, b in zip(begun, whole.values(), strict=True))
    with pytest.raises(Power):
        fit(Wide(), CONFIG, tmp_path / "run", report=stop, checkpoint_seconds=-1)
    resumed = fit(Wide(), CONFIG, tmp_path / "run", resume=True).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
