"""Requests: what none may hold, and there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzotint import Request, UserError
from mezzotint.types import Lora


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 2.5},
        {"steps": "3"},
        {"steps": True},
        {"seed": 1.5},
        {"width": 32.0},
        {"guidance": "5"},
        {"prompt": 7},
        {"prompt": None},
        {"seed": -1},
        {"seed": 2**63},
        {"steps": 0},
        {"guidance": float("nan")},
        {"height": 7},
        {"prompt": "x" * 5000},
    ],
)
def test_what_no_request_may_hold(values):
    """One sentence that names the field."""
    with pytest.raises(UserError, match=next(iter(values))):
        Request(**values)


def test_there_and_back():
    """A whole number is a guidance too, and every field survives."""
    request = Request(prompt="a cube", guidance=3, width=64, height=128, seed=0)
    assert Request.from_dict(request.to_dict()) == request
    with pytest.raises(UserError, match="surprise"):
        Request.from_dict({"surprise": 1})


@pytest.mark.parametrize(
    ("text", "lora", "again"),
    [
        ("cat.safetensors", Lora("cat.safetensors"), "cat.safetensors:1"),
        ("cat.safetensors:0.8", Lora("cat.safetensors", 0.8, 0.8), "cat.safetensors:0.8"),
        ("cat:-0.5", Lora("cat", -0.5, -0.5), "cat:-0.5"),
        ("cat:1:0", Lora("cat", 1.0, 0.0), "cat:1:0"),
        (r"C:\loras\cat.pt", Lora(r"C:\loras\cat.pt"), r"C:\loras\cat.pt:1"),
        (r"C:\loras\cat.pt:0.25", Lora(r"C:\loras\cat.pt", 0.25, 0.25), r"C:\loras\cat.pt:0.25"),
        ("C:cat", Lora("C:cat"), "C:cat:1"),
        ("style:2:1:1", Lora("style:2"), "style:2:1:1"),
        ("cat:much", Lora("cat:much"), "cat:much:1"),
        ("cat:1e-05", Lora("cat", 1e-5, 1e-5), "cat:1e-05"),
        ("0.5", Lora("0.5"), "0.5:1"),
    ],
)
def test_a_lora_with_its_weights(text: str, lora: Lora, again: str):
    assert Lora.parse(text) == lora
    assert str(lora) == again
    assert Lora.parse(again) == lora


@given(
    st.text("a:1.-\\/", min_size=1, max_size=8).filter(str.strip),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_every_lora_comes_back(file: str, unet: float, text: float):
    lora = Lora(file, unet, text)
    assert Lora.parse(str(lora)) == lora


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"loras": "cat"}, "loras is 'cat'"),
        ({"loras": (3,)}, "loras are \\[3\\]; every one must be a text"),
        ({"loras": ("",)}, "loras are"),
        ({"loras": ("cat:nan",)}, "The weight of the LoRA cat is nan"),
        ({"loras": (":0.5",)}, "names no file"),
        ({"embeddings": [" "]}, "embeddings are"),
        ({"vae": 3}, "vae is 3"),
        ({"vae": None}, "vae is None"),
    ],
)
def test_files_that_no_request_may_name(values, said: str):
    with pytest.raises(UserError, match=said):
        Request(**values)


def test_lists_become_tuples_and_back():
    request = Request(loras=["cat:0.5", "ink"], embeddings=["word"])
    assert (request.loras, request.embeddings) == (("cat:0.5", "ink"), ("word",))
    assert request.to_dict()["loras"] == ["cat:0.5", "ink"]
    assert Request.from_dict(request.to_dict()) == request
    assert hash(request) == hash(Request.from_dict(request.to_dict()))
