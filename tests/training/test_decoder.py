"""A decoder that learns once more, alone, for a model that is begun from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mezzotint.cli import main
from mezzotint.store.load import load_parts


def test_a_model_gets_another_decoder_and_stays_what_it_is(
    debug_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = debug_run / "model"
    asked = ["debug", "--start", str(model), "--out", str(tmp_path / "run"), "--processes", "1"]
    assert main(["train", "decoder", *asked, "images=8", "redrawn=1.5"]) == 2
    assert "redrawn is 1.5" in capsys.readouterr().err
    assert main(["train", "decoder", *asked, "images=16", "lr=1e-2"]) == 0
    assert main(["train", "assemble", *asked]) == 0
    before, after = load_parts(model), load_parts(tmp_path / "run" / "model")
    for part in ("unet", "text_encoder"):
        old, new = (getattr(parts, part).state_dict() for parts in (before, after))
        assert all(torch.equal(old[name], new[name]) for name in old)
    old, new = (parts.vae.state_dict() for parts in (before, after))
    changed = {name.partition(".")[0] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert after.facts.recipe["decoder"]["fit"]["images"] == 16


def test_without_a_unet_there_is_nothing_to_redraw_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run"), "--processes", "1"]
    assert main(["train", "vae", "debug", "images=8", *out]) == 0
    assert main(["train", "decoder", "debug", *out]) == 2
    assert "no trained clip" in capsys.readouterr().err
    assert main(["train", "decoder", "debug", "images=8", "redrawn=0", *out]) == 0
