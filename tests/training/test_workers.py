"""Several processes train as one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mezzotint.training import workers

TASK = """
import sys, torch
from pathlib import Path
from torch import nn
from mezzotint.training.fit import fit
from mezzotint.training.fit_config import FitConfig

class Straight:
    def __init__(self):
        torch.manual_seed(0)
        self.network = nn.Linear(3, 1)
        self.x = torch.randn(20, 3)
    def __len__(self):
        return 20
    def loss(self, index, generator):
        x = self.x[index]
        return (self.network(x) - x.sum(dim=1, keepdim=True)).square().mean(), {}

config = FitConfig(images=64, batch=8, lr=1e-2, warmup=8, ema=0, bf16=False)
network = fit(Straight(), config, Path(sys.argv[1]))
print(network.weight.flatten().tolist())
"""


def test_shares_make_up_the_batch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    parts: list[torch.Tensor] = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(workers.share(torch.arange(8)))
        assert workers.leads() == (rank == 0)
    assert torch.cat(parts).sort().values.tolist() == list(range(8))
    assert {len(part) for part in parts} == {2, 3}


def test_one_process_is_all_there_is_unless_told(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (workers.count(), workers.rank(), workers.leads()) == (1, 0, True)
    index = torch.arange(5)
    assert torch.equal(workers.share(index), index)
    workers.join(torch.device("cpu"))  # Meets nobody,
    workers.wait()  # and waits for nobody.


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told: list[list[float]] = []
    for count in (1, 2):
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TASK, str(tmp_path / str(count))],
                env={**os.environ, **there, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * count
        told += [[float(word) for word in output.strip("[]\n").split(",")] for output in outputs]
    one, first, second = told
    assert first == second
    # Two means of four, averaged, are a mean of eight in another order of addition.
    assert first == pytest.approx(one, rel=1e-4)
    assert {path.name for path in (tmp_path / "2").iterdir()} == {"checkpoint.pt", "log.jsonl"}
