"""The one training loop: any task that has a loss, counted in images, resumable at every checkpoint.

The order of pictures and all noise are functions of (seed, images seen), so a resumed run goes on as if it had never
stopped, and a schedule means the same at any batch size.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mezzotint.store.beside import file_beside, make_folder
from mezzotint.training import workers
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.muon import Muon, matrices
from mezzotint.types import UserError

COMPUTED = ("fused", "foreach")
"""Settings of an optimiser that say how it is computed, which is not what it has learnt."""
MOST_DIVERGED = 20
"""Steps in a row without a finite gradient, after which there is no hope."""

Network = TypeVar("Network", bound=nn.Module)


class Task(Protocol):
    """What `fit` trains."""

    @property
    def network(self) -> nn.Module:
        """All that is trained; its averaged copy is what a run leaves behind."""
        ...

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the pictures at these places [B] and figures to log; all chance comes from `generator`."""
        ...

    def __len__(self) -> int:
        """How many pictures there are."""
        ...


@dataclass(frozen=True)
class Progress:
    """What a step reports."""

    seen: int
    images: int
    seconds: float
    figures: dict[str, float]


def fit(
    task: Task,
    config: FitConfig,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    sample: Callable[[nn.Module, int], None] = lambda _network, _seen: None,
    sample_every: int = 0,
    checkpoint_seconds: float = 180,
) -> nn.Module:
    """Train, and return the averaged network (the network itself where no average is kept).

    folder holds checkpoint.pt, written aside and renamed, and log.jsonl with the figures. `resume` goes on from the
    checkpoint if there is one. `sample(network, images seen)` is called every `sample_every` images with the average.
    Of several processes (`workers`) each takes its share of every batch, and the first writes files and reports.
    Raises UserError where the training diverges, a checkpoint cannot be written, is damaged or of another configuration
    or network, or there are more processes than pictures in a batch.
    """
    if config.batch < workers.count():
        raise UserError(f"batch is {config.batch} for {workers.count()} processes: each needs at least one picture.")
    make_folder(folder)
    network = task.network
    device = next(network.parameters()).device
    workers.join()
    average = copy.deepcopy(network).requires_grad_(False) if config.ema > 0 else network
    bf16 = config.bf16 and computes_bf16(device)
    optimisers = _optimisers(network, config, bf16)
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    seen, spent = 0, 0.0
    if resume and checkpoint.exists():
        seen, spent = _restore(checkpoint, config, network, average, optimisers)
        if workers.leads():
            _cut(log, seen)
    elif workers.leads():
        log.unlink(missing_ok=True)
    began = saved = time.monotonic()
    sums: dict[str, float] = {}
    steps = diverged = 0
    while seen < config.images:
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = config.lr_at(seen)
        generator = torch.Generator().manual_seed(config.seed * 1_000_000_007 + seen + workers.rank())
        index = workers.share(places(len(task), seen, config.batch, config.seed))
        with workers.agreed(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss, figures = task.loss(index, generator)
        network.zero_grad(set_to_none=True)
        loss.backward()
        workers.average_gradients(network)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        if torch.isfinite(norm):
            for optimiser in optimisers:
                optimiser.step()
            diverged = 0
        else:
            diverged += 1
            if diverged == MOST_DIVERGED:
                raise _diverged(folder, seen)
        seen += config.batch
        if config.ema > 0:
            _blend(average, network, config.ema_decay(seen))
        if not workers.leads():
            continue
        for name, value in {"loss": loss.detach(), "gradient": norm, **figures}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        steps += 1
        now = time.monotonic()
        seconds = spent + now - began
        report(Progress(seen, config.images, seconds, {name: value / steps for name, value in sums.items()}))
        if steps == 50 or seen >= config.images:
            _append(log, {"seen": seen, "seconds": round(seconds, 1), **{k: v / steps for k, v in sums.items()}})
            sums, steps = {}, 0
        if sample_every > 0 and seen // sample_every > (seen - config.batch) // sample_every:
            sample(average, seen)
        if now - saved > checkpoint_seconds or seen >= config.images:
            if not all(bool(p.isfinite().all()) for p in network.parameters()):
                raise _diverged(folder, seen)
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": [optimiser.state_dict() for optimiser in optimisers],
                "seen": seen,
                "seconds": seconds,
                "config": repr(config),
            }
            _save(state, checkpoint)
            saved = time.monotonic()
    return average


