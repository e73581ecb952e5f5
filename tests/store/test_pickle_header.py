"""Files that PyTorch pickled: the tensors that PyTorch itself finds in them, and none of the code that they carry."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mezzotint.store.header import read_header
from mezzotint.store.source import open_source
from mezzotint.types import UserError

BASE = torch.arange(24.0).reshape(4, 6)
TENSORS = {
    "weight": BASE,
    "first.bias": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bf16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "double": torch.tensor([0.1], dtype=torch.float64),
    "whole": torch.arange(5),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "truth": torch.tensor([True, False]),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "rows": BASE[1:3],
    "columns": BASE[:, 2:4],
    "turned": BASE.T,
    "repeated": torch.tensor([7.0]).expand(3),
    "eight": torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
    "parameter": nn.Parameter(torch.ones(2)),
}


def save(value: Any, path: Path, kind: str = "zip", protocol: int = 2) -> Path:
    """Write as torch.save does, in the format of its name."""
    if kind == "tar":
        return save_tar(value, path)
    torch.save(value, path, _use_new_zipfile_serialization=kind == "zip", pickle_protocol=protocol)
    return path


def save_tar(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """Write float32 tensors as PyTorch 0.1 did: for each a storage and a tensor, which the value names by a key."""
    storages, heads = io.BytesIO(), io.BytesIO()
    for file in (storages, heads):
        pickle.dump(len(tensors), file, protocol=2)
    keys: dict[str, int] = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        keys[name] = 100 + number
        pickle.dump((number, "cpu", torch.FloatStorage), storages, protocol=2)
        storage = tensor.detach().clone(memory_format=torch.contiguous_format).flatten()
        storages.write(struct.pack("<Q", len(storage)) + storage.numpy().tobytes())
        pickle.dump((100 + number, number, torch.FloatTensor), heads, protocol=2)
        strides = tensor.contiguous().stride()
        heads.write(struct.pack(f"<q{2 * tensor.ndim + 1}q", tensor.ndim, *tensor.shape, *strides, 0))
    pickle.dump([], storages, protocol=2)

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.key if isinstance(obj, Key) else None

    value = io.BytesIO()
    Pickler(value, protocol=2).dump(OrderedDict((name, Key(key)) for name, key in keys.items()))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, file in {"sys_info": io.BytesIO(), "pickle": value, "tensors": heads, "storages": storages}.items():
            member = tarfile.TarInfo(name)
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))
    return path


class Key:
    """A tensor in a value that is pickled for a tar file."""

    def __init__(self, key: int) -> None:
        self.key = key


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.float(), other.float())


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_the_tensors_are_those_that_torch_reads(tmp_path: Path, kind: str):
    """torch writes eight bits as a stream, and cannot read them again."""
    tensors = {name: tensor for name, tensor in TENSORS.items() if kind == "zip" or name != "eight"}
    path = save(tensors, tmp_path / "some.ckpt", kind)
    expected = torch.load(path, weights_only=True)
    source = open_source(path)
    assert list(source.entries) == list(expected) == list(tensors)
    for name, tensor in expected.items():
        entry = source.entries[name]
        assert (entry.dtype, entry.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        assert same(source.tensor(name), tensor), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_every_protocol_is_read(tmp_path: Path, kind: str, protocol: int):
    """torch.save refuses 0 and 1; its own weights-only reader, 4 and 5."""
    source = open_source(save(TENSORS, tmp_path / "some.pt", kind, protocol))
    assert all(same(source.tensor(name), tensor) for name, tensor in TENSORS.items())


def test_a_tar_file_is_read(tmp_path: Path):
    tensors = {name: TENSORS[name] for name in ("weight", "rows", "scalar", "turned")}
    path = save(tensors, tmp_path / "some.pt", "tar")
    expected = torch.load(path, weights_only=False)  # The only reader that torch has; the file is ours.
    source = open_source(path)
    assert list(source.entries) == list(expected)
    assert all(same(source.tensor(name), tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_the_bytes_of_a_tensor_lie_where_the_header_says(tmp_path: Path, kind: str):
    path = save({"a": torch.zeros(3), "b": BASE}, tmp_path / "some.pt", kind)
    entry = read_header(path).tensors["b"]
    assert entry.strides is None
    assert path.read_bytes()[entry.begin : entry.end] == BASE.numpy().tobytes()


def lightning(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """Classes as pytorch_lightning has them, to make a checkpoint such as it saves; gone when the test ends."""
    made: dict[str, type] = {}
    for module, name, base in [
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", object),
        ("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
        ("omegaconf.dictconfig", "DictConfig", object),
    ]:
        made[name] = type(name, (base,), {"__module__": module})
        for place in [*(module[:end] for end in range(len(module)) if module[end] == "."), module]:
            monkeypatch.setitem(sys.modules, place, types.ModuleType(place))
        setattr(sys.modules[module], name, made[name])
    return made


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_what_a_trainer_leaves_beside_the_weights_does_no_harm(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    made = lightning(monkeypatch)
    config = made["DictConfig"]()
    config.__dict__ = {"_content": {"lr": 0.1}, "_parent": config}
    value = {
        "epoch": 3,
        "global_step": 470_000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": OrderedDict(weight=BASE, step=torch.tensor(1), note="no tensor"),
        "callbacks": {made["ModelCheckpoint"]: {"best_model_score": np.float64(0.5), "array": np.arange(3)}},
        "hyper_parameters": made["AttributeDict"](lr=1e-4, config=config, size={8, 9}, z=1j, path=Path("x")),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }
    path = save(value, tmp_path / "some.ckpt", kind)
    monkeypatch.undo()
    source = open_source(path)
    assert list(source.entries) == ["weight", "step"]
    assert torch.equal(source.tensor("weight"), BASE)
    assert source.metadata == {
        "epoch": "3",
        "global_step": "470000",
        "pytorch-lightning_version": "1.4.2",
        "note": "no tensor",
    }


@pytest.mark.parametrize(
    "words", [["state_dict"] * 2, ["model_state_dict"], ["model"], ["module"], ["state_dict", "model"]]
)
def test_what_training_scripts_wrap_around_weights(tmp_path: Path, words: list[str]):
    value: dict[str, Any] = {"a.weight": BASE}
    for word in reversed(words):
        value = {word: value, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3}
    assert list(read_header(save(value, tmp_path / "some.pt")).tensors) == ["a.weight"]


def test_what_stands_beside_tensors_is_no_wrapper(tmp_path: Path):
    path = save({"model": {"weight": BASE}, "scale": BASE}, tmp_path / "some.pt")
    assert list(read_header(path).tensors) == ["model.weight", "scale"]
    path = save({"state_dict": {"weight": BASE}, "epoch": torch.tensor(1)}, tmp_path / "other.pt")
    assert list(read_header(path).tensors) == ["weight"]


def test_an_embedding_of_textual_inversion_is_named_by_its_place(tmp_path: Path):
    vectors = nn.ParameterDict({"*": nn.Parameter(torch.ones(2, 3))})
    path = save({"string_to_token": {"*": 265}, "string_to_param": vectors, "name": "cat"}, tmp_path / "cat.pt")
    source = open_source(path)
    assert {name: entry.shape for name, entry in source.entries.items()} == {"string_to_param.*": (2, 3)}
    assert source.metadata == {"name": "cat"}
    assert list(read_header(save([{"a": BASE}, BASE], tmp_path / "list.pt")).tensors) == ["0.a", "1"]
    assert list(read_header(save(BASE, tmp_path / "bare.pt")).tensors) == ["tensor"]


class Calls:
    """Pickled, it asks for a call of a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


