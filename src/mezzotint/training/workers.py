"""Several processes that train one network: each takes its share of every batch, and their gradients are averaged.

`company`, or torchrun, tells each process its number (RANK) and how many there are (WORLD_SIZE). On a CPU one process a
core is quicker than one process with a thread a core, because they wait for each other once a step, not at every
operation.
"""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from mezzotint.types import UserError

PATIENCE = timedelta(days=1)
"""How long a process waits for the others: the first may render for hours, and torchrun ends all when one crashes."""


MEETING = "MEZZOTINT_MEETING"
"""The environment's word for the port at which the processes of `company` meet."""
_company: list[subprocess.Popen[bytes]] = []
"""The other processes that this one started."""


class AgreedError(UserError):
    """A refusal that every process knows of."""


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number."""
    return int(os.environ.get("RANK", "0"))


def leads() -> bool:
    """Whether this is the process that writes files and reports."""
    return rank() == 0


def own_device(device: torch.device) -> torch.device:
    """This process's device: where several processes share a machine with several GPUs, each has its own.

    Raises UserError where there are fewer GPUs than processes.
    """
    if count() == 1 or device.type != "cuda":
        return device
    here, there = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > there:
        raise UserError(
            f"There are {here} processes for {there} GPUs here: start as many as there are, or --device cpu."
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def cores() -> int:
    """How many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def company(command: Sequence[str], size: int) -> Generator[None]:
    """In here this process is the first of `size`; the others run the command. The cores are divided among them.

    At the end the others are waited for, or ended where this one failed. Raises UserError where it failed because
    another crashed.
    """
    threads, kept = torch.get_num_threads(), dict(os.environ)
    share_of_cores = max(1, cores() // size)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {MEETING: port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    told = [
        {**meeting, "RANK": number, "LOCAL_RANK": number, "OMP_NUM_THREADS": share_of_cores} for number in range(size)
    ]
    first, *rest = [{name: str(value) for name, value in one.items()} for one in told]
    os.environ.update(first)
    others = [subprocess.Popen(command, env={**os.environ, **one}) for one in rest]
    _company.extend(others)
    torch.set_num_threads(share_of_cores)
    try:
        yield
        for other in others:
            other.wait()
    except RuntimeError as error:
        crashed = [code for other in others if (code := _ended(other))]
        if not crashed:
            raise
        raise UserError(
            f"A process of the {size} that trained together ended with code {crashed[0]}: go on with --resume, and "
            "with fewer --processes if memory was short."
        ) from error
    finally:
        for other in others:
            other.terminate()
        _company.clear()
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(kept)


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process that has ended, or does so now; None while it runs."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=5)
    return None


def join() -> None:
    """Meet the other processes, if there are any; where there is a GPU for each it becomes this process's own.

    Raises UserError where one of this process's company ended before it came.
    """
    if count() == 1 or distributed.is_initialized():
        return
    own, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own < gpus:
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if gpus > 0 else "gloo"
    distributed.init_process_group(backend, store=_meeting(), rank=rank(), world_size=count(), timeout=PATIENCE)


def _meeting() -> distributed.TCPStore | None:  # pyright: ignore[reportPrivateImportUsage]
    """Where the processes of `company` find each other, all of them there; torchrun has a place of its own.

    The first looks after the others here, because what waits inside of torch hears of no crash and no Ctrl-C.
    """
    if MEETING not in os.environ:
        return None
    port, store = int(os.environ[MEETING]), distributed.TCPStore  # pyright: ignore[reportPrivateImportUsage]
    place = store("127.0.0.1", port, is_master=leads(), wait_for_workers=False, timeout=PATIENCE)
    place.add("here", 1)
    while leads() and place.add("here", 0) < count():
        if any(other.poll() is not None for other in _company):
            code = next(other.returncode for other in _company if other.returncode is not None)
            raise UserError(f"A process of the {count()} that were to train together ended with code {code}.")
        time.sleep(0.05)
    return place


def leave() -> None:
    """Take leave of the other processes, if they were met.

    What still holds on to them in circles is let go here: left to the interpreter's end, it aborts some processes.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        distributed.barrier()


@contextmanager
def agreed() -> Generator[None]:
    """What one process refuses in here, all refuse, by the same sentence; at its end they wait for one another.

    Whatever one process alone may refuse has to come after the last meeting in here, or before an inner `agreed` of the
    others. Raises UserError where any process did.
    """
    refusal = None
    try:
        yield
    except AgreedError:
        raise
    except UserError as error:
        if count() == 1:
            raise
        refusal = str(error)
    if count() == 1:
        return
    refusals = torch.tensor(0 if refusal is None else 1)
    distributed.all_reduce(refusals)
    if refusals > 0:
        said: list[str | None] = [None] * count()
        distributed.all_gather_object(said, refusal)
        raise AgreedError(next(sentence for sentence in said if sentence is not None))


def share(index: Tensor) -> Tensor:
    """This process's part of a batch [B]."""
    return index[rank() :: count()]


class _Gathered(torch.autograd.Function):
    """The rows of all processes; each process's share of the gradient is the sum of what all make of its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, total: int, own: slice) -> Tensor:
        ctx.own = own
        everyone = rows.new_zeros(total, *rows.shape[1:])
        everyone[own] = rows
        distributed.all_reduce(everyone)
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[ctx.own], None, None


def gathered(rows: Tensor) -> tuple[Tensor, slice]:
    """All processes' rows [B ...], process after process, and where this one's are among them.

    The mean loss of its own rows, averaged as `average_gradients` does, has the gradient of the mean over all, where
    all have as many.
    """
    if count() == 1:
        return rows, slice(0, len(rows))
    sizes = torch.zeros(count(), dtype=torch.int64, device=rows.device)
    sizes[rank()] = len(rows)
    distributed.all_reduce(sizes)
    ends = sizes.cumsum(0).tolist()
    own = slice(ends[rank()] - len(rows), ends[rank()])
    return cast("Tensor", _Gathered.apply(rows, ends[-1], own)), own


@torch.no_grad()
def average_gradients(network: nn.Module) -> None:
    """Give every process the mean of all processes' gradients, in one exchange."""
    if count() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(joined)
    joined /= count()
    for gradient, part in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
