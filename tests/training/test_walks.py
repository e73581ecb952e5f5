"""Walks: their states, their truth, and what a U-Net that learns from them is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from mezzotint.cli import main
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.training import walks
from mezzotint.training.data import StillLife
from mezzotint.training.fit import read_log
from mezzotint.training.walks import FIRST, LAST, LEAST, LEAST_END, MOST, MOST_END, STILL, Ends, Walker, walks_name
from mezzotint.types import Conditioning, Request, UserError
from mezzotint.world.captions import outright

SIZE, COUNT = 32, 12
REQUEST = Request(steps=12, guidance=3.0, sampler="dpmpp-2m-sde", schedule="karras", eta=0.3)


class Pixels:
    """A latent is the picture at a quarter of its side: nothing has to be learned."""

    factor, channels = 4, 3

    def encode(self, pixels: Tensor) -> Tensor:
        return F.avg_pool2d(pixels, 4)

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(latents, scale_factor=4, mode="bilinear")


class Knows(nn.Module):
    """A denoiser that tells every caption's picture at once, `off` from it; and the conditioner that it listens to."""

    def __init__(self, pictures: StillLife, off: float = 0.0) -> None:
        super().__init__()
        self.schedule = NoiseSchedule(rescale_betas_zero_snr=True)
        self.off = nn.Parameter(torch.tensor(off))
        everything = torch.arange(COUNT)
        self.latents = Pixels().encode(pictures.pixels(everything))
        self.number = {outright(pictures.scene(i)): i for i in everything.tolist()}
        self.asked: list[float] = []

    def read(self, captions: list[str]) -> Conditioning:
        numbers = [self.number.get(caption, -1) for caption in captions]
        return Conditioning(sequence=torch.tensor(numbers).float()[:, None, None])

    def project(self, conditioning: Conditioning) -> None: ...

    def forward(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, _: None = None) -> Tensor:
        self.asked += sigma.tolist()
        assert conditioning.sequence is not None
        number = conditioning.sequence[:, 0, 0].long()
        said = torch.where((number < 0)[:, None, None, None], self.latents.mean(dim=0), self.latents[number])
        return said + self.off


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> StillLife:
    return StillLife(tmp_path_factory.mktemp("data"), COUNT, SIZE, tinted=0.5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "CHUNK", 6)
    monkeypatch.setattr(walks, "ASTRAY", 0.12)  # What `Pixels` decodes is blurred.


def walker(knows: Knows, pictures: StillLife, guidance: float = 1.0) -> Walker:
    return Walker(knows, knows.read, Pixels(), pictures, REQUEST.but(guidance=guidance))  # pyright: ignore


def test_what_a_denoiser_knows_it_walks_back_to(pictures: StillLife, tmp_path: Path):
    knows = Knows(pictures)
    found = walker(knows, pictures).all(12, tmp_path)
    truth = found.truth.float()
    # Solids of some 8 pixels are found again to a fraction of one.
    assert (truth - knows.latents[found.place]).square().mean() < 2e-3
    noise = (found.state.float() - knows.latents[found.place]) / found.sigma[:, None, None, None]
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert len(found) == len(found.truth) == len(found.state) == len(found.sigma)
    assert ((found.sigma > LAST) & (found.sigma < FIRST)).all()
    assert LEAST <= max(knows.asked) <= MOST


def test_half_of_the_scenes_are_tinted(pictures: StillLife, tmp_path: Path):
    found = walker(Knows(pictures), pictures).all(48, tmp_path)
    tinted = pictures.scenes.tint.abs().amax(dim=(1, 2)) > 0
    assert tinted[found.place].float().mean() == 0.5


@pytest.mark.parametrize("tinted", [0.0, 1.0])
def test_where_scenes_are_of_one_kind_all_walks_are(tinted: float, tmp_path: Path):
    alike = StillLife(tmp_path / "data", COUNT, SIZE, tinted=tinted)
    assert len(walker(Knows(alike), alike).all(24, tmp_path / "walks").place.unique()) > COUNT // 2


def test_walks_are_guided_as_the_model_is_drawn(pictures: StillLife):
    """Guidance of 3 leads away from the mean of all pictures, thrice as far as a scene is from it."""
    knows = Knows(pictures)
    _, end = walker(knows, pictures, 3.0).walk(torch.arange(6), 2.0, torch.Generator().manual_seed(0))
    mean = knows.latents.mean(dim=0)
    torch.testing.assert_close(end, mean + 3 * (knows.latents[:6] - mean), rtol=0, atol=1e-4)


