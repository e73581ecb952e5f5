"""The header of a file that PyTorch pickled: names, dtypes, shapes and places, with none of its code run.

Imports no torch. Three formats hold a pickle of tensors and, beside it, the bytes of their storages:

- zip, since PyTorch 1.6: `NAME/data.pkl`, and a record `NAME/data/KEY` for each storage, not compressed;
- stream, before: pickles of a magic number, a version, the system and the value, then a list of keys, then for each a
  count of eight bytes and the numbers;
- tar, before 2017: in `pickle_tar`.

`torch.load(weights_only=True)` would do the same for most zip files. It maps no stream into memory, refuses tar,
pickles of protocol 4 and every checkpoint that mentions a class of its trainer, and calls real functions of torch with
what the file tells. Here the pickle only says where the numbers lie (`unpickle`), and everything it says is checked
against the file. Tests hold that the tensors are those that PyTorch's weights-only reader gives.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from math import prod
from pathlib import Path
from struct import Struct
from typing import IO, Any, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from mezzotint.store.header import ITEM_BYTES, MAX_HEADER, PICKLE, Header, TensorEntry, are_places, is_shape, shown
from mezzotint.store.unpickle import BROKEN, Inert, Machine, Refused
from mezzotint.types import UserError

ZIP = b"PK\x03\x04"
TAR, TAR_AT = b"ustar", 257
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What a stream begins with."""
COUNT = Struct("<Q")
"""How many numbers follow, in streams and tar files."""
GIT_LFS = b"version https://git-lfs"

WIDTHS = ITEM_BYTES | {"uint16": 2, "uint32": 4, "uint64": 8, "complex32": 4, "complex64": 8, "complex128": 16}
"""Bytes of one number by torch's name of its dtype, those included that are only stepped over."""
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
"""The dtypes of PyTorch's storages, by the last part of their names."""
MENTIONED = frozenset(
    {f"torch.{name}" for name in [*STORAGES, *WIDTHS]}
    | {f"torch.{name.replace('Storage', 'Tensor')}" for name in STORAGES}
    | {f"torch.cuda.{name}" for name in STORAGES}
    | {"torch.storage.UntypedStorage", "torch.storage._UntypedStorage"}
    | {"torch.Tensor", "torch._tensor.Tensor"}
)
"""What a pickle of tensors may name without calling it."""
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""What training scripts call the dictionary of the weights; all but the first only where no tensor stands beside it."""
PARAMETERS = "torch.nn.modules.container.ParameterDict"
MAX_NAME = 1000
"""Characters of a tensor's name; longer ones are only made to take memory."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that tensors are views of: those of the record `key`, without the first `skipped`."""

    key: str | int
    dtype: str
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as a pickle tells of it: which numbers of a storage, row after row as the strides say."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """What a format's reader finds: the pickled value, and where the bytes [begin, end) of a record lie."""

    value: Any
    record: Callable[[str | int], tuple[int, int]]


def read_pickle_header(path: Path) -> Header:
    """The header of a file that PyTorch pickled; numbers and words beside the tensors are its metadata.

    WRAPPERS are unwrapped. Tensors in dictionaries within dictionaries get their names joined by dots; a tensor that
    stands alone is called `tensor`. Raises UserError naming what the pickle wanted to call, or saying what is damaged.
    """
    head, pickled = b"", False
    try:
        with path.open("rb") as file:
            head = file.read(TAR_AT + len(TAR))
            file.seek(0)
            pickled = head.startswith((ZIP, bytes([PICKLE]))) or head[TAR_AT:] == TAR
            if head.startswith(ZIP):
                contents = _zipped(path, file)
            elif head[TAR_AT:] == TAR:
                from mezzotint.store.pickle_tar import tarred

                contents = tarred(path, file)
            else:
                contents = _streamed(path, file)
            return _header(path, contents)
    except UserError:
        raise
    except Refused as error:
        raise UserError(
            f"{path} wants to call {shown(error.name)}, which no weights need: it was refused and nothing was run; "
            f"get the weights as safetensors, or from someone you trust."
        ) from error
    except (*BROKEN, BadZipFile, zlib.error, EOFError) as error:
        if head.startswith(GIT_LFS):
            raise UserError(f"{path} is a pointer of Git LFS, not the weights: run `git lfs pull`.") from error
        if not pickled:
            raise UserError(f"{path} is neither safetensors nor a file that PyTorch saved: get it again.") from error
        raise UserError(f"{path} is a file that PyTorch saved, but is damaged or cut short: get it again.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def tensor_machine(stored: Callable[[Any], Any]) -> Machine:
    """A machine that knows how PyTorch pickles tensors, and nothing else."""

    def of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
        """What `_rebuild_from_type_v2` tells: a tensor of a class of its own, which is a tensor."""
        return machine.call(function, arguments)

    functions: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": _view,
        "torch._utils._rebuild_tensor_v2": _view,
        "torch._utils._rebuild_tensor_v3": _view_of_dtype,
        "torch._utils._rebuild_parameter": _itself,
        "torch._utils._rebuild_parameter_with_state": _itself,
        "torch._utils._rebuild_device_tensor_from_cpu_tensor": _itself,
        "torch.nn.parameter.Parameter": _itself,
        "torch._tensor._rebuild_from_type_v2": of_type,
        "torch.Size": tuple,
    }
    machine = Machine(functions, MENTIONED, stored)
    return machine


