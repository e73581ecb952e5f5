"""Several processes train as one does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mezzotint.cli import main
from mezzotint.training import workers
from mezzotint.types import UserError

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


def test_one_that_does_not_come_is_not_waited_for():
    gone = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(UserError, match="ended with code 3"), workers.company(gone, 2):
        workers.join()


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
    workers.join()  # Meets nobody,
    workers.wait()  # and waits for nobody.


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path):
    port = free_port()
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


GATHER = """
import torch
from mezzotint.training import workers
workers.join()
everything = torch.arange(10.0).view(5, 2)
rows = workers.share(everything).clone().requires_grad_(True)
everyone, own = workers.gathered(rows)
assert torch.equal(everyone.detach(), torch.cat([everything[0::2], everything[1::2]]))
assert torch.equal(everyone[own], rows)
((everyone @ everyone.T)[own] ** 2).sum().backward()
whole = torch.cat([everything[0::2], everything[1::2]]).requires_grad_(True)
((whole @ whole.T) ** 2).sum().backward()
assert torch.allclose(rows.grad, whole.grad[own])
"""


@pytest.mark.slow
def test_rows_of_all_processes_and_their_gradient():
    """Uneven shares too; what one process makes of another's rows finds its way back there."""
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", GATHER], env={**os.environ, **there, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]


def test_a_refusal_in_one_process_alone_is_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    error = UserError("The picture is broken.")
    with pytest.raises(UserError) as raised, workers.agreed():
        raise error
    assert raised.value is error
    workers.leave()  # Nobody was met.


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch):
    done: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", done.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *backend, **options: done.append(backend))
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    workers.join()
    assert done == [1, ("cpu:gloo,cuda:nccl",)]  # The device is set before the others are met.
    assert workers.own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert workers.own_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes for 1 GPUs"):
        workers.own_device(torch.device("cuda"))


def together(*arguments: str) -> list[tuple[int, str, str]]:
    """What `mezzotint` says in two processes: exit code, stdout and stderr of each."""
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "mezzotint", *arguments],
            env={**os.environ, **there, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["vae", "debug", "imagse=3"], "no setting 'imagse'"),  # Every process finds out,
        (["vae", "debug", "--out", "file"], "cannot be written"),  # the first alone,
        (["vae", "debug", "batch=2", "--data", "data", "--out", "run"], "b.png is not"),  # or any one of them.
    ],
)
def test_all_refuse_what_one_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], said: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "data" / f"{name}.txt").write_text(name)
        Image.new("RGB", (32, 32)).save(tmp_path / "data" / f"{name}.png")
    (tmp_path / "data" / "b.png").write_bytes(b"none")
    first, second = together("train", *settings, "--device", "cpu")
    assert (first[0], second[0]) == (2, 2), first[2] + second[2]
    assert first[2].startswith("mezzotint: ")
    assert said in first[2]
    assert first[2].count("\n") == 1
    assert second[1:] == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["clip", "bert"])
def test_two_processes_train_all_stages(tmp_path: Path, encoder: str):
    run = tmp_path / "run"
    settings = ("debug", "scenes=12", f"encoder={encoder}", "decoder.adversary=0.5")
    first, second = together("train", "all", *settings, "--out", str(run), "--device", "cpu", "--json")
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert (run / "model" / "model_index.json").exists()
    assert second[1:] == ("", "")


@pytest.mark.slow
def test_the_command_starts_the_others_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before, threads = dict(os.environ), torch.get_num_threads()
    arguments = ("debug", "scenes=12", "--out", str(tmp_path / "run"), "--device", "cpu")
    assert main(["train", "all", *arguments, "--processes", "2"]) == 0
    assert (tmp_path / "run" / "model" / "model_index.json").exists()
    assert (dict(os.environ), torch.get_num_threads()) == (before, threads)
    capsys.readouterr()
    assert main(["train", "vae", *arguments, "--processes", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1  # It was begun there before, and one process says so.


def test_no_number_of_processes_that_cannot_be(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "all", "debug", "--processes", "0"]) == 2
    assert "--processes is 0" in capsys.readouterr().err


def test_a_crash_of_another_process_is_told():
    crash = [sys.executable, "-c", "raise SystemExit(9)"]
    with pytest.raises(UserError, match="ended with code 9"), workers.company(crash, 2):
        raise RuntimeError("Connection closed by peer.")
    error = RuntimeError("This process's own.")
    with pytest.raises(RuntimeError) as raised, workers.company([sys.executable, "-c", ""], 2):
        raise error
    assert raised.value is error
    assert "RANK" not in os.environ


def test_processes_follow_cores_and_batch(monkeypatch: pytest.MonkeyPatch):
    from mezzotint.cli.train import Options, processes

    monkeypatch.setattr(workers, "cores", lambda: 16)
    small = Options(stage="unet", recipe="debug", device="cpu")
    assert processes(small) == 1  # 8 images a batch are for one.
    assert processes(Options(stage="unet", recipe="still-life-64", device="cpu")) == 2
    assert processes(Options(stage="unet", recipe="debug", settings=("batch=4096",), device="cpu")) == 16
