"""Hints: what is told of scenes, and a model that has learned some, from the recipe to the picture."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import mezzotint
from mezzotint.cli import main
from mezzotint.conditioning import canvas
from mezzotint.conditioning.hints import INPAINT, Truth, channels, hints
from mezzotint.denoise.adapter import COLUMNS
from mezzotint.pipeline.plan import plan
from mezzotint.store.facts import read_facts
from mezzotint.store.hints import load_hints, save_hints
from mezzotint.store.pictures import located
from mezzotint.store.png import read_provenance
from mezzotint.training.data import StillLife
from mezzotint.training.hints import Hints, _holds
from mezzotint.training.truth import SceneTruth
from mezzotint.types import Request, UserError
from mezzotint.vae import Codec
from mezzotint.world.captions import Told
from mezzotint.world.render import render

SIZE, COUNT = 32, 12
NAMES = (INPAINT, "depth", "silhouette")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> StillLife:
    return StillLife(tmp_path_factory.mktemp("data"), COUNT, SIZE)


@pytest.fixture(scope="module")
def truth(pictures: StillLife, tmp_path_factory: pytest.TempPathFactory) -> SceneTruth:
    return SceneTruth(pictures, tmp_path_factory.mktemp("truth"))


def test_the_truth_is_that_of_the_scenes_and_of_their_mirror_images(pictures: StillLife, truth: SceneTruth) -> None:
    index = torch.arange(COUNT)
    drawn = render(pictures.scenes, SIZE // 2)
    assert torch.allclose(truth.depth(index)[:, 0], drawn.depth, atol=0.01)
    assert torch.allclose(truth.solid(index)[:, 0], drawn.masks.sum(dim=1).clamp(max=1), atol=0.01)
    for plane in (truth.depth, truth.solid):
        assert torch.equal(plane(index + COUNT), plane(index).flip(3))
    # A box holds its solid and touches it on every side, mirrored too.
    place = (torch.arange(SIZE // 2) + 0.5) / (SIZE // 2)
    for boxes, masks in ((truth.boxes(index), drawn.masks), (truth.boxes(index + COUNT), drawn.masks.flip(3))):
        for box, mask in zip(boxes.flatten(0, 1), masks.flatten(0, 1), strict=True):
            inside = (mask > 0.5).nonzero()
            if len(inside) == 0:
                assert box.tolist() == [0.0] * 4
                continue
            left, top, right, bottom = box.tolist()
            assert left < place[inside[:, 1].min()] < left + 2 / SIZE
            assert right - 2 / SIZE < place[inside[:, 1].max()] < right
            assert top < place[inside[:, 0].min()] < top + 2 / SIZE
            assert bottom - 2 / SIZE < place[inside[:, 0].max()] < bottom


def test_truth_is_rendered_once(pictures: StillLife, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SceneTruth(pictures, tmp_path).render()
    monkeypatch.setattr("mezzotint.training.truth.render", None)
    assert SceneTruth(pictures, tmp_path).solid(torch.tensor([0])).amax() > 0


def test_every_picture_is_told_some_hints_and_the_rest_are_zero(
    pictures: StillLife, truth: SceneTruth, tiny_parts: Any
) -> None:
    told = Hints(NAMES, pictures, truth, Codec(tiny_parts.vae))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        beside = told(torch.arange(24) % COUNT, generator)
    parts = beside.spatial.split([channels(name) for name in NAMES], dim=1)
    given = torch.stack([part.flatten(1).abs().amax(dim=1) > 0 for part in parts], dim=1)
    assert given.any(dim=1).all()
    assert (given.sum(dim=1) == 1).any()
    assert (given.sum(dim=1) > 1).any()
    assert all(set(part[:, :1].unique().tolist()) <= {0.0, 1.0} for part in parts[:1])
    assert parts[1].amax() == 1
    assert parts[1].amin() == -1
    # Inside a mask an error counts ten times as much as outside, and in every picture a place counts 1 on average.
    masked = given[:, 0]
    assert torch.equal(beside.weight[~masked], torch.ones_like(beside.weight[~masked]))
    torch.testing.assert_close(beside.weight.mean(dim=(1, 2, 3)), torch.ones(24))
    lowest, highest = (beside.weight[masked].flatten(1).amin(dim=1), beside.weight[masked].flatten(1).amax(dim=1))
    both = highest > 1.001
    assert both.any()
    torch.testing.assert_close(highest[both], 10 * lowest[both])
    assert any(beside.captions.values())
    assert all(masked[row] for row in beside.captions)


def test_a_caption_tells_of_all_solids_inside_the_mask_and_of_no_other(
    pictures: StillLife, truth: SceneTruth, tiny_parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mezzotint.training.hints.tell", lambda scene, chooser, whole: Told(repr(scene), (), "any"))
    told, index = Hints(NAMES, pictures, truth, Codec(tiny_parts.vae)), torch.arange(64) % COUNT
    masks, captions = told._masks(index, random.Random(0))
    boxes, fewer, several = truth.boxes(index), 0, 0
    for row, caption in captions.items():
        scene = pictures.scene(int(index[row]))
        held = [solid for k, solid in enumerate(scene.solids) if _holds(masks[row, 0], boxes[row, k].tolist())]
        assert caption.text == (repr(replace(scene, solids=tuple(held))) if held else "")
        fewer += len(held) < len(scene.solids)
        several += len(held) > 1
    assert fewer > 5
    assert several > 5


def test_a_mask_holds_a_solid_whose_middle_it_covers() -> None:
    mask = torch.zeros(16, 16)
    mask[4:8, 8:16] = 1
    assert _holds(mask, (0.5, 0.25, 0.75, 0.5))
    assert _holds(mask, (0.9, 0.2, 1.0, 0.6))
    assert not _holds(mask, (0.0, 0.25, 0.5, 0.5))
    assert not _holds(mask, (0.5, 0.5, 1.0, 1.0))


def test_the_same_chance_tells_the_same(pictures: StillLife, truth: SceneTruth, tiny_parts: Any) -> None:
    told = Hints(NAMES, pictures, truth, Codec(tiny_parts.vae))
    with torch.no_grad():
        one, other = (told(torch.arange(6), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.spatial, other.spatial)
    assert one.captions == other.captions


@pytest.fixture(scope="module")
def model(debug_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug recipe's model with its hints, a little trained."""
    run = shutil.copytree(debug_run, tmp_path_factory.mktemp("runs") / "x")
    settings = ["--out", str(run), "--processes", "1"]
    assert main(["train", "hints", "debug", "images=64", "lr=1e-2", *settings]) == 0
    assert main(["train", "assemble", "debug", "hinted={'guidance': 3.0}", *settings]) == 0
    return run / "model"


