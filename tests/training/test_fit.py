"""The loop: schedules in closed form, an order of pictures that depends on nothing else, resuming to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mezzotint.training import fit as fitting
from mezzotint.training.fit import Progress, Task, channels_last, computes_bf16, fit, places, read_log
from mezzotint.training.fit_config import FitConfig
from mezzotint.types import UserError


class Straight:
    """Find the slope of noisy lines: everything a task does, in microseconds."""

    def __init__(self, width: int = 3) -> None:
        torch.manual_seed(0)
        self.network: nn.Module = nn.Sequential(nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 1))
        self.x = torch.randn(20, width, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.x[index]
        noise = 0.01 * torch.randn(len(index), 1, generator=generator)
        loss = (self.network(x) - x.sum(dim=1, keepdim=True) + noise).square().mean()
        return loss, {"noise": noise.abs().mean()}


def config(**changes: float | bool) -> FitConfig:
    values = {"images": 96, "batch": 8, "lr": 1e-2, "warmup": 16, "ema": 24, "bf16": False}
    return FitConfig(**{**values, **changes})  # pyright: ignore[reportArgumentType]


def weights(network: nn.Module) -> list[Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Power(Exception):
    """Somebody pulled the plug."""


def stop_at(images: int):
    def report(progress: Progress) -> None:
        if progress.seen >= images:
            raise Power

    return report


def test_the_learning_rate_rises_stays_and_falls():
    c = FitConfig(images=1000, batch=10, lr=2.0, warmup=100, fall=0.5)
    assert [c.lr_at(seen) for seen in (0, 40, 90, 500, 750, 990, 1000)] == pytest.approx([0.2, 1, 2, 2, 1, 0.04, 0])
    assert FitConfig(images=100, batch=10, lr=1.0, warmup=0, fall=0.0).lr_at(0) == 1.0
    # Progress is counted in images: the same at any batch size, but for the first step's own images.
    assert FitConfig(images=1000, batch=50, lr=2.0, warmup=100, fall=0.5).lr_at(750) == c.lr_at(750)


def test_half_of_the_average_is_new_after_as_many_images_as_it_says():
    for batch in (4, 32):
        decay = FitConfig(images=10**6, batch=batch, ema=640).ema_decay(10**6)
        assert decay ** (640 / batch) == pytest.approx(0.5)
    early = FitConfig(images=10**6, batch=8, ema=10**5).ema_decay(800)
    assert early ** (80 / 8) == pytest.approx(0.5)  # A tenth of the 800 seen.


@pytest.mark.parametrize("changes", [{"images": -1}, {"batch": 0}, {"lr": 0.0}, {"fall": 1.5}, {"fall": -0.1}])
def test_a_run_that_cannot_be(changes: dict[str, float]):
    with pytest.raises(UserError, match="must be"):
        config(**changes)


def test_no_images_leave_the_network_as_it_was(tmp_path: Path):
    task = Straight()
    before = weights(task.network)
    assert equal(weights(fit(task, config(images=0), tmp_path)), before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 4, 7, 20, 45])
def test_every_epoch_is_a_permutation_at_any_batch_size(batch: int):
    count, epochs = 20, 9
    steps = -(-count * epochs // batch)
    order = torch.cat([places(count, step * batch, batch, seed=3) for step in range(steps)])[: count * epochs]
    for epoch in order.view(epochs, count):
        assert epoch.sort().values.tolist() == list(range(count))
    assert not torch.equal(order[:count], order[count : 2 * count])
    assert torch.equal(order, torch.cat([places(count, 5 * step, 5, seed=3) for step in range(36)]))
    assert not torch.equal(order[:count], places(count, 0, count, seed=4))


def test_it_learns_and_logs(tmp_path: Path):
    told: list[Progress] = []
    task = Straight()
    before = task.loss(torch.arange(20), torch.Generator())[0].item()
    average = fit(task, config(images=1600), tmp_path, report=told.append, checkpoint_seconds=60)
    task.network.load_state_dict(average.state_dict())
    assert task.loss(torch.arange(20), torch.Generator())[0].item() < 0.2 * before
    assert [progress.seen for progress in told] == list(range(8, 1601, 8))
    log = list(read_log(tmp_path))
    assert [line["seen"] for line in log] == [400, 800, 1200, 1600]
    assert {"loss", "gradient", "noise", "seconds"} < set(log[0])
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("ema", [0, 24])
def test_resuming_is_as_if_nothing_had_happened(tmp_path: Path, ema: int):
    whole_task, task = Straight(), Straight()
    whole = fit(whole_task, config(ema=ema), tmp_path / "whole")
    with pytest.raises(Power):
        fit(task, config(ema=ema), tmp_path / "broken", report=stop_at(56), checkpoint_seconds=-1)
    seen: list[int] = []
    torch.manual_seed(99)
    task = Straight()
    with torch.no_grad():
        task.network[0].weight.zero_()  # pyright: ignore[reportIndexIssue]
    resumed = fit(task, config(ema=ema), tmp_path / "broken", resume=True, report=lambda p: seen.append(p.seen))
    assert seen == [56, 64, 72, 80, 88, 96]  # The step that was interrupted is done again.
    assert equal(weights(resumed), weights(whole))
    assert equal(weights(task.network), weights(whole_task.network))
    assert (resumed is task.network) == (ema == 0)


def test_a_finished_run_is_resumed_in_no_time(tmp_path: Path):
    whole = fit(Straight(), config(), tmp_path)
    told: list[Progress] = []
    assert equal(weights(fit(Straight(), config(), tmp_path, resume=True, report=told.append)), weights(whole))
    assert told == []


def test_without_resume_it_begins_again(tmp_path: Path):
    fit(Straight(), config(), tmp_path)
    told: list[Progress] = []
    fit(Straight(), config(), tmp_path, report=told.append)
    assert told[0].seen == 8
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_resume_with_nothing_there_begins(tmp_path: Path):
    assert equal(weights(fit(Straight(), config(), tmp_path / "a", resume=True)),
                 weights(fit(Straight(), config(), tmp_path / "b")))  # fmt: skip


@pytest.mark.parametrize("spoil", [lambda f: f.write_bytes(f.read_bytes()[:-500]), lambda f: f.write_bytes(b"none"),
                                   lambda f: torch.save([1], f), lambda f: torch.save({"seen": 3}, f)])  # fmt: skip
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, spoil):
    fit(Straight(), config(), tmp_path)
    spoil(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="damaged"):
        fit(Straight(), config(), tmp_path, resume=True)


def test_a_checkpoint_of_another_configuration_or_network_is_refused(tmp_path: Path):
    fit(Straight(), config(), tmp_path)
    with pytest.raises(UserError, match="another configuration"):
        fit(Straight(), config(lr=1e-3), tmp_path, resume=True)
    with pytest.raises(UserError, match="another network"):
        fit(Straight(width=2), config(), tmp_path, resume=True)


def test_a_crash_while_writing_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = fit(Straight(), config(), tmp_path / "whole")
    with pytest.raises(Power):
        fit(Straight(), config(), tmp_path / "run", report=stop_at(48), checkpoint_seconds=-1)
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def half(_values: object, path: Path) -> None:
        Path(path).write_bytes(before[: len(before) // 2])
        raise Power

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(Power):
            fit(Straight(), config(), tmp_path / "run", resume=True, checkpoint_seconds=-1)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert equal(weights(fit(Straight(), config(), tmp_path / "run", resume=True)), weights(whole))
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"checkpoint.pt", "log.jsonl"}


@pytest.mark.parametrize("error", [OSError("no space"), RuntimeError("unexpected pos 0")])
def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def full(_values: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="cannot be written"):
        fit(Straight(), config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        fit(Straight(), config(), tmp_path / "file" / "vae")


def test_samples_are_drawn_with_the_average_at_even_distances(tmp_path: Path):
    drawn: list[int] = []

    def sample(network: nn.Module, seen: int) -> None:
        assert not any(parameter.requires_grad for parameter in network.parameters())
        drawn.append(seen)

    fit(Straight(), config(), tmp_path, sample=sample, sample_every=30)
    assert drawn == [32, 64, 96]


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path: Path):
    class Broken(Straight):
        def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            loss, figures = super().loss(index, generator)
            return loss * torch.inf, figures

    task = Broken()
    before = weights(task.network)
    fit(task, config(images=16), tmp_path)
    assert equal(weights(task.network), before)


def test_the_checkpoint_names_its_configuration(tmp_path: Path):
    fit(Straight(), config(), tmp_path)
    values = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert values["config"] == repr(config())
    assert values["seen"] == 96
    assert json.loads((tmp_path / "log.jsonl").read_text())["seen"] == 96


def test_channels_last_changes_the_layout_alone():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8, 2))
    before = weights(network)
    assert channels_last(network) is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)  # pyright: ignore
    assert equal(weights(network), before)


def test_the_task_here_is_one():
    task: Task = Straight()
    assert len(task) == 20


class Diverging(Straight):
    """A loss that is no number."""

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = super().loss(index, generator)
        return loss * torch.nan, figures


def test_a_training_that_diverges_is_no_success(tmp_path: Path):
    task = Diverging()
    before = weights(task.network)
    with pytest.raises(UserError, match="diverged"):
        fit(task, config(images=8 * 30), tmp_path)
    assert equal(weights(task.network), before)


class Overflowing(Straight):
    """Its last step leaves weights that are no numbers."""

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 20:
            with torch.no_grad():
                next(self.network.parameters()).fill_(torch.inf)
        return super().loss(index, generator)


def test_weights_that_are_no_numbers_are_not_kept(tmp_path: Path):
    with pytest.raises(UserError, match="diverged"):
        fit(Overflowing(), config(images=8 * 20), tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path: Path):
    """What was logged after the last checkpoint is logged again, so no row may stand there twice."""
    with pytest.raises(Power):
        fit(Straight(), config(images=1600), tmp_path, report=stop_at(1000), checkpoint_seconds=-1)
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    assert [row["seen"] for row in read_log(tmp_path)] == [400, 800]
    with pytest.raises(Power):
        fit(Straight(), config(images=1600), tmp_path, resume=True, report=stop_at(1440), checkpoint_seconds=60)
    assert len(list(read_log(tmp_path))) == 3
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"seen": 14')  # Cut off while it was written.
    fit(Straight(), config(images=1600), tmp_path, resume=True)
    seen = [row["seen"] for row in read_log(tmp_path)]
    assert seen == sorted(set(seen))
    assert seen[:2] == [400, 800]
    assert seen[-1] == 1600


def test_a_checkpoint_of_another_way_to_compute_adamw_goes_on(tmp_path: Path):
    """Older checkpoints were saved with foreach; they go on with the optimiser that is used now, to the last bit."""
    whole = fit(Straight(), config(), tmp_path / "whole")
    with pytest.raises(Power):
        fit(Straight(), config(), tmp_path / "run", report=stop_at(56), checkpoint_seconds=-1)
    path = tmp_path / "run" / "checkpoint.pt"
    values = torch.load(path, weights_only=True)
    for group in values["optimiser"][0]["param_groups"]:
        group.update(foreach=True, fused=None)
    values["optimiser"] = values["optimiser"][0]  # And before there was a second optimiser.
    values["config"] = values["config"].replace("muon=False, ", "")
    torch.save(values, path)
    assert equal(weights(fit(Straight(), config(), tmp_path / "run", resume=True)), weights(whole))
    groups = torch.load(path, weights_only=True)["optimiser"][0]["param_groups"]
    assert [(group["fused"], group["foreach"]) for group in groups] == [(True, None)] * 2


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_used_where_the_device_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: bool):
    assert isinstance(computes_bf16(torch.device("cpu")), bool)
    used: list[bool] = []

    class Looking(Straight):
        def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            used.append(torch.is_autocast_enabled("cpu"))
            return super().loss(index, generator)

    monkeypatch.setattr(fitting, "computes_bf16", lambda _: has)
    fit(Looking(), config(images=8, bf16=True), tmp_path / "a")
    fit(Looking(), config(images=8, bf16=False), tmp_path / "b")
    assert used == [has, False]


def test_more_processes_than_pictures_in_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch is 2 for 3 processes"):
        fit(Straight(), config(batch=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()
