"""Files of anything at all: they are read, or one sentence says why not; no other exception and no crash comes out."""

from __future__ import annotations

import json
import pickle
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from mezzotint.store.source import open_source
from mezzotint.types import UserError

TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3, dtype=torch.float16), "c": torch.tensor(1)}
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
BEGUN = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "some.ckpt"


def read(path: Path, data: bytes) -> bool:
    """Whether the file can be read, every tensor of it; where not, one sentence that names it says so."""
    path.write_bytes(data)
    try:
        source = open_source(path)
        for name, entry in source.entries.items():
            assert tuple(source.tensor(name).shape) == entry.shape
            assert entry.end <= len(data)
    except UserError as error:
        sentence = str(error)
        assert str(path) in sentence
        assert sentence.endswith(".")
        assert sentence.isprintable()
        return False
    return True


def saved(**options: Any) -> bytes:
    file = BytesIO()
    torch.save({"state_dict": TENSORS, "epoch": 1}, file, **options)
    return file.getvalue()


def tarred() -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            member.size = 64
            archive.addfile(member, BytesIO(pickle.dumps(0, protocol=2) + pickle.dumps([], protocol=2) + bytes(64)))
    return file.getvalue()


WHOLE = {
    "safetensors": save(TENSORS, metadata={"format": "pt"}),
    "zip": saved(),
    "stream": saved(_use_new_zipfile_serialization=False),
    "tar": tarred(),
    "pickle": pickle.dumps({"a": [1.5, "x", (None, True)]}, protocol=4),
}


def test_the_files_that_are_spoilt_below_are_good(path: Path):
    assert [read(path, data) for data in WHOLE.values()] == [True, True, True, True, False]


@FUZZ
@given(st.binary(max_size=600))
def test_random_bytes(path: Path, data: bytes):
    assert not read(path, data)


@FUZZ
@given(st.sampled_from(list(WHOLE.values())), st.data())
def test_files_that_are_cut_or_longer(path: Path, whole: bytes, data: st.DataObject):
    read(path, whole[: data.draw(st.integers(0, len(whole)))])
    begin, end = sorted([data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))])
    read(path, whole[:begin] + whole[end:])
    read(path, whole[:end] + whole[begin:])


@settings(FUZZ, max_examples=100)
@given(st.sampled_from(list(WHOLE.values())), st.data())
def test_files_with_changed_bytes(path: Path, whole: bytes, data: st.DataObject):
    """Where structure stands: at the beginning and the end, and anywhere."""
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        near = st.one_of(st.integers(0, 255), st.integers(len(whole) - 256, len(whole) - 1))
        place = data.draw(st.one_of(near, st.integers(0, len(whole) - 1)))
        spoilt[place % len(whole)] = data.draw(
            st.sampled_from([0, 1, 0x2E, 0x52, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
        )
    read(path, bytes(spoilt))


NUMBERS = st.sampled_from([-1, 0, 1, 3, 8, 2**31, 2**63, 2**200, -(2**70), 1.5, float("nan"), True, None, "4"])
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64", "F4", "", 7, None, ["F32"]]),
        "shape": st.lists(NUMBERS, max_size=4) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
        "more": NUMBERS,
    },
)
NAMES = st.sampled_from(["a", "b", "", "__metadata__", "line\nline", "\x1b[31m", "\ud800", "x" * 5000])


@settings(FUZZ, max_examples=100)
@given(
    st.dictionaries(NAMES, ENTRIES | NUMBERS | st.lists(NUMBERS, max_size=2), max_size=3),
    st.sampled_from([None, 0, 7, 2**20, 100_000_001, 2**63, 2**64 - 1]),
    st.integers(0, 24),
)
def test_headers_of_safetensors(path: Path, header: dict[str, Any], length: int | None, size: int):
    text = json.dumps(header).encode()
    read(path, (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"shape":[1]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"2," * 40 + b'2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}',
        b'{"a":' * 50_000,
        b'{"\xff":1}',
        '{"a":{}}'.encode("utf-16"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_headers_that_are_no_headers(path: Path, text: bytes):
    assert not read(path, len(text).to_bytes(8, "little") + text + bytes(4))


def test_sides_that_multiply_to_nothing(path: Path):
    """No numbers at all, in a shape whose other sides are beyond all."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [0, 2**47, 2**47], "data_offsets": [0, 0]}}).encode()
    read(path, len(text).to_bytes(8, "little") + text)


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


OPCODES = [
    *[bytes([code]) for code in b"(.012NQRabdelostu)]}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"],
    *[b"K\x01", b"K\x00", b"J\xff\xff\xff\xff", b"M\x00\x80", b"\x8a\x02\x00\x7f", b"G\x7f\xf8" + bytes(6)],
    *[b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"r\xff\xff\xff\x7f", b"\x82\x01", b"\x96" + bytes(8)],
    *[short(text) for text in ("state_dict", "a", "storage", "0", "cpu", "torch", "FloatStorage")],
    *[b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_parameter\n"],
    *[b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch\nbfloat16\n"],
    *[b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch.nn.modules.container\nParameterDict\n", b"ctorch\nSize\n"],
    *[b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"cfoo\nBar\n", b"cos\nsystem\n", b"ifoo\nBar\n"],
    b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short("0") + short("cpu") + b"K\x08tQ",
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + short("storage") + b"ctorch\nFloatStorage\n" + short("0") + short("cpu")
    + b"K\x08tQK\x00K\x02\x85K\x01\x85\x89}tR",
]  # fmt: skip
"""Words of the pickle language: every kind of opcode, and those with which PyTorch writes tensors."""


@settings(FUZZ, max_examples=150)
@given(st.lists(st.sampled_from(OPCODES), max_size=40), st.booleans())
def test_pickles_of_random_words(path: Path, words: list[bytes], zipped: bool):
    pickled = b"\x80\x02" + b"".join(words) + b"."
    if not zipped:
        read(path, BEGUN + pickled + pickle.dumps(["0"], protocol=2) + (8).to_bytes(8, "little") + bytes(32))
        return
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", bytes(32))
    read(path, file.getvalue())


def test_a_zip_file_with_a_name_twice(path: Path):
    """Which of the two is meant, two readers may see otherwise."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
    assert not read(path, file.getvalue())