@pytest.fixture(scope="module")
def pipe(model: Path) -> mezzotint.Pipeline:
    return mezzotint.load(model)


@pytest.fixture(scope="module")
def shape() -> Image.Image:
    shape = Image.new("L", (SIZE, SIZE))
    shape.paste(255, (8, 8, 24, 24))
    return shape


PROMPT = "a red ball"


def test_each_hint_changes_the_picture_and_none_leaves_it(pipe: mezzotint.Pipeline, shape: Image.Image) -> None:
    depth = np.linspace(0, 1, SIZE**2).reshape(SIZE, SIZE)
    plain = pipe(PROMPT, seed=1)
    picture = Image.effect_noise((SIZE, SIZE), 90).convert("RGB")
    given: list[dict[str, Any]] = [
        {"depth": depth},
        {"silhouette": shape},
        {"depth": depth, "silhouette": shape},
        {"image": picture, "mask": shape},
        {"image": picture, "mask": shape, "depth": depth},
    ]
    drawn = [pipe(PROMPT, seed=1, **fields) for fields in given]
    assert len({image.tobytes() for image in (plain, *drawn)}) == len(given) + 1
    # In one loop with others, hints and none, each is what it is alone.
    together = pipe([PROMPT, *(pipe.request(PROMPT, seed=1, **fields) for fields in given)], seed=None)
    for alone, image in zip(drawn, together[1:], strict=True):
        assert np.abs(np.asarray(alone).astype(int) - np.asarray(image)).max() <= 1
    outside = np.asarray(shape) == 0
    assert np.array_equal(np.asarray(drawn[3])[outside], np.asarray(picture)[outside])


