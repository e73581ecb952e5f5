"""Modules made without memory and filled from files of tensors: nothing missing, nothing left over, no number broken.

A weight goes to its final dtype and device once. On a CPU, one that is stored in the dtype asked for stays a view of
the mapped file; any other is converted tensor by tensor, and the file's pages are let go as soon as they have been
read, so what is resident while a model loads is about the model itself.

To find a number that is not finite all have to be read. A caller that has the time later takes an `Unread` along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mezzotint.store.beside import file_beside
from mezzotint.store.header import shown
from mezzotint.store.keymap import KeyMap, Piece, shape_of, taken
from mezzotint.store.source import Source, is_askew
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


class Unread:
    """Weights that lie in a mapped file as they are wanted, and of which no number has been looked at."""

    def __init__(self) -> None:
        self.bytes = 0
        self._checks: list[Callable[[], None]] = []

    def add(self, check: Callable[[], None], size: int) -> None:
        """Leave weights of so many bytes to be looked at later, by `check`."""
        self._checks.append(check)
        self.bytes += size

    def settle(self) -> None:
        """Look at what is left. Raises UserError naming a tensor that is not finite."""
        while self._checks:
            self._checks[-1]()
            self._checks.pop()
        self.bytes = 0


def as_named(name: str) -> str | None:
    """The name itself: the field's own names need no map."""
    return name


def nothing(name: str) -> bool:
    """Whether a file may have a tensor that the module has no use for: none."""
    return False


def build(
    make: Callable[[], Module],
    sources: Iterable[Source],
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    rename: Rename = as_named,
    places: KeyMap | None = None,
    ignored: Callable[[str], bool] = nothing,
    unread: Unread | None = None,
) -> Module:
    """The module that `make` makes, in evaluation mode, with the weights of the files.

    It is made on the meta device and the tensors that are read become its parameters, so no weight is initialised in
    vain. `dtype` none keeps each tensor as it is stored. Where the files have another layout, `places` tells where each
    tensor of the module lies, and `ignored` which names in the files are not this module's; else `rename` tells our
    name for each of theirs. What stays in the mapped file is left to `unread`, if that is given, to be looked through.
    Raises UserError naming the file and a tensor that is missing, unused, of another shape, not finite, or cannot be
    read.
    """
    try:
        with torch.device("meta"), Unfilled():
            module = make()
    except (RuntimeError, ArithmeticError, MemoryError) as error:
        raise UserError("The config tells of sizes of which no network can be made: get it again.") from error
    sources = list(sources)
    found: dict[str, Source] = {}
    for source in sources:
        for name in source.entries:
            if name in found:
                raise _twice(source, name)
            found[name] = source
    if places is None:
        places = _renamed(found, rename)
        ignored = lambda name: rename(name) is None  # noqa: E731 - in the place of the argument
    wanted = module.state_dict()
    _check(sources, found, wanted, places, ignored)
    state = _filled(sources, {name: places[name] for name in wanted}, device, dtype, unread)
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def _renamed(found: Mapping[str, Source], rename: Rename) -> KeyMap:
    """The map that a change of names is. Raises UserError where two tensors would have one name."""
    places: dict[str, Piece] = {}
    for name, source in found.items():
        ours = rename(name)
        if ours in places:
            raise _twice(source, name)
        if ours is not None:
            places[ours] = Piece(name)
    return places


def _check(
    sources: list[Source],
    found: Mapping[str, Source],
    wanted: Mapping[str, Tensor],
    places: KeyMap,
    ignored: Callable[[str], bool],
) -> None:
    """Raise UserError unless every tensor of the module is found in its shape, and every tensor found is used."""
    used = {piece.source for name, piece in places.items() if name in wanted}
    for name, source in found.items():
        if name not in used and not ignored(name):
            raise UserError(
                f"{source.path} has the tensor {shown(name)}, which the model has not: it belongs to another model."
            )
    missing: list[str] = []
    for ours, tensor in wanted.items():
        shape = tuple(tensor.shape)
        piece = places.get(ours)
        if piece is None or piece.source not in found:
            missing.append(ours if piece is None else piece.source)
            continue
        source = found[piece.source]
        foreign, dtype = source.entries[piece.source].shape, source.entries[piece.source].dtype
        if tensor.is_floating_point() and "float" not in dtype:
            raise UserError(
                f"{source.path} has {shown(piece.source)} of dtype {dtype}, which no weights are: get it again."
            )
        try:
            fits = shape_of(piece, foreign) == shape
        except UserError as error:
            raise UserError(f"{source.path}: {error}") from error
        if not fits:
            raise UserError(
                f"{source.path} has {shown(piece.source)} of shape {list(foreign)}; "
                f"the model has {ours} of {list(shape)}."
            )
    if missing:
        where = sources[0].path if sources else "The model"
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{where} lacks the tensor {missing[0]}{more}, which the model needs.")


