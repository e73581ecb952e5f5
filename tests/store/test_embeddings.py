"""Files of learned words in every layout in use come to the same words and vectors."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mezzotint.store.embedding_pixels import masks, sequence
from mezzotint.store.embeddings import PNG_CHUNK, bundled, embedding_facts, picture_embedding, read_embeddings
from mezzotint.store.extras import embedding_header
from mezzotint.store.header import TensorEntry
from mezzotint.store.inspect import inspect
from mezzotint.store.source import Source
from mezzotint.types import UserError

V = torch.arange(6, dtype=torch.float32).reshape(2, 3)
G = torch.arange(10, dtype=torch.float32).reshape(2, 5)


@pytest.mark.parametrize(
    ("tensors", "metadata", "word", "vectors"),
    [
        ({"string_to_param.*": V}, {"name": "trained", "step": "500"}, "trained", {3: V}),
        ({"string_to_param.*": V}, {}, "file", {3: V}),
        ({"string_to_param.mine": V}, {}, "mine", {3: V}),
        ({"<cat-toy>": V}, {}, "<cat-toy>", {3: V}),
        ({"<cat-toy>": V[0]}, {"name": "ignored"}, "<cat-toy>", {3: V[:1]}),
        ({"1.5 cats": V}, {}, "5 cats", {3: V}),  # what a list looks like; such a word needs another name
        ({"emb_params": V}, {"modelspec.title": "x"}, "file", {3: V}),
        ({"clip_l": V, "clip_g": G}, {}, "file", {3: V, 5: G}),
        ({"text_encoders_0": V, "text_encoders_1": G}, {}, "file", {3: V, 5: G}),
        ({"tensor": V}, {}, "file", {3: V}),
        ({"": V}, {}, "file", {3: V}),
        ({"0": V, "1": G}, {}, "file", {3: V, 5: G}),
        ({"0.<cat>": V, "1.<cat>": G}, {}, "<cat>", {3: V, 5: G}),
        ({"0.<cat>": V, "1.<cat>": V + 1}, {}, "<cat>", {3: torch.cat([V, V + 1])}),
        ({"0.clip_l": V, "1.clip_g": G}, {}, "file", {3: V, 5: G}),
    ],
)
def test_every_layout(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str], word: str, vectors: dict[int, torch.Tensor]
) -> None:
    (found,) = read_embeddings(tensors, metadata, word="file")
    assert found.word == word
    assert found.vectors.keys() == vectors.keys()
    for width, expected in vectors.items():
        assert torch.equal(found.vectors[width], expected)


def test_a_file_may_hold_several_words() -> None:
    found = read_embeddings({"<cat>": V, "<dog>": V + 1}, word="file")
    assert [embedding.word for embedding in found] == ["<cat>", "<dog>"]
    assert torch.equal(found[1].vectors[3], V + 1)


def test_words_bundled_with_a_lora() -> None:
    tensors = {
        "lora_unet_conv_in.alpha": torch.ones(()),
        "bundle_emb.cat.string_to_param.*": V,
        "bundle_emb.<dog>.clip_l": V,
        "bundle_emb.<dog>.clip_g": G,
    }
    found = {embedding.word: embedding.vectors for embedding in bundled(tensors)}
    assert found.keys() == {"cat", "<dog>"}
    assert torch.equal(found["cat"][3], V)
    assert found["<dog>"].keys() == {3, 5}
    assert bundled({"conv_in.weight": V}) == []


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no learned word"),
        ({"<cat>": torch.zeros(2, 3, 4)}, r"<cat> has shape \[2, 3, 4\]"),
        ({"<cat>": torch.zeros(())}, "has shape"),
        ({"<cat>": torch.zeros(0, 3)}, "has shape"),
        ({"<cat>": torch.zeros(2, 3, dtype=torch.int64)}, "torch.int64"),
        ({"<cat>": torch.full((2, 3), torch.nan)}, "finite"),
    ],
)
def test_what_is_no_word_is_refused(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=f"^mine.pt .*{message}"):
        read_embeddings(tensors, word="file", name="mine.pt")


def test_the_tokens_of_the_first_files_are_no_vectors(tmp_path: Path) -> None:
    """The code of textual inversion keeps the token's number as a tensor."""
    values = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": V}, "name": "mine"}
    torch.save(values, tmp_path / "x.pt")
    header = embedding_header(str(tmp_path / "x.pt"))
    assert embedding_facts(header.tensors, header.metadata) == {
        "words": ["mine"],
        "vectors": {"string_to_param.*": list(V.shape)},
    }
    source = Source(header)
    tensors = {name: source.tensor(name) for name in source.entries}
    (found,) = read_embeddings(tensors, source.metadata, word="file")
    assert found.word == "mine"
    assert torch.equal(found.vectors[3], V)