def test_hints_are_kept_to_as_closely_as_is_asked(pipe: mezzotint.Pipeline, shape: Image.Image) -> None:
    def rows(**fields: Any) -> set[str]:
        return set(plan(pipe, 0, pipe.request(PROMPT, **fields)).guidance.rows(1.0))

    picture = Image.effect_noise((SIZE, SIZE), 90).convert("RGB")
    masked = {"image": picture, "mask": shape}
    assert rows(silhouette=shape) == rows(silhouette=shape, hint_guidance=1.0) == {"uncond", "cond"}
    assert rows(silhouette=shape, hint_guidance=2.0) == {"blank", "uncond", "cond"}
    assert rows(silhouette=shape, hint_guidance=3.0, guidance=3.0) == {"blank", "cond"}
    assert rows(silhouette=shape, hint_guidance=2.0, guide=("interval:2:3",)) == {"cond"}
    assert rows(**masked) == rows(image=picture, extend="left=8") == {"blank", "cond"}
    assert rows(**masked, guide=("plain",)) == {"blank", "cond"}
    with pytest.raises(UserError, match="nothing that this model has learned as a hint"):
        rows(hint_guidance=3.0)
    drawn = [pipe(PROMPT, seed=1, silhouette=shape, hint_guidance=scale).tobytes() for scale in (1.0, 3.0)]
    assert drawn[0] == pipe(PROMPT, seed=1, silhouette=shape).tobytes() != drawn[1]
    of_mask = pipe(PROMPT, seed=1, **masked).tobytes()
    again = pipe(PROMPT, seed=1, **masked, hint_guidance=3.0)
    assert of_mask == again.tobytes()
    assert again.info["request"].hint_guidance == 3.0
    assert pipe(PROMPT, seed=1, **masked).info["request"] == again.info["request"]
    assert of_mask != pipe(PROMPT, seed=1, **masked, hint_guidance=1.0).tobytes()


def test_guides_go_with_hints(pipe: mezzotint.Pipeline, model: Path, shape: Image.Image) -> None:
    plain = pipe(PROMPT, seed=1, silhouette=shape)
    for guide in ("pag:9", f"auto:{model}:9"):
        assert pipe(PROMPT, seed=1, silhouette=shape, guide=(guide,)).tobytes() != plain.tobytes()


def test_labels_may_be_the_numbers_of_a_segmenter() -> None:
    numbers = np.zeros((8, 8), dtype=np.uint8)
    numbers[2:6, 1:4], numbers[2:6, 4:7] = 1, 2
    plane = np.asarray(hints()["silhouette"].given(Image.fromarray(numbers)))
    assert np.array_equal(plane, np.asarray(hints()["silhouette"].given(Image.fromarray(numbers * 80))))
    assert plane.max() == 255


def test_labels_are_parted_by_background() -> None:
    labels = np.zeros((8, 8), dtype=np.uint8)
    labels[2:6, 1:4], labels[2:6, 4:7] = 80, 160
    plane = np.asarray(hints()["silhouette"].given(Image.fromarray(labels)))
    assert (plane[2:6, 1:3] == 255).all()
    assert (plane[2:6, 3] == 0).all()
    assert (plane[2:6, 4:7] == 255).all()