def _filled(
    sources: list[Source], places: KeyMap, device: torch.device, dtype: torch.dtype | None, unread: Unread | None
) -> dict[str, Tensor]:
    """The tensors of a module by name, read in the order they lie in. Raises UserError where one is not finite."""
    users: dict[str, list[tuple[str, Piece]]] = {}
    for ours, piece in places.items():
        users.setdefault(piece.source, []).append((ours, piece))
    state: dict[str, Tensor] = {}
    for source in sources:
        sums: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, _ in sorted(source.entries.items(), key=lambda item: item[1].begin):
            if name not in users:
                continue
            foreign = source.view(name)
            copied = True
            for ours, piece in users[name]:
                tensor = taken(piece, foreign)
                final = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                # A part of a tensor, or one that is used twice, would hold on to the whole.
                if len(users[name]) == 1 and _stays(tensor, foreign, device, final):
                    state[ours], copied = tensor, False
                    if unread is not None and final.is_floating_point:
                        kept[ours] = tensor
                        continue
                else:
                    state[ours] = torch.empty(tensor.shape, dtype=final, device=device).copy_(tensor)
                if final.is_floating_point:
                    sums[ours] = _sum(state[ours])
            if copied:
                source.release(name)
        _check_finite(source, places, state, sums)
        if unread is not None and kept:
            unread.add(partial(_look_through, source, places, kept), sum(tensor.nbytes for tensor in kept.values()))
    return state


def _look_through(source: Source, places: KeyMap, kept: Mapping[str, Tensor]) -> None:
    """Raise UserError naming one of these tensors, views of the file, that is not finite."""
    _check_finite(source, places, kept, {ours: _sum(tensor) for ours, tensor in kept.items()})


def _stays(tensor: Tensor, foreign: Tensor, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a tensor is already what it has to be, where it lies in the file."""
    whole = tensor.dtype == dtype and tensor.numel() == foreign.numel()
    return whole and device.type == "cpu" and tensor.is_contiguous() and not is_askew(tensor)


def _sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor, in 32 bits: not finite if one number is not. It costs as much as reading them."""
    return (tensor.float() if tensor.dtype.itemsize == 1 else tensor).sum().float()


def _is_finite(tensor: Tensor) -> bool:
    return bool((tensor.float() if tensor.dtype.itemsize == 1 else tensor).isfinite().all())


def _check_finite(source: Source, places: KeyMap, state: Mapping[str, Tensor], sums: Mapping[str, Tensor]) -> None:
    """Raise UserError naming a tensor with NaN or an infinite number; only where a sum is not finite is it sought."""
    if not sums or _is_finite(torch.stack(list(sums.values()))):
        return
    for ours, total in sums.items():
        if _is_finite(total) or _is_finite(state[ours]):
            continue
        name = places[ours].source
        if _is_finite(source.tensor(name)):
            dtype = str(state[ours].dtype).removeprefix("torch.")
            raise UserError(f"{source.path} has numbers in {shown(name)} too large for {dtype}: ask for float32.")
        raise UserError(f"{source.path} has numbers in {shown(name)} that are NaN or infinite: get it again.")


def _twice(source: Source, name: str) -> UserError:
    return UserError(f"{source.path} has the tensor {shown(name)} a second time: keep one file of them.")


def in_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors, those of floating point in `dtype` if it is given. Raises UserError naming one that has no room."""
    final = {
        name: tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in tensors.items()
    }
    for name, tensor in final.items():
        if tensor is not tensors[name] and not _is_finite(_sum(tensor)) and not _is_finite(tensor):
            told = str(dtype).removeprefix("torch.")
            raise UserError(f"The weights have numbers in {name} too large for {told}: take bfloat16, or float32.")
    return final


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and text to a safetensors file, by write-and-rename. Raises UserError where it cannot."""
    with file_beside(path) as temporary:
        try:
            # transformers refuses a file that does not say "pt".
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file(dict(tensors), temporary, metadata={"format": "pt", **(metadata or {})})
            temporary.chmod(mode)  # Else it may be for its owner's eyes alone.
        except SafetensorError as error:
            raise UserError(f"{path} cannot be written: {error}.") from error