def write_png(path: Path, text: str | None) -> Path:
    info = PngInfo()
    if text is not None:
        info.add_text(PNG_CHUNK, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def as_a1111(values: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(values).encode()).decode()


def test_the_text_of_a_png(tmp_path: Path) -> None:
    values = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": {"TORCHTENSOR": V.tolist()}},
        "name": "mine",
        "step": 100,
        "sd_checkpoint": None,
    }
    tensors, metadata = picture_embedding(write_png(tmp_path / "x.png", as_a1111(values)))
    (found,) = read_embeddings(tensors, metadata, word="file")
    assert found.word == "mine"
    assert torch.equal(found.vectors[3], V)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "carries no learned word"),
        ("!", "damaged"),
        (as_a1111({}), "damaged"),
        (as_a1111({"string_to_param": {"*": [1.0]}}), "damaged"),
        (as_a1111({"string_to_param": {"*": {"TORCHTENSOR": [[1.0], [1.0, 2.0]]}}}), "damaged"),
        (as_a1111({"string_to_param": {"*": {"TORCHTENSOR": "x"}}}), "damaged"),
        (base64.b64encode(b"[" * 100_000).decode(), "damaged"),
    ],
)
def test_a_png_without_a_word_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        picture_embedding(write_png(tmp_path / "x.png", text))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["string_to_param", "TORCHTENSOR", "*", "name"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_json_in_a_png_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = write_png(tmp_path_factory.getbasetemp() / "fuzz.png", as_a1111(values))
    with suppress(UserError):
        read_embeddings(*picture_embedding(path), word="file")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="not a picture"):
        picture_embedding(tmp_path / "x.png")
    with pytest.raises(UserError, match="not a picture"):
        picture_embedding(tmp_path / "nothing.png")


def entries(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    return {name: TensorEntry("float32", shape, 0, 0) for name, shape in shapes.items()}


def test_what_a_header_tells() -> None:
    assert embedding_facts(entries({"emb_params": (4, 768)}), {}) == {"words": [], "vectors": {"emb_params": [4, 768]}}
    told = embedding_facts(entries({"string_to_param.*": (4, 768)}), {"name": "mine"})
    assert told is not None
    assert told["words"] == ["mine"]
    assert embedding_facts(entries({"<cat>": (768,)}), {}) == {"words": ["<cat>"], "vectors": {"<cat>": [1, 768]}}
    assert embedding_facts(entries({"conv_in.weight": (4, 768)}), {}) is None
    assert embedding_facts(entries({"x": (4, 768, 3)}), {}) is None
    assert embedding_facts(entries({f"w{number}": (4, 768) for number in range(40)}), {}) is None
    assert embedding_facts({}, {}) is None


def test_no_torch_is_imported_for_a_header() -> None:
    code = "import sys, mezzotint.store.embeddings\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def with_hidden(text: bytes, size: int = 16) -> Image.Image:
    """A picture that hides the text as AUTOMATIC1111 does, the pattern in the upper bits by chance."""
    rng = np.random.default_rng(0)
    data = np.frombuffer(zlib.compress(text), np.uint8)
    data = np.resize(data, -(-len(data) // (3 * size)) * 3 * size).reshape(size, -1, 3)
    mask = masks(data.size).reshape(data.shape)
    pattern = rng.integers(1, 16, data.shape, dtype=np.uint8) << 4
    line = np.zeros((size, 1, 3), np.uint8)
    middle = rng.integers(1, 255, (size, 9, 3), dtype=np.uint8)
    return Image.fromarray(np.hstack([(data & 15) ^ mask | pattern, line, middle, line, (data >> 4) ^ mask | pattern]))


def test_the_sequence_that_masks_is_the_published_one() -> None:
    """The first numbers, and the sum of 100 000 more, stand in the source of the web UI."""
    assert sequence(10).tolist() == [253, 242, 127, 44, 157, 27, 239, 133, 38, 79]
    assert int(sequence(100_100)[100:].astype(int).sum()) == 12731374


@pytest.mark.parametrize("end", ["webp", "png"])
def test_words_in_the_pixels_of_a_picture(tmp_path: Path, end: str) -> None:
    values = {"name": "cat", "string_to_param": {"*": {"TORCHTENSOR": [[0.5, -2.0], [1.0, 3.0]]}}}
    with_hidden(json.dumps(values).encode()).save(tmp_path / f"x.{end}", lossless=True)
    tensors, metadata = picture_embedding(tmp_path / f"x.{end}")
    (word,) = read_embeddings(tensors, metadata, word="file")
    assert word.word == "cat"
    assert torch.equal(word.vectors[2], torch.tensor([[0.5, -2.0], [1.0, 3.0]]))
    told = inspect(tmp_path / f"x.{end}")
    assert (told["layout"], told["words"]) == ("textual inversion", ["cat"])


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.new("RGB", (16, 16)), "carries no learned word"),
        (Image.new("RGB", (16, 16), (17, 16, 16)), "carries no learned word"),
        (Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)), "no learned word"),
        (Image.fromarray(np.tile(np.uint8([[[1], [0], [1], [0], [1]]]), (4, 1, 3))), "carries no learned word"),
        (with_hidden(b"[1, 2]"), "is damaged"),
    ],
)
def test_pixels_that_hide_no_word(tmp_path: Path, picture: Image.Image, said: str) -> None:
    picture.save(tmp_path / "x.webp", lossless=True)
    with pytest.raises(UserError, match=said):
        picture_embedding(tmp_path / "x.webp")


def test_pixels_that_hide_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mezzotint.store.embedding_pixels.MOST_BYTES", 50)
    with_hidden(bytes(100)).save(tmp_path / "x.webp", lossless=True)
    with pytest.raises(UserError, match="is damaged"):
        picture_embedding(tmp_path / "x.webp")
