"""One part of a model in a folder of its own: config.json and safetensors, sharded where it would be large."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mezzotint.store.beside import make_folder
from mezzotint.store.facts import write_json
from mezzotint.store.source import open_source
from mezzotint.store.weights import build, in_dtype, write_tensors

Module = TypeVar("Module", bound=nn.Module)

STEM = "diffusion_pytorch_model"
SHARD = 5 * 10**9
"""The most bytes that one weight file of a part holds, unless told otherwise."""


def save_part(
    module: nn.Module,
    config: dict[str, Any],
    folder: Path,
    *,
    stem: str = STEM,
    dtype: torch.dtype | None = None,
    shard: int = SHARD,
) -> list[Path]:
    """Write config.json and the weights, cast to `dtype` if given; returns the weight files.

    Weights above `shard` bytes are split over shards named by an index file, as diffusers and transformers do.
    Raises UserError where the folder cannot be written.
    """
    make_folder(folder)
    state = {name: tensor.cpu().contiguous() for name, tensor in in_dtype(module.state_dict(), dtype).items()}
    shards = _shards(state, shard)
    names = [f"{stem}.safetensors"]
    if len(shards) > 1:
        names = [f"{stem}-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        write_tensors(tensors, folder / name)
    if len(shards) > 1:
        places = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
        total = sum(tensor.nbytes for tensor in state.values())
        write_json({"metadata": {"total_size": total}, "weight_map": places}, folder / f"{stem}.safetensors.index.json")
    for old in set(folder.glob(f"{stem}*.safetensors")) - {folder / name for name in names}:
        old.unlink()
    if len(shards) == 1:
        (folder / f"{stem}.safetensors.index.json").unlink(missing_ok=True)
    write_json(config, folder / "config.json")
    return [folder / name for name in names]


def load_part(make: Callable[[], Module], folder: Path, *, stem: str = STEM) -> Module:
    """The module that `make` makes with the weights in the folder, fixed, in float32. Raises UserError as `build`."""
    sources = [open_source(path) for path in sorted(folder.glob(f"{stem}*.safetensors"))]
    return build(make, sources, device=torch.device("cpu"), dtype=torch.float32)


def _shards(state: dict[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Tensors in their order, in as few groups of at most so many bytes as that allows."""
    shards: list[dict[str, Tensor]] = [{}]
    room = most
    for name, tensor in state.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = most
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards
