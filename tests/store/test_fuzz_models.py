"""Whole models in one file, spoilt in one place: a model comes out, or one sentence that names the file; never else."""

from __future__ import annotations

import base64
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mezzotint.store.inspect import inspect
from mezzotint.store.load import load_parts
from mezzotint.store.parts import Parts
from mezzotint.store.single_file import save_file
from mezzotint.store.tokenizers import METADATA
from mezzotint.types import UserError

FUZZ = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
OURS = ("unet", "vae", "text_encoder", "scheduler", "facts", "reading")
Entry = tuple[str, tuple[int, ...], bytes]
"""dtype by safetensors' name, shape, and bytes."""


class Whole:
    """The tensors and the metadata of a safetensors file."""

    def __init__(self, tensors: dict[str, Entry], metadata: dict[str, str]) -> None:
        self.tensors, self.metadata = tensors, metadata

    def __repr__(self) -> str:  # Else a failure prints megabytes.
        return "whole"

    @classmethod
    def of(cls, data: bytes) -> Whole:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        metadata, rest = header.pop("__metadata__", {}), data[8 + length :]
        return cls(
            {
                name: (told["dtype"], tuple(told["shape"]), rest[slice(*told["data_offsets"])])
                for name, told in header.items()
            },
            metadata,
        )

    def bytes(self) -> bytes:
        header: dict[str, Any] = {"__metadata__": self.metadata} if self.metadata else {}
        place = 0
        for name, (dtype, shape, data) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + len(data)]}
            place += len(data)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in self.tensors.values())

    def told(self, **texts: str) -> Whole:
        """With other words in our own metadata."""
        return Whole(self.tensors, self.metadata | {f"mezzotint.{kind}": text for kind, text in texts.items()})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "some.safetensors"


@pytest.fixture(scope="module")
def whole(tiny_parts: Parts, path: Path) -> Whole:
    save_file(tiny_parts, path)
    return Whole.of(path.read_bytes())


def check_sentence(error: UserError, path: Path) -> None:
    sentence = str(error)
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert sentence.isprintable()


def read(path: Path, data: bytes) -> bool:
    """Whether a model comes out of the file; where none does, one sentence that names the file says why."""
    path.write_bytes(data)
    try:
        json.dumps(inspect(path))
    except UserError as error:
        check_sentence(error, path)
    try:
        parts = load_parts(path)
    except UserError as error:
        check_sentence(error, path)
        return False
    assert all(bool(tensor.isfinite().all()) for tensor in parts.unet.parameters())
    parts.schedule.sigmas  # noqa: B018 - the tables can be made
    return True


def test_the_file_that_is_spoilt_below_is_good(path: Path, whole: Whole):
    assert read(path, whole.bytes())
    assert not read(path, Whole(whole.tensors, {}).bytes())  # No shape tells of 4 groups.


@FUZZ
@given(data=st.data())
def test_cut_short_or_with_another_length_of_header(path: Path, whole: Whole, data: st.DataObject):
    good = whole.bytes()
    assert not read(path, good[: data.draw(st.integers(0, len(good) - 1))])
    length = data.draw(
        st.sampled_from([0, 1, 2**20, 10**8, 10**8 + 1, 2**63, 2**64 - 1]) | st.integers(0, 2 * len(good))
    )
    if length != int.from_bytes(good[:8], "little"):
        assert not read(path, length.to_bytes(8, "little") + good[8:])


@FUZZ
@given(data=st.data())
def test_changed_bytes_of_the_header(path: Path, whole: Whole, data: st.DataObject):
    spoilt = bytearray(whole.bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 8 + int.from_bytes(spoilt[:3], "little")))
        spoilt[place] = data.draw(st.sampled_from(b'0"{}[],:\\\x00\xff') | st.integers(0, 255))
    read(path, bytes(spoilt))


NAMES = st.sampled_from(
    [
        "x",
        "",
        "first_stage_model.x",
        "model.diffusion_model.input_blocks.99.0.op.weight",
        "model.diffusion_model.label_emb.0.0.weight",
        "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
        "cond_stage_model.transformer.token_emb.weight",
        "line\nline",
        "v_pred",
        "alphas_cumprod",
    ]
)
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (2, 2), (4, 0), (1,) * 5, (8, 4, 3, 3)])