def _itself(data: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return data


def _view(storage: Any, offset: Any, shape: Any, strides: Any, _: Any = None, __: Any = None, bits: Any = None) -> View:
    """What `_rebuild_tensor` and `_rebuild_tensor_v2` tell. Raises ValueError for a lazily negated tensor."""
    if not isinstance(storage, Storage) or not is_shape(shape) or not are_places([offset, *strides]):
        raise TypeError
    if len(shape) != len(strides) or (bits and any(bits.values())):
        raise ValueError
    return View(storage, storage.dtype, offset, tuple(shape), tuple(strides))


def _view_of_dtype(storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *___: Any) -> View:
    """What `_rebuild_tensor_v3` tells: the dtypes that have no storage of their own."""
    return replace(_view(storage, offset, shape, strides), dtype=dtype.name.removeprefix("torch."))


def _storage(told: Any) -> Storage:
    """The storage that a persistent id tells of. Raises ValueError for any other id."""
    if not isinstance(told, tuple) or len(cast("tuple[Any, ...]", told)) not in (5, 6):
        raise TypeError
    word, kind, key, _, count, *more = cast("tuple[Any, ...]", told)
    if word != "storage" or not are_places([count]):
        raise TypeError
    if more and more[0] is not None:  # A view of a storage, which PyTorch wrote before 0.4.
        if not are_places([more[0][1]]):
            raise TypeError
        return Storage(record_key(key), storage_dtype(kind), more[0][1])
    return Storage(record_key(key), storage_dtype(kind))


def record_key(key: Any) -> str | int:
    """The key itself. Raises TypeError for one of another type: to hash a deep nest of tuples ends the process."""
    if not isinstance(key, (str, int)):
        raise TypeError
    return key


def storage_dtype(kind: Any) -> str:
    """The dtype of a type of storage. Raises LookupError where PyTorch has none of that name."""
    return STORAGES[kind.name.rpartition(".")[2]]


def _zipped(path: Path, file: IO[bytes]) -> Contents:
    with ZipFile(file) as archive:
        listed = archive.infolist()
        records = {info.filename: info for info in listed}
        folder = listed[0].filename.partition("/")[0] if listed else ""
        told = records.get(f"{folder}/data.pkl")
        if told is None:
            raise UserError(f"{path} is a zip file that PyTorch did not write: give the file of weights itself.")
        if f"{folder}/constants.pkl" in records:
            raise UserError(f"{path} is a TorchScript program, not weights alone: get them as safetensors.")
        if len(records) < len(listed) or told.file_size > MAX_HEADER:
            raise ValueError
        if told.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError
        order = records.get(f"{folder}/byteorder")
        if order is not None and order.compress_type == ZIP_STORED and archive.read(order) == b"big":
            raise UserError(f"{path} has the bytes of its numbers in the other order: save it on another machine.")
        with archive.open(told) as opened:
            value = tensor_machine(_storage).run(BytesIO(opened.read(MAX_HEADER)))

    def record(key: str | int) -> tuple[int, int]:
        """The bytes of a storage, which stand behind a header of their own."""
        info = records[f"{folder}/data/{key}"]
        if info.compress_type != ZIP_STORED or info.flag_bits & 1:
            raise UserError(f"{path} is compressed, which PyTorch does not do: pack it again without compression.")
        file.seek(info.header_offset)
        head = file.read(30)
        if not head.startswith(ZIP):
            raise BadZipFile
        begin = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        return begin, begin + info.file_size

    return Contents(value, record)


def _streamed(path: Path, file: IO[bytes]) -> Contents:
    widths: dict[str | int, int] = {}

    def stored(told: Any) -> Any:
        if isinstance(told, tuple) and told[:1] == ("module",):  # A class, with its source text.
            return cast("tuple[Any, ...]", told)[1]
        storage = _storage(told)
        widths[storage.key] = WIDTHS[storage.dtype]
        return storage

    machine = tensor_machine(stored)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stream = cast("IO[bytes]", data)
        if machine.run(stream) != MAGIC:
            raise UserError(f"{path} is a pickle that PyTorch did not write: get the weights as safetensors.")
        if machine.run(stream) != VERSION or machine.run(stream).get("little_endian") is not True:
            raise ValueError
        value, keys = machine.run(stream), machine.run(stream)
        places: dict[str | int, tuple[int, int]] = {}
        for key in keys:
            width = widths[record_key(key)]
            (count,) = COUNT.unpack(data.read(COUNT.size))
            places[key] = (data.tell(), data.tell() + count * width)
            data.seek(places[key][1])  # ValueError beyond the end of the file.
    return Contents(value, places.__getitem__)


def _header(path: Path, contents: Contents) -> Header:
    """The header of what a reader found; every tensor must lie in its storage, and every storage in the file."""
    value, metadata = contents.value, {}
    for _ in range(8):  # Nested at all is rare; a pickle that nests itself ends here.
        if not isinstance(value, dict):
            break
        metadata |= {key: str(item) for key, item in value.items() if isinstance(key, str) and _is_plain(item)}
        names = WRAPPERS[:1] if any(isinstance(item, View) for item in value.values()) else WRAPPERS
        inner = next((value[name] for name in names if isinstance(value.get(name), dict)), None)
        if inner is None:
            break
        value = cast("dict[Any, Any]", inner)
    size = path.stat().st_size
    records: dict[str | int, tuple[int, int]] = {}
    entries: dict[str, TensorEntry] = {}
    for name, view in _views(value, None, set()):
        key = view.storage.key
        if key not in records:
            records[key] = contents.record(key)
        begin, end = records[key]
        if name in entries or end > size:
            raise ValueError
        entries[name] = _entry(path, name, view, begin, end)
    return Header(path, entries, metadata)


def _is_plain(value: Any) -> bool:
    """Whether it is a word or a number that can stand in metadata."""
    return isinstance(value, (str, float)) or (isinstance(value, int) and abs(value) < 2**63)


def _views(value: Any, name: str | None, seen: set[int]) -> Iterator[tuple[str, View]]:
    """All tensors by name, each container visited once; what else there is stays out."""
    if isinstance(value, View):
        yield "tensor" if name is None else name, value
        return
    if isinstance(value, Inert) and value.name == PARAMETERS and isinstance(value.state, dict):
        value = value.state.get("_parameters")
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return
    seen.add(id(value))
    if name is not None and len(name) > MAX_NAME:
        raise ValueError
    items = value.items() if isinstance(value, dict) else enumerate(cast("list[Any]", value))
    for key, item in items:
        if isinstance(key, (str, int)):
            yield from _views(item, str(key) if name is None else f"{name}.{key}", seen)


def _entry(path: Path, name: str, view: View, begin: int, end: int) -> TensorEntry:
    """Where a tensor lies in a record of the bytes [begin, end). Raises ValueError where that is not within it."""
    if view.dtype not in ITEM_BYTES:
        raise UserError(f"{path} has tensor {shown(name)} of dtype {shown(view.dtype)}, which cannot be read here.")
    width = ITEM_BYTES[view.dtype]
    first = begin + view.storage.skipped * WIDTHS[view.storage.dtype] + view.offset * width
    if prod(view.shape) == 0:
        return TensorEntry(view.dtype, view.shape, begin, begin)
    steps = sum((side - 1) * stride for side, stride in zip(view.shape, view.strides, strict=True))
    last = first + (steps + 1) * width
    if last > end:
        raise ValueError
    rows = [prod(view.shape[axis + 1 :]) for axis in range(len(view.shape))]
    plain = all(side == 1 or stride == row for side, stride, row in zip(view.shape, view.strides, rows, strict=True))
    return TensorEntry(view.dtype, view.shape, first, last, None if plain else view.strides)