def _optimisers(network: nn.Module, config: FitConfig, bf16: bool) -> list[torch.optim.Optimizer]:
    """AdamW, and before it Muon for the matrices that it is for, if so configured; `bf16` as for `Muon`."""
    muon = matrices(network) if config.muon else []
    theirs = {id(parameter) for parameter in muon}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in theirs]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    return [*([Muon(muon, lr=config.lr, weight_decay=config.weight_decay, bf16=bf16)] if muon else []), adamw]


def _save(state: Mapping[str, object], checkpoint: Path) -> None:
    """Raises UserError where it cannot be written; the one before it stays."""
    part = checkpoint.with_suffix(".part")
    try:
        torch.save(state, part)
        part.replace(checkpoint)
    except (OSError, RuntimeError) as error:  # torch raises the second where the disk is full.
        part.unlink(missing_ok=True)
        raise _unwritable(checkpoint, error) from error


def _unwritable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be written ({error}): go on with --resume when it can.")


def _diverged(folder: Path, seen: int) -> UserError:
    return UserError(f"The training in {folder} diverged at {seen} images: lower lr and begin it anew.")


def places(count: int, seen: int, batch: int, seed: int) -> Tensor:
    """Where the next `batch` pictures stand, [batch]: every epoch is a permutation of all of them."""
    parts: list[Tensor] = []
    left = batch
    while left > 0:
        epoch, offset = divmod(seen + batch - left, count)
        order = _permutation(count, epoch, seed)[offset : offset + left]
        parts.append(order)
        left -= len(order)
    return torch.cat(parts)


_last: dict[tuple[int, int, int], Tensor] = {}


def _permutation(count: int, epoch: int, seed: int) -> Tensor:
    key = (count, epoch, seed)
    if key not in _last:
        _last.clear()
        _last[key] = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    return _last[key]


def _blend(average: nn.Module, network: nn.Module, decay: float) -> None:
    ours = [p.detach() for p in network.parameters()]
    get_ema_multi_avg_fn(decay)(list(average.parameters()), ours, 0)


def _restore(
    path: Path, config: FitConfig, network: nn.Module, average: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> tuple[int, float]:
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        made_by = values["config"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged: remove it to begin this stage again.") from error
    if made_by not in (repr(config), repr(config).replace("muon=False, ", "")):  # Older ones know of no Muon.
        raise UserError(f"{path} was made by another configuration ({made_by}): resume with the same one.")
    try:
        network.load_state_dict(values["network"])
        average.load_state_dict(values["average"])
        kept = values["optimiser"]
        for state, optimiser in zip(kept if isinstance(kept, list) else [kept], optimisers, strict=True):
            for group, own in zip(state["param_groups"], optimiser.param_groups, strict=True):
                group.update({name: own[name] for name in COMPUTED if name in own})
            optimiser.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} was made for another network: resume with the same recipe.") from error
    return values["seen"], values["seconds"]


def computes_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; where it only imitates that, 32 bits are quicker."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportPrivateUsage]
    return True


def _cut(log: Path, seen: int) -> None:
    """Leave the rows up to `seen` images; what came after the checkpoint comes again."""
    if not log.exists():
        return
    rows = log.read_text(encoding="utf-8").splitlines(keepends=True)
    with file_beside(log) as part:
        part.write_text("".join(row for row in rows if _seen(row) <= seen), encoding="utf-8")


def _seen(row: str) -> float:
    """How many images a row of the log tells of; beyond all where it was not written to its end."""
    try:
        return json.loads(row)["seen"]
    except ValueError:
        return math.inf


def _append(log: Path, values: dict[str, Any]) -> None:
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
    except OSError as error:
        raise _unwritable(log, error) from error


def channels_last(network: Network) -> Network:
    """The network with its convolutions' weights laid out channel by channel, which CPUs compute faster; in place."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return network


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The figures that `fit` logged in a folder, oldest first."""
    with (folder / "log.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)
