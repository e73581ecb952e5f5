"""Requests: what none may hold, and there and back."""

from __future__ import annotations

import pytest

from mezzotint import Request, UserError


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
        {"height": 9},
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
