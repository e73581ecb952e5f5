"""`mezzotint guides`."""

from __future__ import annotations

import json

import pytest

from mezzotint.cli import main
from mezzotint.sampling.guides import GUIDES


def test_guides_are_listed_with_their_parameters(capsys: pytest.CaptureFixture[str]):
    assert main(["guides"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name, guide in GUIDES.items():
        assert f"{name} {guide.about} ({guide.paper})" in said
        for one in guide.parameters:
            assert f"{one.name} {one.default:g}, from {one.low:g} to {one.high:g}: {one.about}" in said


def test_a_program_may_read_them(capsys: pytest.CaptureFixture[str]):
    assert main(["guides", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(GUIDES)
    assert rows["interval"]["parameters"][1] == {
        "name": "high",
        "default": 5.42,
        "low": 0.0,
        "high": 1e6,
        "about": "no guidance above this sigma",
    }
    assert [name for name, row in rows.items() if row["model"]] == ["auto"]
    assert [name for name, row in rows.items() if row["innermost"]] == ["apg", "cfg++"]
    assert rows["cfg++"]["without"] == ["rescale", "threshold"]
