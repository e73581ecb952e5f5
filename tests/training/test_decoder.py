"""A decoder that learns once more, alone, for a model that is begun from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mezzotint.cli import main
from mezzotint.store.load import load_parts
from mezzotint.training import walks
from mezzotint.training.fit import read_log


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


def test_a_decoder_learns_from_ends_of_walks_against_an_adversary(
    debug_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an untrained model draws is far from any scene, so all of it is let pass here."""
    monkeypatch.setattr(walks, "ASTRAY", float("inf"))
    run, model = tmp_path / "run", debug_run / "model"
    defaults = "defaults={'steps': 12, 'guide': ('interval:0.5:100',)}"
    settings = ["walks=70", "redrawn=0.5", "adversary=0.5", "images=32", "batch=8", defaults]
    train = ["debug", *settings, "--start", str(model), "--out", str(run), "--processes", "1"]
    assert main(["train", "decoder", *train]) == 0
    (folder,) = (run / "decoder").glob("walks-*")
    made = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(made) == 2
    assert all(0 < row["told_apart"] < 1 for row in read_log(run / "decoder"))
    before, after = load_parts(model).vae.state_dict(), load_file(next((run / "decoder").glob("*.safetensors")))
    assert set(after) == set(before)  # The adversary is no part of the model.
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}
    (run / "decoder" / "config.json").unlink()  # As if it had been interrupted.
    assert main(["train", "decoder", *train, "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == made


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["walks=-1"], "walks is -1"),
        (["adversary=-0.5"], "adversary -0.5"),
        (["adversary=1e999"], "adversary inf"),
        (["walks=8", "redrawn=0"], "redrawn 0"),
        (["crop=8", "adversary=1"], "crop is 8"),
    ],
)
def test_what_a_decoder_cannot_learn_from(
    settings: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", "decoder", "debug", *settings, "--out", str(out), "--processes", "1"]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_pictures_of_a_folder_have_no_nearest_scene(
    debug_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "pictures" / "a.txt").write_text("a picture")
    train = [
        "train",
        "decoder",
        "debug",
        "walks=8",
        "--start",
        str(debug_run / "model"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*train, "--data", str(tmp_path / "pictures"), "--processes", "1"]) == 2
    assert "walks need scenes that are known" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
