"""The judge on perfect maps, where truth, loss and reading must agree, and what it is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.evaluate import judge as module
from mezzotint.evaluate.judge import (
    ATTRIBUTES,
    SIDE,
    STRIDE,
    Judge,
    JudgeTask,
    accuracy,
    blemish,
    judge_loss,
    load_judge,
    middles,
    save_judge,
)
from mezzotint.types import UserError
from mezzotint.world.render import Rendering, render
from mezzotint.world.scene import Scenes, is_held_out, random_scenes

CELLS = SIDE // STRIDE
CHANNELS = 1 + sum(map(len, ATTRIBUTES.values()))


@pytest.fixture(scope="module")
def drawn() -> Rendering:
    return render(random_scenes(12, 5, held_out=None), SIDE)


def perfect_maps(scenes: Scenes, middle: Tensor, sure: float = 20.0) -> Tensor:
    """The maps [B K 32 32] of a judge that knows: every cell tells of the nearest solid."""
    cell = torch.arange(CELLS) + 0.5
    away = (cell[None, None, None, :] - middle[:, :, 0, None, None]) ** 2
    away = away + (cell[None, None, :, None] - middle[:, :, 1, None, None]) ** 2
    nearest = away.masked_fill(~scenes.present[:, :, None, None], torch.inf).argmin(dim=1)  # [B h w]
    at = torch.full((len(scenes), CELLS, CELLS), -sure)
    row, slot = scenes.present.nonzero(as_tuple=True)
    x, y = middle[row, slot].long().unbind(dim=1)
    at[row, y, x] = sure
    rows = torch.arange(len(scenes))[:, None, None]
    attributes = [
        sure * F.one_hot(getattr(scenes, name)[rows, nearest], len(values)).permute(0, 3, 1, 2)
        for name, values in ATTRIBUTES.items()
    ]
    return torch.cat([at[:, None], *attributes], dim=1)


class Knowing(Judge):
    """A judge that is told the truth."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps, self.at = maps, 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.at += len(pixels)
        return self.maps[self.at - len(pixels) : self.at]


def test_the_visible_middle_is_in_the_solid(drawn: Rendering):
    middle = middles(drawn.masks)
    row, slot = drawn.scenes.present.nonzero(as_tuple=True)
    x, y = (middle[row, slot] * STRIDE).long().unbind(dim=1)
    shapes = drawn.scenes.shape[row, slot]
    inside = drawn.masks[row, slot, y, x] > 0
    assert inside[shapes != 4].all()  # A torus has its middle in its hole.
    square = torch.zeros(1, 4, SIDE, SIDE)
    square[0, 0, 20:40, 60:100] = 1
    assert middles(square)[0, 0].tolist() == pytest.approx([80 / STRIDE, 30 / STRIDE])


def test_perfect_maps_have_no_loss_and_every_attribute_right(drawn: Rendering):
    middle = middles(drawn.masks)
    loss, figures = judge_loss(perfect_maps(drawn.scenes, middle), drawn.scenes, middle)
    assert float(loss) == pytest.approx(0, abs=1e-4)
    assert {name: float(value) for name, value in figures.items()} == dict.fromkeys(ATTRIBUTES, 1.0)


def test_every_mistake_costs(drawn: Rendering):
    middle = middles(drawn.masks)
    perfect = perfect_maps(drawn.scenes, middle)
    best = float(judge_loss(perfect, drawn.scenes, middle)[0])
    missing, invented, unsure = perfect.clone(), perfect.clone(), 0.1 * perfect
    missing[:, 0] = -20
    invented[:, 0, 0, 0] = 20
    for worse in (missing, invented, unsure, perfect.roll(1, dims=0)):
        assert float(judge_loss(worse, drawn.scenes, middle)[0]) > best + 0.1
    start = 1
    for name, values in ATTRIBUTES.items():
        wrong = perfect.clone()
        wrong[:, start : start + len(values)] = wrong[:, start : start + len(values)].roll(1, dims=1)
        loss, figures = judge_loss(wrong, drawn.scenes, middle)
        assert float(loss) > best + 1
        assert {key for key, value in figures.items() if float(value) < 1} == {name}
        start += len(values)


def test_what_is_read_from_perfect_maps_is_the_scene(drawn: Rendering):
    middle = middles(drawn.masks)
    read = Knowing(perfect_maps(drawn.scenes, middle)).find(drawn.pixels)
    for row, (scene, found) in enumerate(zip(drawn.scenes.describe(), read, strict=True)):
        at = middle[row][drawn.scenes.present[row]] / CELLS
        truth = [
            (float(x), float(y), s.shape, s.colour, s.size) for s, (x, y) in zip(scene.solids, at.tolist(), strict=True)
        ]
        truth.sort(key=lambda entry: (int(entry[0] * CELLS), int(entry[1] * CELLS)))  # As cells are read.
        assert [(one.shape, one.colour, one.size) for one in found] == [entry[2:] for entry in truth]
        for one, (x, y, *_) in zip(found, truth, strict=True):
            assert abs(one.x - x) <= 0.5 / CELLS + 1e-6
            assert abs(one.y - y) <= 0.5 / CELLS + 1e-6
            assert one.probability > 0.99