@settings(FUZZ, max_examples=40)
@given(data=st.data(), ours=st.booleans())
def test_tensors_that_are_missing_renamed_or_of_another_shape(
    path: Path, whole: Whole, data: st.DataObject, ours: bool
):
    """With our own metadata, and as a file from elsewhere."""
    tensors = dict(whole.tensors)
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        dtype, shape, content = tensors.pop(name)
        match data.draw(st.sampled_from(["missing", "renamed", "reshaped", "flat", "dtype"])):
            case "renamed":
                tensors[data.draw(NAMES)] = dtype, shape, content
            case "reshaped":
                other = data.draw(SHAPES)
                tensors[name] = dtype, other, bytes(4 * torch.Size(other).numel())
            case "flat":
                tensors[name] = dtype, (len(content) // 4,), content
            case "dtype":
                other, width = data.draw(st.sampled_from([("F16", 2), ("I32", 4), ("F64", 8), ("U8", 1), ("BOOL", 1)]))
                tensors[name] = other, shape, bytes(len(content) // 4 * width)
            case _:
                pass
    read(path, Whole(tensors, whole.metadata if ours else {}).bytes())


@FUZZ
@given(data=st.data())
def test_numbers_that_are_not_finite_are_found(path: Path, whole: Whole, data: st.DataObject):
    name = data.draw(st.sampled_from(sorted(whole.tensors)))
    dtype, shape, content = whole.tensors[name]
    numbers = torch.frombuffer(bytearray(content), dtype=torch.float32)
    numbers[data.draw(st.integers(0, len(numbers) - 1))] = data.draw(
        st.sampled_from([torch.nan, torch.inf, -torch.inf])
    )
    assert not read(
        path, Whole(whole.tensors | {name: (dtype, shape, numbers.numpy().tobytes())}, whole.metadata).bytes()
    )


VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        3,
        2**31,
        2**62,
        2**200,
        -0.5,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "x",
        [],
        {},
        [[]],
        [1, 2],
        ["x"],
        {"x": 1},
    ]
)
TEXTS = st.sampled_from(["", "null", "[]", "7", '"x"', "{}", '{"x": 1}', "{", "[" * 5000, '{"a":' * 5000, "\udc80"])


def changed(values: Any, data: st.DataObject) -> Any:
    """The same JSON with another value in one place."""
    if isinstance(values, dict) and values and data.draw(st.integers(0, 9)) > 0:
        key = data.draw(st.sampled_from(sorted(values)))
        return {**values, key: changed(values[key], data)}
    if isinstance(values, list) and values and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(values) - 1))
        return [*values[:place], changed(values[place], data), *values[place + 1 :]]
    return data.draw(VALUES)


@settings(FUZZ, max_examples=80)
@given(data=st.data(), kind=st.sampled_from(OURS))
def test_our_metadata_with_another_value(path: Path, whole: Whole, data: st.DataObject, kind: str):
    values = json.loads(whole.metadata[f"mezzotint.{kind}"])
    for _ in range(data.draw(st.integers(1, 2))):
        values = changed(values, data)
    read(path, whole.told(**{kind: json.dumps(values)}).bytes())


@FUZZ
@given(kind=st.sampled_from([*OURS, "tokenizers", "else"]), text=TEXTS)
def test_our_metadata_of_another_kind(path: Path, whole: Whole, kind: str, text: str):
    read(path, whole.told(**{kind: text}).bytes())


@settings(FUZZ, max_examples=40)
@given(data=st.data())
def test_tokenizers_that_are_damaged(path: Path, whole: Whole, data: st.DataObject):
    packed = whole.metadata[METADATA]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(packed) - 1))
        spoilt = packed[:place] + data.draw(st.sampled_from(["", "A", "!", "\n", "é"])) + packed[place + 1 :]
        read(path, whole.told(tokenizers=spoilt).bytes())
        return
    folders = json.loads(lzma.decompress(base64.b64decode(packed)))
    file = data.draw(st.sampled_from(sorted(folders["tokenizer"])))
    text = folders["tokenizer"][file]
    if file.endswith(".json") and data.draw(st.booleans()):
        text = json.dumps(changed(json.loads(text), data))
    else:
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.sampled_from(["", "\n", "{", "a b c\n", "\0", "\udc80"]))
    spoilt = {"tokenizer": {**folders["tokenizer"], file: text}}
    if data.draw(st.booleans()):
        spoilt = changed(spoilt, data)
    again = base64.b64encode(lzma.compress(json.dumps(spoilt).encode(), preset=0)).decode()
    read(path, whole.told(tokenizers=again).bytes())
