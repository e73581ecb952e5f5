"""Sight: depth and solids of a picture, from the recipe to the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.cli import main
from mezzotint.conditioning.sight import SIDE, THIN, Sight
from mezzotint.conditioning.sight_config import SightConfig
from mezzotint.store import sight as store
from mezzotint.store.pictures import read_depth
from mezzotint.training.data import StillLife
from mezzotint.training.fit import fit
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.sight import SightTask
from mezzotint.training.truth import SceneTruth
from mezzotint.types import UserError
from mezzotint.world.render import render
from mezzotint.world.scene import random_scenes


def tiny() -> Sight:
    torch.manual_seed(0)
    return Sight(SightConfig(widths=(8, 16), norm_num_groups=4))


@pytest.mark.parametrize("size", [(128, 128), (40, 64), (300, 129), (8, 8)])
def test_any_size_is_seen_at_its_size(size: tuple[int, int]) -> None:
    seen = tiny().see(torch.zeros(2, 3, *size))
    assert seen.disparity.shape == seen.solid.shape == (2, 1, *size)
    assert ((seen.solid >= 0) & (seen.solid <= 1)).all()


def test_a_thin_picture_is_not_made_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    sight, sides = tiny(), []
    forward = sight.forward
    monkeypatch.setattr(sight, "forward", lambda pixels: (sides.extend(pixels.shape[2:]), forward(pixels))[1])
    assert sight.see(torch.zeros(1, 3, 2, 4000)).disparity.shape == (1, 1, 2, 4000)
    assert sides == [1, THIN * SIDE]


def test_an_estimator_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_repo: str) -> list[str]:
        raise OSError("no network")

    monkeypatch.setattr("mezzotint.store.hub._listed", nobody)
    with pytest.raises(UserError, match="There is no depth estimator nothing: give a folder"):
        store.depth_of(torch.zeros(1, 3, 8, 8), "nothing")
    for name in ("nobody/nothing-of-this-name", "owner/na--me"):
        with pytest.raises(UserError, match="the hub cannot be reached"):
            store.depth_of(torch.zeros(1, 3, 8, 8), name)
    with pytest.raises(UserError, match="There is no depth estimator models/dpt/large"):
        store.depth_of(torch.zeros(1, 3, 8, 8), "models/dpt/large")


def test_it_learns_what_is_near_and_where_solids_stand(tmp_path: Path) -> None:
    pictures = StillLife(tmp_path, 8, 32)
    task = SightTask(tiny(), pictures, SceneTruth(pictures, tmp_path))
    config = FitConfig(images=1600, batch=8, lr=3e-3, warmup=80, ema=0, bf16=False)
    losses: list[float] = []
    fit(task, config, tmp_path / "fit", report=lambda step: losses.append(step.figures["loss"]))
    assert losses[-1] < 0.5 * losses[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the debug recipe makes."""
    run = tmp_path_factory.mktemp("runs") / "x"
    assert main(["train", "sight", "debug", "--out", str(run), "--processes", "1"]) == 0
    return run / "sight"


@pytest.fixture
def shipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That in the place of the one that ships."""
    sight = store.load_sight(folder)
    monkeypatch.setattr(store, "load_sight", lambda: sight)
    return sight


def test_the_verb_writes_sixteen_bits_or_numbers(
    shipped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((40, 24), 80).convert("RGB").save("in.png")
    assert main(["depth", "in.png", "-o", "d.png"]) == 0
    assert main(["depth", "in.png", "-o", "d.npy", "--json"]) == 0
    png, numbers = np.asarray(read_depth("d.png")), np.load("d.npy")
    assert png.shape == numbers.shape == (24, 40)
    assert (png.min(), png.max()) == (0, 65535)
    assert np.corrcoef(png.ravel(), numbers.ravel())[0, 1] > 0.9999
    capsys.readouterr()
    assert main(["depth", "none.png"]) == 2
    assert main(["depth", "in.png", "-o", "d.txt"]) == 2
    assert main(["depth", "in.png", "--estimator", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_depth_from_the_image_itself(shipped: Any, tiny_parts: Any) -> None:
    import dataclasses

    from mezzotint.denoise.unet import UNet
    from mezzotint.pipeline import Pipeline

    config = dataclasses.replace(tiny_parts.unet.config, in_channels=5)
    pipe = Pipeline.of(dataclasses.replace(tiny_parts, unet=UNet(config).eval()))
    picture = Image.effect_noise((16, 16), 80).convert("RGB")
    auto = pipe("a red ball", seed=1, image=picture, depth="auto")
    assert auto.info["request"].depth == "auto"
    seen = store.depth_of(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1)
    given = pipe("a red ball", seed=1, image=picture, depth=seen[0, 0].numpy())
    assert np.array_equal(np.asarray(auto), np.asarray(given))
    with pytest.raises(UserError, match="no image"):
        pipe("a red ball", depth="auto")


def test_an_estimator_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DPTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[4, 4, 4, 4], fusion_hidden_size=4, is_hybrid=False,
    )  # fmt: skip
    model = transformers.DPTForDepthEstimation(config)
    size = {"height": 32, "width": 32}
    processor = transformers.DPTImageProcessor(size=size)
    for folder, network, looks in (("plain", ".", "."), ("pipe", "depth_estimator", "feature_extractor")):
        model.save_pretrained(tmp_path / folder / network)
        processor.save_pretrained(tmp_path / folder / looks)
    pixels = torch.rand(2, 3, 24, 40) * 2 - 1
    found = [store.depth_of(pixels, str(tmp_path / folder)) for folder in ("plain", "pipe")]
    assert found[0].shape == (2, 1, 24, 40)
    assert torch.equal(*found)
    model.config.depth_estimation_type = "metric"  # As Depth Anything says it: it tells metres.
    model.save_pretrained(tmp_path / "metres")
    processor.save_pretrained(tmp_path / "metres")
    square = torch.rand(2, 3, 32, 32) * 2 - 1  # Of the network's own size, so that no map is made larger.
    near, metres = (store.depth_of(square, str(tmp_path / folder)) for folder in ("metres", "plain"))
    torch.testing.assert_close(near, 1 / metres.clamp(min=1e-3))


def test_the_shipped_one_sees_scenes_kept_out_of_training() -> None:
    """`benchmarks/sight.py` measures more of them."""
    drawn = render(random_scenes(12, 3, held_out=True), 128)
    seen = store.load_sight().see(drawn.pixels)
    for disparity, depth in zip(seen.disparity.flatten(1), drawn.depth.flatten(1), strict=True):
        assert np.corrcoef(disparity.argsort().argsort(), (1 / depth).argsort().argsort())[0, 1] > 0.9
    found, there = seen.solid[:, 0] > 0.5, drawn.masks.sum(dim=1) > 0.5
    assert (found & there).sum() / (found | there).sum() > 0.85


def test_no_sight_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train it with"):
        store.load_sight(tmp_path / "nothing")