def test_one_that_sees_nothing_is_right_about_nothing():
    blind = Knowing(torch.full((3, CHANNELS, CELLS, CELLS), -20.0))
    assert accuracy(blind, 3) == {**dict.fromkeys(ATTRIBUTES, 0.0), "found": 0.0, "scene": 0.0}


def test_an_empty_table_has_nothing_on_it():
    assert Knowing(torch.full((1, CHANNELS, CELLS, CELLS), -20.0)).find(torch.zeros(1, 3, SIDE, SIDE)) == [[]]


@pytest.mark.parametrize("size", [64, 96, 256])
def test_pictures_of_any_size_are_judged(drawn: Rendering, size: int):
    sizes: list[torch.Size] = []

    class Sees(Judge):
        def forward(self, pixels: Tensor) -> Tensor:
            sizes.append(pixels.shape)
            return torch.zeros(len(pixels), CHANNELS, CELLS, CELLS) - 9

    Sees().find(F.interpolate(drawn.pixels[:2], (size, size)))
    assert sizes == [torch.Size((2, 3, SIDE, SIDE))]


def test_accuracy_of_one_that_knows_and_of_one_that_does_not(monkeypatch: pytest.MonkeyPatch):
    scenes = random_scenes(12, 3, held_out=None)
    truth = render(scenes, SIDE)
    maps = perfect_maps(scenes, middles(truth.masks))
    monkeypatch.setattr(module, "render", lambda some, _side: Rendering(truth.pixels, truth.depth, truth.masks, some))
    assert set(accuracy(Knowing(maps), 12, 3).items()) == {(name, 1.0) for name in (*ATTRIBUTES, "found", "scene")}
    red = maps.clone()
    start = 1 + len(ATTRIBUTES["shape"])
    red[:, start : start + len(ATTRIBUTES["colour"])] = 0
    red[:, start] = 1  # All are red.
    solids = scenes.colour[scenes.present]
    measured = accuracy(Knowing(red), 12, 3)
    assert measured["shape"] == measured["found"] == 1.0
    assert measured["colour"] == pytest.approx(float((solids == 0).float().mean()))
    assert measured["scene"] < 1


def test_a_judge_learns_one_batch_by_heart():
    torch.manual_seed(0)
    judge = Judge()
    task = JudgeTask(judge, 4)
    assert (len(task), task.network) == (4, judge)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(8):
        loss, figures = task.loss(torch.arange(4), torch.Generator().manual_seed(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert set(figures) == set(ATTRIBUTES)


def test_every_batch_shows_other_scenes_some_of_them_held_out(monkeypatch: pytest.MonkeyPatch):
    asked: list[Scenes] = []

    def remember(scenes: Scenes, _side: int) -> Rendering:
        asked.append(scenes)
        blank = torch.zeros(len(scenes), 4, SIDE, SIDE)
        blank[:, :, 8, 8] = 1
        return Rendering(blank[:, :3], blank[:, 0], blank, scenes)

    monkeypatch.setattr(module, "render", remember)
    task = JudgeTask(Judge(), 100)
    for index in ([0, 5], [9, 3], [0, 7]):
        task.loss(torch.tensor(index), torch.Generator())
    assert asked[0].describe() != asked[1].describe()
    assert asked[0].describe() == asked[2].describe()  # A pure function of the first place.
    assert any(is_held_out(scene.solids) for scene in random_scenes(64, 41, held_out=None).describe())


def test_blemishes_are_slight_and_stay_in_range(drawn: Rendering):
    spoilt = blemish(drawn.pixels, torch.Generator().manual_seed(0))
    assert spoilt.shape == drawn.pixels.shape
    assert spoilt.min() >= -1
    assert spoilt.max() <= 1
    error = (spoilt - drawn.pixels).square().mean().sqrt()
    assert 0.01 < float(error) < 0.2
    assert torch.equal(spoilt, blemish(drawn.pixels, torch.Generator().manual_seed(0)))


def test_a_judge_is_kept_with_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "accuracy", lambda _judge: {"shape": 0.98765432, "found": 1.0})
    torch.manual_seed(0)
    judge = Judge().eval()
    assert save_judge(judge, tmp_path / "judge") == {"shape": 0.9877, "found": 1.0}
    again, measured = load_judge(tmp_path / "judge")
    assert measured == {"shape": 0.9877, "found": 1.0}
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(again.eval()(pixels), judge(pixels))


def test_no_judge(tmp_path: Path):
    with pytest.raises(UserError, match="mezzotint evaluate judge"):
        load_judge(tmp_path)
