"""Several processes that train one network: each takes its share of every batch, and their gradients are averaged.

torchrun tells each process its number (RANK) and how many there are (WORLD_SIZE). On a CPU one process a core is
quicker than one process with a thread a core, because they wait for each other once a step, not at every operation.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, distributed, nn


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
    """This process's device: where several processes share a machine with several GPUs, each has its own."""
    if count() == 1 or device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def join(device: torch.device) -> None:
    """Meet the other processes, if there are any."""
    if count() > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        distributed.barrier()


def share(index: Tensor) -> Tensor:
    """This process's part of a batch [B]."""
    return index[rank() :: count()]


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