CALLS: dict[str, Callable[[str], Calls]] = {
    f"{os.system.__module__}.system": lambda command: Calls(os.system, command),
    "builtins.eval": lambda command: Calls(eval, f"__import__('os').system({command!r})"),
    "builtins.exec": lambda command: Calls(exec, f"__import__('os').system({command!r})"),
    "builtins.getattr": lambda command: Calls(getattr, {}, "keys"),
    "subprocess.Popen": lambda command: Calls(subprocess.Popen, command.split()),
    "torch.serialization.load": lambda command: Calls(torch.load, command),
    "torch.storage._load_from_bytes": lambda command: Calls(torch.storage._load_from_bytes, command.encode()),
    "numpy.load": lambda command: Calls(np.load, command),
    f"{os.system.__module__}.popen": lambda command: Calls(print, Calls(os.system, command)),
}
CALLS["builtins.print"] = CALLS.pop(f"{os.system.__module__}.popen")  # The outer call is met first.


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("kind", "protocol"), [("zip", 2), ("zip", 4), ("stream", 2), ("stream", 5)])
def test_a_call_is_refused_by_its_name_and_not_made(tmp_path: Path, name: str, kind: str, protocol: int):
    mark = tmp_path / "mark"
    value = {"weight": BASE, "more": OrderedDict(deep=[(CALLS[name](f"touch {mark}"),)])}
    path = save(value, tmp_path / "some.ckpt", kind, protocol)
    with pytest.raises(UserError, match=f"wants to call {name}") as error:
        open_source(path)
    assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_refused_by_the_name_of_its_call(tmp_path: Path, name: str, protocol: int):
    mark = tmp_path / "mark"
    path = tmp_path / "some.safetensors"
    path.write_bytes(pickle.dumps(CALLS[name](f"touch {mark}"), protocol=protocol))
    with pytest.raises(UserError, match=f"wants to call {name}"):
        open_source(path)
    assert not mark.exists()


