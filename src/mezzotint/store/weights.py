"""Modules made without memory and filled from safetensors files: nothing missing, nothing left over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mezzotint.store.beside import file_beside
from mezzotint.store.header import Header
from mezzotint.types import UserError

Module = TypeVar("Module", bound=nn.Module)
Rename = Callable[[str], str | None]
"""A name in a file to the name in the module; none where the module has no use for it, by nature."""


class Unfilled(TorchFunctionMode):
    """New tensors are not filled by chance: on the meta device that is in vain, and makes torch import its compiler."""

    FILLS = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "constant_"})

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Leave the tensor that would be filled as it is; do everything else."""
        named = kwargs if kwargs is not None else {}
        if getattr(func, "__name__", "") in self.FILLS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def as_named(name: str) -> str | None:
    """The name itself: the field's own names need no map."""
    return name


def build(
    make: Callable[[], Module],
    headers: Iterable[Header],
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    rename: Rename = as_named,
) -> Module:
    """The module that `make` makes, in evaluation mode, with the weights of the files.

    It is made on the meta device and the tensors that are read become its parameters, so no weight is initialised in
    vain. `dtype` none keeps each tensor as it is stored. Raises UserError naming a tensor that is missing, unused, of
    another shape, or cannot be read.
    """
    with torch.device("meta"), Unfilled():
        module = make()
    headers = list(headers)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    places = _places(headers, wanted, rename)
    state: dict[str, Tensor] = {}
    for header in headers:
        with _opened(header.path, device) as file:
            for name in header.tensors:
                target = places.get((header.path, name))
                if target is not None:
                    tensor = file.get_tensor(name)
                    state[target] = tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _places(
    headers: list[Header], wanted: Mapping[str, tuple[int, ...]], rename: Rename
) -> dict[tuple[Path, str], str]:
    """Which parameter each tensor of the files becomes. Raises UserError where that does not come out even."""
    places: dict[tuple[Path, str], str] = {}
    for header in headers:
        for name, entry in header.tensors.items():
            target = rename(name)
            if target is None:
                continue
            if target not in wanted:
                raise UserError(f"{header.path} has the tensor {name}, which the model in config.json has not.")
            if entry.shape != wanted[target]:
                raise UserError(
                    f"{header.path} has {name} of shape {list(entry.shape)}; "
                    f"the model in config.json has {list(wanted[target])}."
                )
            if target in places.values():
                raise UserError(f"{header.path} has the tensor {name} a second time: keep one file of them.")
            places[header.path, name] = target
    missing = sorted(wanted.keys() - set(places.values()))
    if missing:
        where = headers[0].path if headers else "The model"
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{where} lacks the tensor {missing[0]}{more}, which config.json asks for.")
    return places


def _opened(path: Path, device: torch.device) -> safe_open:
    try:
        return safe_open(path, framework="pt", device=str(device))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or cannot be read: get it again.") from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and text to a safetensors file, by write-and-rename. Raises UserError where it cannot."""
    with file_beside(path) as temporary:
        try:
            # transformers refuses a file that does not say "pt".
            save_file(dict(tensors), temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise UserError(f"{path} cannot be written: {error}.") from error