@pytest.mark.parametrize("kind", ["smooth", "lossy", "grey"])
def test_smooth_edges_and_lossy_files_have_no_rings(kind: str) -> None:
    large = Image.new("L", (512, 512))
    ImageDraw.Draw(large).ellipse((120, 150, 380, 400), fill=90 if kind == "grey" else 255)
    disc = large.resize((128, 128), Image.Resampling.LANCZOS)
    if kind == "lossy":
        file = BytesIO()
        disc.save(file, "JPEG", quality=60)
        disc = Image.open(file)
    plane = np.asarray(hints()["silhouette"].given(disc))
    truth = np.asarray(large.resize((128, 128), Image.Resampling.BOX)) > (45 if kind == "grey" else 127)
    assert set(np.unique(plane)) == {0, 255}
    assert ((plane > 0) != truth).sum() <= 20  # on the very edge, which is 200 pixels long
    assert not np.asarray(hints()["silhouette"].given(Image.new("L", (16, 16)))).any()


@pytest.mark.parametrize("numbers", [(1, 3), (11, 12), (7, 26), (1, 255), (60, 62)])
def test_labels_with_gaps_are_parted(numbers: tuple[int, int]) -> None:
    labels = np.zeros((64, 64), dtype=np.uint8)
    labels[10:50, 10:32], labels[10:50, 32:54] = numbers
    plane = np.asarray(hints()["silhouette"].given(Image.fromarray(labels)))
    assert set(np.unique(plane)) == {0, 255}
    assert (plane[12:48, 12:30] == 255).all()
    assert (plane[12:48, 34:52] == 255).all()
    assert (plane[12:48, 31] == 0).all()


def test_a_black_silhouette_says_nothing(pipe: mezzotint.Pipeline) -> None:
    with pytest.raises(UserError, match="silhouette is black everywhere"):
        pipe(PROMPT, silhouette=np.zeros((8, 8), dtype=np.bool_))