OPCODES = {
    "REDUCE": (b"cos\nsystem\n(S'touch MARK'\ntR.", "os.system"),
    "INST": (b"(S'touch MARK'\nios\nsystem\n.", "os.system"),
    "OBJ": (b"(cos\nsystem\nS'touch MARK'\no.", "os.system"),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\n(S'touch MARK'\nt\x81.", "subprocess.Popen"),
    "NEWOBJ_EX": (b"\x80\x04csubprocess\nPopen\n(S'touch MARK'\nt}\x92.", "subprocess.Popen"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0atouch MARK\x85R.", "os.system"),
    "STACK_GLOBAL with dots": (b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93\x8c\x01x\x85R.", "torch.os.system"),
    "BUILD on a class": (b"\x80\x02cmain\nThing\n}U\x08__call__K\x01sb.", "main.Thing"),
    "BUILD on a storage": (b"\x80\x02ctorch\nFloatStorage\n}b.", "torch.FloatStorage"),
    "a class of Python 2": (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval"),
    "a class of another package": (b"cfoo.bar\nBaz\n(tR.", "foo.bar.Baz"),
    "an extension": (b"\x80\x02\x82\x07.", "extension 7"),
    "a call in a persistent id": (b"(S'storage'\ncos\nsystem\nS'touch MARK'\ntQ.", "os.system"),
    "a tensor of a function": (
        b"ctorch._tensor\n_rebuild_from_type_v2\n(cfoo\nrun\nctorch\nTensor\n(S'touch MARK'\nt}tR.",
        "foo.run",
    ),
    "a name with colours and lines": (b"\x80\x04\x8c\x02os\x8c\x06\x1b[31m\n\x93.", r"os.\?\[31m\?"),
}


@pytest.mark.parametrize("kind", OPCODES)
def test_every_way_to_call_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pickled, name = OPCODES[kind]
    with zipfile.ZipFile("zipped.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    Path("plain.bin").write_bytes(pickled)
    begun = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    Path("stream.pt").write_bytes(b"".join(begun) + pickled)
    for path in ("zipped.ckpt", "plain.bin", "stream.pt"):
        with pytest.raises(UserError, match=f"wants to call {name}") as error:
            open_source(Path(path))
        assert "\n" not in str(error.value)
    assert not Path("MARK").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"S'storage'\nQ.",
        b"Pstorage\n.",
        b"(S'storage'\nS'x'\nS'0'\nS'cpu'\nI4\ntQ.",
        b"(S'module'\nS'x'\nS'0'\nS'cpu'\nI4\ntQ.",
        b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
        b"\x80\x02" + b")" + b"\x85" * 100_000 + b"q\x00(U\x07storagectorch\nFloatStorage\nh\x00U\x03cpuK\x01tQ.",
        b"\x80\x05\x97.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"(I1\nI2\nI3\nd.",
        b"0.",
        b"a.",
        b"h\x05.",
    ],
    ids=lambda pickled: repr(pickled[:40]),
)
def test_tricks_without_a_call_are_damage(tmp_path: Path, pickled: bytes):
    path = tmp_path / "odd.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(UserError, match=r"odd\.ckpt.*damaged"):
        open_source(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02})" + b"\x85" * 200_000 + b"U\x01as.",  # A deep key: to hash it would end the process.
        b"\x80\x02}r\xff\xff\xff\xff.",  # The last place of the memo, which CPython 3.11 makes room for.
    ],
    ids=["a deep nest of tuples as a key", "a far place in the memo"],
)
def test_what_would_take_the_interpreter_down_does_nothing(tmp_path: Path, pickled: bytes):
    path = tmp_path / "odd.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    assert open_source(path).entries == {}


@pytest.mark.parametrize("kind", ["zip", "stream", "tar"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95, -1])
def test_a_file_that_is_cut_short_is_told(tmp_path: Path, kind: str, kept: float):
    path = save({"a": torch.zeros(300), "b": torch.zeros(700)}, tmp_path / "some.ckpt", kind)
    if kind == "tar":  # It ends in blocks of nothing, which nobody misses.
        path.write_bytes(path.read_bytes().rstrip(b"\0"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if kept > 0 else -1])
    with pytest.raises(UserError, match=r"some\.ckpt"):
        open_source(path)


def rebuilt(path: Path, **changed: Any) -> Path:
    """A file whose one tensor says something else than is true of it."""

    class Odd:
        def __reduce__(self) -> Any:
            storage = torch.zeros(6)._typed_storage()
            told = {"offset": 0, "shape": (2, 3), "strides": (3, 1)} | changed
            made = (storage, told["offset"], told["shape"], told["strides"], False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, made

    return save({"a": Odd()}, path)


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**70},
        {"shape": (2, 4)},
        {"shape": (-2, -3)},
        {"shape": (2.0, 3)},
        {"shape": (True, 3)},
        {"strides": (-3, 1)},
        {"strides": (2**62, 1)},
        {"strides": (1,)},
        {"shape": (1,) * 100, "strides": (1,) * 100},
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path, changed: dict[str, Any]):
    assert list(read_header(rebuilt(tmp_path / "good.pt")).tensors) == ["a"]
    with pytest.raises(UserError, match="damaged"):
        read_header(rebuilt(tmp_path / "odd.pt", **changed))


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, pickle.dumps({}, protocol=2))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: zipped(path, "archive/data.pkl", "archive/constants.pkl"), "TorchScript"),
        (zipped, "neither"),
        (lambda path: zipped(path, "notes.txt"), "zip file that PyTorch did not write"),
        (lambda path: tarfile.open(path, "w").close(), "damaged|neither"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "pickle that PyTorch did not write"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda path: path.write_text("<!DOCTYPE html>"), "neither"),
        (lambda path: path.touch(), "neither"),
        (lambda path: save({"a": torch.zeros(2, dtype=torch.complex64)}, path), "complex64"),
    ],
)
def test_other_files_are_told(tmp_path: Path, make: Callable[[Path], Any], said: str):
    path = tmp_path / "other.bin"
    make(path)
    with pytest.raises(UserError, match=said) as error:
        open_source(path)
    assert "other.bin" in str(error.value)