def test_walks_are_guided_where_the_model_is(pictures: StillLife):
    """The guide leaves the end of the walk to the plain estimate."""
    knows = Knows(pictures)
    request = REQUEST.but(guidance=3.0, guide=["interval:0.5:1000"])
    walker = Walker(knows, knows.read, Pixels(), pictures, request)  # pyright: ignore
    _, end = walker.walk(torch.arange(6), 2.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(end, knows.latents[:6], rtol=0, atol=1e-4)
    assert 0 < len([sigma for sigma in knows.asked if sigma <= 0.5]) < len([s for s in knows.asked if s > 0.5])


def test_walks_that_go_astray_teach_nothing(pictures: StillLife, tmp_path: Path):
    with pytest.raises(UserError, match="None of the walks"):
        walker(Knows(pictures, off=1.0), pictures).all(6, tmp_path)


def test_only_walks_that_end_near_a_scene_are_learned_from(
    pictures: StillLife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a denoiser that knows half of the scenes; each state stays with its own sigma, truth and place."""
    knows = Knows(pictures)
    known = torch.arange(COUNT) % 2 == 0
    true, knows.latents = knows.latents, torch.where(known[:, None, None, None], knows.latents, 1.0)
    found = walker(knows, pictures).all(24, tmp_path)
    assert known[found.place].all()
    noise = (found.state.float() - true[found.place]) / found.sigma[:, None, None, None]
    assert noise.flatten(1).std(dim=1).sub(1).abs().max() < 0.3


@pytest.mark.parametrize(("changes", "said"), [({"guide": ["pag"]}, "pag"), ({"schedule": "cosine+karras"}, "tables")])
def test_how_a_model_is_drawn_may_be_no_way_to_walk(pictures: StillLife, changes: dict[str, Any], said: str):
    knows = Knows(pictures)
    with pytest.raises(UserError, match=said):
        Walker(knows, knows.read, Pixels(), pictures, REQUEST.but(**changes))  # pyright: ignore


def test_of_one_step_there_is_an_end_and_no_state_to_learn_from(pictures: StillLife, tmp_path: Path):
    knows = Knows(pictures)
    walker = Walker(knows, knows.read, Pixels(), pictures, REQUEST.but(steps=1, guidance=1.0))  # pyright: ignore
    with pytest.raises(UserError, match="1 steps none"):
        walker.all(6, tmp_path / "states")
    assert not (tmp_path / "states").exists()
    assert len(walker.ends(6, tmp_path / "ends")) > 0


def test_other_seeds_walk_otherwise(pictures: StillLife, tmp_path: Path):
    knows = Knows(pictures)
    one, other = (
        Walker(knows, knows.read, Pixels(), pictures, REQUEST.but(guidance=1.0), seed=seed).all(6, tmp_path / str(seed))  # pyright: ignore
        for seed in (0, 1)
    )
    assert not torch.equal(one.state[:3], other.state[:3])


def test_a_damaged_file_is_named(pictures: StillLife, tmp_path: Path):
    walker(Knows(pictures), pictures).all(6, tmp_path)
    (tmp_path / "0000.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        walker(Knows(pictures), pictures).all(6, tmp_path)


def ends(knows: Knows, pictures: StillLife, folder: Path) -> Ends:
    return walker(knows, pictures).ends(12, folder)


def test_ends_go_with_pictures_of_the_nearest_scenes(pictures: StillLife, tmp_path: Path):
    knows = Knows(pictures)
    found = ends(knows, pictures, tmp_path)
    place = torch.cdist(found.end.float().flatten(1), knows.latents.flatten(1)).argmin(dim=1)
    torch.testing.assert_close(found.end.float(), knows.latents[place], atol=1e-3, rtol=0)
    error = (found.pixels / 127.5 - 1 - pictures.pixels(place)).square().mean(dim=(1, 2, 3))
    assert error.median() < 0.01
    assert LEAST_END <= max(knows.asked) <= MOST_END
    assert min(knows.asked) < LAST / 2  # To the last step.


def test_scenes_that_were_hardly_noised_are_the_truth_themselves(
    pictures: StillLife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However far off it is what was drawn."""
    knows = Knows(pictures, off=1.0)
    monkeypatch.setattr(walks, "MOST_END", STILL)
    found = ends(knows, pictures, tmp_path / "low")
    assert len(found) == 12
    place = torch.cdist(found.end.float().flatten(1) - 1, knows.latents.flatten(1)).argmin(dim=1)
    torch.testing.assert_close(found.pixels / 127.5 - 1, pictures.pixels(place))
    monkeypatch.setattr(walks, "LEAST_END", 2 * STILL)
    monkeypatch.setattr(walks, "MOST_END", 4.0)
    with pytest.raises(UserError, match="None of the walks"):
        ends(knows, pictures, tmp_path / "high")


def test_ends_are_found_again(pictures: StillLife, tmp_path: Path):
    first, other = ends(Knows(pictures), pictures, tmp_path), Knows(pictures)
    again = ends(other, pictures, tmp_path)
    assert not other.asked
    assert torch.equal(first.end, again.end)
    assert torch.equal(first.pixels, again.pixels)


def test_walks_of_other_networks_have_other_names():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert walks_name("", one) == walks_name("", one)
    assert len({walks_name("", one), walks_name("", other), walks_name("scenes", one)}) == 3


def test_walks_are_found_again(pictures: StillLife, tmp_path: Path):
    first = walker(Knows(pictures), pictures).all(12, tmp_path)
    other = Knows(pictures)
    again = walker(other, pictures).all(12, tmp_path)
    assert not other.asked
    assert torch.equal(first.state, again.state)
    assert walker(other, pictures).all(18, tmp_path).place[: len(first)].equal(first.place)
    assert other.asked


def test_chunks_are_functions_of_their_numbers(pictures: StillLife, tmp_path: Path):
    one = walker(Knows(pictures), pictures).all(12, tmp_path / "one")
    other = walker(Knows(pictures), pictures).all(12, tmp_path / "other")
    assert torch.equal(one.truth, other.truth)
    half = len(one) // 2
    assert not torch.equal(one.state[:4], one.state[half : half + 4])


def test_a_u_net_learns_from_its_own_walks(debug_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What an untrained one draws is far from any scene, so all of it is let pass here."""
    monkeypatch.setattr(walks, "ASTRAY", float("inf"))
    run = tmp_path / "run"
    defaults = "defaults={'steps': 12, 'guide': ('interval:0.5:100',)}"
    settings = ["walked=0.5", "walks=12", "held=1.5", "images=32", "batch=8", defaults]
    train = ["train", "unet", "debug", *settings, "--start", str(debug_run / "model"), "--out", str(run)]
    assert main([*train, "--processes", "1"]) == 0
    (folder,) = (run / "unet").glob("walks-*")
    made = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(made) == 2
    rows = list(read_log(run / "unet"))
    assert all(row["walked"] > 0 for row in rows)
    before, after = (load_file(next((where / "unet").glob("*.safetensors"))) for where in (debug_run / "model", run))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    (run / "unet" / "config.json").unlink()  # As if it had been interrupted.
    assert main([*train, "--processes", "1", "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == made


def test_some_of_what_is_learned_is_kept(debug_run: Path, tmp_path: Path):
    train = ["train", "unet", "debug", "images=16", "batch=8", "--start", str(debug_run / "model"), "--processes", "1"]
    runs = {kept: tmp_path / kept for kept in ("1.0", "0.25")}
    for kept, run in runs.items():
        assert main([*train, f"kept={kept}", "--out", str(run)]) == 0
    before, after, some = (
        load_file(next((run / "unet").glob("*.safetensors"))) for run in (debug_run / "model", *runs.values())
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, value in before.items():
        torch.testing.assert_close(some[name], value.float().lerp(after[name], 0.25))


def test_some_of_a_u_net_may_stay(debug_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train = ["train", "unet", "debug", "images=16", "batch=8", "--start", str(debug_run / "model"), "--processes", "1"]
    assert main([*train, "learns=['conv_in.', 'up_blocks.1.']", "--out", str(tmp_path / "run")]) == 0
    before, after = (
        load_file(next((run / "unet").glob("*.safetensors"))) for run in (debug_run / "model", tmp_path / "run")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"conv_in", "up_blocks"}
    assert all(name.startswith(("conv_in.", "up_blocks.1.")) for name in changed)
    for wrong in ("'up_block.'", "''", "5"):
        assert main([*train, f"learns=['conv_in.', {wrong}]", "--out", str(tmp_path / "other")]) == 2
        assert wrong in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("setting", ["walked=0.5", "held=1.5", "kept=0.5"])
def test_a_bert_learns_along(setting: str, debug_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    train = ["train", "unet", "debug", setting, "encoder=bert", "--start", str(debug_run / "model")]
    assert main([*train, "--out", str(tmp_path / "run"), "--processes", "1"]) == 2
    assert "BERT" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["walked=0.5", "held=1.5", "kept=0.5", "learns=['conv_in.']"])
def test_without_a_model_there_is_nothing_to_walk_with(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert main(["train", "all", "debug", f"unet.{setting}", "--out", str(run), "--processes", "1"]) == 2
    assert "--start" in capsys.readouterr().err
    assert not run.exists()


def test_pictures_of_a_folder_cannot_be_walked_to(debug_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (SIZE, SIZE)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a square", encoding="utf-8")
    train = ["train", "unet", "debug", "walked=0.5", "--start", str(debug_run / "model"), "--data", str(folder)]
    assert main([*train, "--out", str(tmp_path / "run"), "--processes", "1"]) == 2
    assert "--data" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["walked=1", "walked=-0.1", "walks=0", "held=-1", "kept=0", "kept=1.1"])
def test_settings_that_cannot_be(setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "unet", "debug", setting, "--out", str(tmp_path / "run")]) == 2
    assert setting.partition("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