def test_hints_from_the_command_line_and_again(
    model: Path, shape: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape.save("shape.png")
    asked = ["generate", PROMPT, "--model", str(model), "--seed", "3", "--device", "cpu"]
    assert main([*asked, "--silhouette", "shape.png"]) == 0
    files = [Path(name).name for name in read_provenance(tmp_path / "out.png")[1].extras]
    assert files == ["config.json", "model.safetensors", "shape.png"]
    assert main(["reproduce", "out.png"]) == 0
    first = Path("out.png").read_bytes()
    assert main([*asked, "--hint", "silhouette:shape.png"]) == 0
    with Image.open("out.png") as image:
        assert image.tobytes() == Image.open(BytesIO(first)).tobytes()


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of many kinds in the working folder."""
    monkeypatch.chdir(tmp_path)
    ramp = np.linspace(0, 65535, SIZE**2).reshape(SIZE, SIZE)
    Image.fromarray(ramp.astype(np.uint16)).save("deep.png")
    np.save("nan.npy", np.where(ramp > 60000, np.nan, ramp))
    Image.new("L", (SIZE, SIZE), 255).save("white.png")
    Image.new("L", (1, 1), 255).save("one.png")
    Image.new("L", (2 * SIZE, SIZE), 255).save("wide.png")
    Image.effect_noise((SIZE, SIZE), 90).convert("CMYK").save("cmyk.jpg")
    Path("broken.png").write_bytes(Path("deep.png").read_bytes()[:99])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--depth", "nan.npy"], "holds NaN"),
        (["--depth", "white.png"], "is 255 everywhere"),
        (["--depth", "one.png"], "is 255 everywhere"),
        (["--depth", "broken.png"], "is not a picture, or is damaged"),
        (["--depth", "auto"], "no image to take the depth map from"),
        (["--silhouette", "broken.png"], "is not a picture, or is damaged"),
        (["--silhouette", "wide.png", "--image", "cmyk.jpg"], "the image's shape"),
        (["--silhouette", "wide.png", "--depth", "deep.png"], "give both in one shape"),
        (["--image", "one.png"], "1x1 pixels"),
        (["--image", "cmyk.jpg", "--mask", "wide.png"], "the image's shape"),
    ],
)
def test_maps_that_cannot_be(
    model: Path, maps: None, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
):
    before = sorted(Path().iterdir())
    assert main(["generate", PROMPT, "--model", str(model), "--device", "cpu", "--steps", "1", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert what in err
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--depth", "deep.png"],
        ["--depth", "cmyk.jpg", "--silhouette", "white.png"],
        ["--silhouette", "one.png"],
        ["--image", "cmyk.jpg", "--mask", "white.png"],
        ["--image", "deep.png", "--mask", "one.png", "--depth", "auto"],
    ],
)
def test_maps_of_odd_kinds(model: Path, maps: None, arguments: list[str]):
    assert main(["generate", PROMPT, "--model", str(model), "--device", "cpu", "--steps", "1", *arguments]) == 0
    assert Image.open("out.png").size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"hint": ("silhouette",)}, "names no file"),
        ({"hint": ("silhouette:a.png",), "silhouette": "b.png"}, "given twice"),
    ],
)
def test_requests_that_mean_nothing(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Request(**fields)


def test_hints_in_memory(pipe: mezzotint.Pipeline, shape: Image.Image, tmp_path: Path) -> None:
    shape.save(tmp_path / "shape.png")
    wanted = pipe(PROMPT, seed=3, silhouette=shape).tobytes()
    for given in (
        {"silhouette": shape},
        {"silhouette": tmp_path / "shape.png"},
        [("silhouette", np.asarray(shape))],
        ("silhouette", shape),
    ):
        assert pipe(PROMPT, seed=3, hint=given).tobytes() == wanted
    request = pipe.request(PROMPT, seed=3, hint={"silhouette": shape})
    assert pipe(located(request)).tobytes() == wanted
    with pytest.raises(UserError, match="must be its name and a picture"):
        pipe(PROMPT, hint=[("silhouette", shape, 0.5)])
    with pytest.raises(UserError, match="in memory and is gone"):
        pipe(PROMPT, hint=(str(request.hint[0]),))


def test_a_hint_that_there_is_not(pipe: mezzotint.Pipeline) -> None:
    with pytest.raises(UserError, match="reads no edges"):
        pipe(PROMPT, hint=("edges:a.png",))
    with pytest.raises(UserError, match="give image and mask"):
        pipe(PROMPT, hint=("inpaint:a.png",))


def test_thin_edges_of_a_large_map_are_edges() -> None:
    faint = torch.zeros(1, 1, 16, 16)
    faint[..., 5] = 64 / 255  # One pixel of four is left of a line where a map of 64 is made one of 16.
    assert hints()["edges"].reads(faint, (4, 4)).unique().tolist() == [-1.0, 1.0]


def test_a_silhouette_is_read_as_finely_as_scenes_are_known(pictures: StillLife, truth: SceneTruth) -> None:
    solid, side = truth.solid(torch.arange(COUNT)), SIZE // 8  # Of the latent, of an autoencoder of 8.
    found = hints()["silhouette"].reads(solid, (side, side))
    assert torch.equal(torch.nn.functional.pixel_shuffle(found, SIZE // 2 // side), 2 * solid - 1)


@pytest.mark.parametrize("name", sorted(hints()))
def test_what_a_hint_reads_is_never_what_no_hint_is(name: str, pictures: StillLife, truth: SceneTruth) -> None:
    hint, index = hints()[name], torch.arange(4)
    known = hint.known(Truth(pictures.pixels(index), truth.depth(index), truth.solid(index)))
    found = hint.reads(known, (4, 4))
    assert found.shape == (4, hint.channels, 4, 4)
    assert found.abs().amax() <= 1.001
    assert (found.flatten(1).abs().amax(dim=1) > 0.5).all()
    # A plane as large as the picture is read as one of half the size is.
    large = torch.nn.functional.interpolate(known, scale_factor=2, mode="nearest")
    assert hint.reads(large, (4, 4)).sub(found).abs().mean() < 0.3


def test_a_model_for_inpainting_or_from_depth_is_written_for_diffusers(
    model: Path, pipe: mezzotint.Pipeline, shape: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)
    picture = Image.effect_noise((SIZE, SIZE), 90).convert("RGB")
    fields: dict[str, Any] = {
        "image": picture,
        "mask": shape,
        "seed": 5,
        "steps": 4,
        "sampler": "ddim",
        "guidance": 3.0,
    }
    assert main(["convert", str(model), str(tmp_path / "none"), "--to", "diffusers", "--reads", "silhouette"]) == 2
    assert not (tmp_path / "none").exists()
    for name in ("inpaint", "depth"):
        assert main(["convert", str(model), str(tmp_path / name), "--to", "diffusers", "--reads", name]) == 0
    with monkeypatch.context() as plain:  # As other programs draw.
        plain.setattr(canvas, "inset", lambda pixels, mask, reach: (pixels, mask))
        ours = pipe(PROMPT, keep_colours=False, **fields, hint_guidance=1.0)
    again = mezzotint.load(tmp_path / "inpaint")(PROMPT, keep_colours=False, **fields)
    # What was written is in 16 bits, as the model is stored; what we draw with is put together in 32.
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(again)).max() <= 3
    theirs = diffusers.StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "inpaint", safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    stream = torch.Generator().manual_seed(5)
    asked = {
        "image": picture,
        "mask_image": shape,
        "height": SIZE,
        "width": SIZE,
        "strength": 1.0,
        "guidance_scale": 3.0,
    }
    (expected,) = theirs(PROMPT, generator=stream, num_inference_steps=4, **asked).images
    core = (slice(14, 18), slice(14, 18))  # Nearer to the edge ours fades into the picture.
    assert np.abs(np.asarray(again)[core].astype(int) - np.asarray(expected)[core]).max() <= 1
    depth = np.linspace(0, 1, SIZE**2).reshape(SIZE, SIZE)
    from_depth = mezzotint.load(tmp_path / "depth")(PROMPT, seed=5, depth=depth)
    assert np.abs(np.asarray(from_depth).astype(int) - np.asarray(pipe(PROMPT, seed=5, depth=depth))).max() <= 3
    by_depth = diffusers.StableDiffusionDepth2ImgPipeline.from_pretrained(
        tmp_path / "depth", depth_estimator=None, feature_extractor=None
    ).unet
    wide = mezzotint.load(tmp_path / "depth").denoiser.unet
    assert wide.config.in_channels == by_depth.config.in_channels == 5
    latent, words = torch.randn(1, 5, 4, 4), torch.randn(1, 7, by_depth.config.cross_attention_dim)
    with torch.no_grad():
        said = wide(latent, torch.tensor([500.0]), words)
        torch.testing.assert_close(said, by_depth(latent, 500.0, words).sample, rtol=1e-3, atol=1e-3)
    assert main(["convert", str(model), str(tmp_path / "x"), "--to", "diffusers", "--reads", "edges"]) == 2


def test_a_model_begun_from_goes_on_from_what_it_knows(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["train", "hints", "debug", "--start", str(model), "--out", str(tmp_path / "run"), "--processes", "1"]
    assert main([*asked, "images=8", "rank=3"]) == 2
    assert "are of another U-Net or rank" in capsys.readouterr().err
    assert main([*asked, "images=8", "lr=1e-9", "ema=0"]) == 0
    before, after = load_hints(model / "hints").tensors, load_hints(tmp_path / "run" / "hints").tensors
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    # A hint more, and the others in another order: what is known of each stays with it.
    names = ("edges", "depth", "inpaint", "silhouette")
    told = load_hints(model / "hints").tensors_for(names)[COLUMNS].split([channels(name) for name in names], dim=1)
    own = dict(zip(NAMES, before[COLUMNS].split([channels(name) for name in NAMES], dim=1), strict=True))
    assert all(torch.equal(part, own[name]) for name, part in zip(names[1:], told[1:], strict=True))
    assert not told[0].any()
    (tmp_path / "other").mkdir()
    other = ["debug", "--start", str(model), "--out", str(tmp_path / "other"), "--processes", "1"]
    assert main(["train", "hints", *other, "images=8", f"names={names}"]) == 0
    assert main(["train", "assemble", *other]) == 0
    assert read_facts(tmp_path / "other" / "model").hinted == read_facts(model).hinted == {"guidance": 3.0}


def test_hints_are_learned_from_as_many_clear_captions_as_the_recipe_says(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: set[float] = set()
    told = StillLife.told

    def watched(self: StillLife, index: torch.Tensor, seed: int, *, clear: float = 0.0) -> list[Told]:
        shares.add(clear)
        return told(self, index, seed, clear=clear)

    monkeypatch.setattr(StillLife, "told", watched)
    asked = ["--start", str(model), "--out", str(tmp_path / "run"), "--processes", "1"]
    assert main(["train", "hints", "debug", "images=8", "clear=0.25", *asked]) == 0
    assert shares == {0.25}


def test_hints_that_were_read_by_other_channels_are_refused(
    model: Path, shape: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(model, tmp_path / "model")
    tensors = load_hints(model / "hints").tensors
    save_hints(NAMES, {**tensors, COLUMNS: tensors[COLUMNS][:, 1:]}, copy / "hints")
    facts = copy / "mezzotint.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "sha256": {}}))
    said = r"learned from (\d+) channels, and inpaint, depth, silhouette have \d+ now: learn them anew"
    with pytest.raises(UserError, match=said):
        mezzotint.load(copy)(PROMPT, silhouette=shape)
    assert main(["train", "hints", "debug", "--start", str(copy), "--out", str(tmp_path / "run"), "images=8"]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "run" / "hints").exists()
    shutil.rmtree(copy / "hints")  # What the sentence and the how-to say to do.
    asked = ["--start", str(copy), "--out", str(tmp_path / "run"), "--processes", "1"]
    assert main(["train", "hints", "debug", "images=8", *asked]) == 0


def test_a_unet_is_widened_and_its_hints_with_it(
    model: Path, shape: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["debug", "--start", str(model), "--out", str(tmp_path / "run"), "--processes", "1"]
    assert main(["train", "unet", *asked, "images=8", "widths=[64,64]"]) == 2
    assert "keeps its 32" in capsys.readouterr().err
    assert not (tmp_path / "run" / "unet").exists()
    assert main(["train", "all", "debug", "--out", str(tmp_path / "run"), "unet.widths=[64,32]"]) == 2
    assert "give --start" in capsys.readouterr().err
    assert main(["train", "unet", *asked, "images=8", "lr=1e-9", "widths=[64,32]"]) == 0
    assert main(["train", "hints", *asked, "images=8", "lr=1e-9", "ema=0"]) == 0
    assert main(["train", "assemble", *asked]) == 0
    before, after = (mezzotint.load(path) for path in (model, tmp_path / "run" / "model"))
    assert after.denoiser.unet.config.block_out_channels == (64, 32)
    known, kept = load_hints(model / "hints").tensors, load_hints(tmp_path / "run" / "hints").tensors
    name = "mid_block.resnets.0.conv1.up"
    assert torch.equal(known[name], kept[name])
    for pipe in (before, after):
        assert pipe(PROMPT, seed=1, silhouette=shape).tobytes() != pipe(PROMPT, seed=1).tobytes()


def test_a_single_file_keeps_what_was_learned(
    model: Path, pipe: mezzotint.Pipeline, shape: Image.Image, tmp_path: Path
) -> None:
    file = tmp_path / "x.safetensors"
    assert main(["convert", str(model), str(file), "--to", "single-file"]) == 0
    assert main(["convert", str(file), str(tmp_path / "back"), "--to", "diffusers"]) == 0
    expected = pipe(PROMPT, seed=1, silhouette=shape).tobytes()
    for path in (file, tmp_path / "back"):
        assert read_facts(path).hinted == {"guidance": 3.0}
        assert mezzotint.load(path)(PROMPT, seed=1, silhouette=shape).tobytes() == expected


def test_damaged_weights_are_told_when_they_are_asked_for(model: Path, tmp_path: Path, shape: Image.Image) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    file = copy / "hints" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x3c\x00\x3c")
    pipe = mezzotint.load(copy)
    pipe(PROMPT, seed=1)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        pipe(PROMPT, silhouette=shape)