def test_numbers_in_the_other_byte_order_are_refused(tmp_path: Path):
    path = save({"a": torch.zeros(3)}, tmp_path / "some.pt")
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "big.pt", "w") as other:
        for name in archive.namelist():
            other.writestr(name, b"big" if name.endswith("byteorder") else archive.read(name))
    assert b"little" in data
    with pytest.raises(UserError, match="other order"):
        open_source(tmp_path / "big.pt")


def test_compressed_numbers_are_refused(tmp_path: Path):
    """They cannot be mapped; a compressed data.pkl does no harm."""
    original = save({"a": torch.zeros(100)}, tmp_path / "some.pt")
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(original) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(UserError, match="compressed"):
        open_source(path)


def test_a_large_checkpoint_is_inspected_in_no_time_and_without_torch(tmp_path: Path):
    """As many tensors as Stable Diffusion has, and more bytes than may be read."""
    prefix = "model.diffusion_model."
    names = [f"{prefix}input_blocks.{index}.1.attn2.to_k.weight" for index in range(1130)]
    tensors = {name: torch.empty(1, 768) for name in names} | {f"{prefix}large": torch.empty(2**30)}
    path = tmp_path / "large.ckpt"
    with torch.serialization.skip_data():  # Room is left for the numbers, and nothing is written there.
        torch.save({"state_dict": tensors}, path)
    assert path.stat().st_size > 2**32
    code = (
        "import sys, time\n"
        "from mezzotint.store.inspect import inspect\n"
        "began = time.process_time()\n"
        f"told = inspect({str(path)!r})\n"
        "print(time.process_time() - began, told['parameters'], 'torch' in sys.modules)\n"
    )
    began = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert time.perf_counter() - began < 60
    # A quarter of a second of the processor, twice what it takes: the interpreter itself starts in the other quarter.
    assert float(out[0]) < 0.25
    assert out[1:] == [str(2**30 + 1130 * 768), "False"]
