"""Pictures that begin in a picture: strength, masks, edges, and what a model cannot read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mezzotint.denoise.unet import UNet
from mezzotint.noise import draw_noise
from mezzotint.pipeline import Pipeline
from mezzotint.pipeline import edit as edits
from mezzotint.pipeline.edit import Edit
from mezzotint.pipeline.start import Seen, Start
from mezzotint.sampling.sizes import drawn
from mezzotint.store.facts import Facts
from mezzotint.store.memory import Held
from mezzotint.types import Request, UserError

PROMPT = "a red sphere to the left of a blue cube"


@pytest.fixture(scope="module")
def pipe(tiny_parts: Any) -> Pipeline:
    facts = dataclasses.replace(tiny_parts.facts, sizes=((48, 32),))
    return Pipeline.of(dataclasses.replace(tiny_parts, facts=facts))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 32), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    mask = Image.new("L", (48, 32))
    ImageDraw.Draw(mask).rectangle((20, 6, 39, 25), fill=255)
    return mask


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_strength_0_is_the_picture_up_to_the_autoencoder(pipe: Pipeline, picture: Image.Image) -> None:
    pixels = np.asarray(picture)
    from mezzotint.conditioning.canvas import to_pixels

    with torch.inference_mode():
        (back,) = pipe.decode(pipe.codec.encode(to_pixels(picture)))
    found = pipe(PROMPT, image=picture, strength=0, keep_colours=False)
    assert np.array_equal(values(found), values(back))
    # Random weights make grey of it; its mean colour comes back.
    kept = values(pipe(PROMPT, image=picture, strength=0))
    mean = pixels.mean(axis=(0, 1))
    assert np.abs(kept.mean(axis=(0, 1)) - mean).max() < np.abs(values(back).mean(axis=(0, 1)) - mean).max()


def test_strength_1_ignores_it(pipe: Pipeline, picture: Image.Image) -> None:
    assert np.array_equal(values(pipe(PROMPT, image=picture, strength=1, seed=3)), values(pipe(PROMPT, seed=3)))


def test_between_it_moves_away_step_by_step(pipe: Pipeline, picture: Image.Image) -> None:
    moves = [list(pipe.steps(PROMPT, seed=1, image=picture, strength=s, steps=10)) for s in (0.0, 0.2, 0.5, 1.0)]
    assert [len(each) for each in moves] == [1, 2, 5, 10]
    start = moves[0][-1].estimate
    apart = [float((each[-1].estimate - start).square().mean()) for each in moves]
    assert apart == sorted(apart)
    assert apart[0] == 0 < apart[1]


def test_the_default_strength_is_the_modes(pipe: Pipeline, picture: Image.Image, mask: Image.Image) -> None:
    steps = {"steps": 4, "seed": 1}
    assert len(list(pipe.steps(PROMPT, image=picture, **steps))) == 3
    assert len(list(pipe.steps(PROMPT, image=picture, mask=mask, **steps))) == 4


@pytest.mark.parametrize("named", ["depth", "silhouette", "mask"])
def test_what_lies_beside_the_latent_is_best_drawn_with_otherwise(
    pipe: Pipeline, picture: Image.Image, mask: Image.Image, named: str
) -> None:
    parts = {"defaults": {"steps": 5, "guidance": 4.0}, "hinted": {"guidance": 2.0}}
    other = Pipeline(conditioner=pipe.conditioner, denoiser=pipe.denoiser, codec=pipe.codec, **parts)
    given: dict[str, Any] = {named: mask} | ({"image": picture} if named == "mask" else {})
    assert other.request(PROMPT).guidance == other.request(PROMPT, image=picture).guidance == 4.0
    assert (other.request(PROMPT, **given).guidance, other.request(PROMPT, **given).steps) == (2.0, 5)
    assert other.request(PROMPT, guidance=7.0, **given).guidance == 7.0
    assert Facts(**parts).request(prompt=PROMPT, hint=(f"{named}:map.png",)).guidance == 2.0
    # What goes with the sampler in whose place another is does not go with that one.
    walk = {"defaults": {"sampler": "dpmpp-2m-sde", "schedule": "karras"}, "hinted": {"sampler": "ddim"}}
    request = Facts(**walk).request(prompt=PROMPT, silhouette="map.png")
    assert (request.sampler, request.schedule) == ("ddim", "")


def test_outside_the_mask_every_bit_stays(pipe: Pipeline, picture: Image.Image, mask: Image.Image) -> None:
    inside = np.asarray(mask) > 0
    for more in ({}, {"only_masked": 4}, {"fill": "colours", "strength": 0.6}, {"fill": "noise", "strength": 0.6}):
        found = np.asarray(pipe(PROMPT, image=picture, mask=mask, seed=2, **more))
        assert np.array_equal(found[~inside], np.asarray(picture)[~inside])
        assert np.abs(found[inside].astype(int) - np.asarray(picture)[inside]).mean() > 5


def test_fills_differ_below_strength_1_alone(pipe: Pipeline, picture: Image.Image, mask: Image.Image) -> None:
    def drawn(strength: float) -> list[bytes]:
        fills = ("original", "colours", "noise")
        more: dict[str, Any] = {"strength": strength, "seed": 2, "keep_colours": False}
        return [pipe(PROMPT, image=picture, mask=mask, fill=fill, **more).tobytes() for fill in fills]

    assert len(set(drawn(0.6))) == 3
    # From noise alone only what the masked part does to its neighbours' latents is left.
    assert drawn(1.0)[0] == drawn(1.0)[2]


def test_beyond_the_edges(pipe: Pipeline, picture: Image.Image) -> None:
    found = pipe(PROMPT, image=picture, extend="left=16,bottom=8", seed=2)
    assert found.size == (64, 40)
    assert np.array_equal(np.asarray(found)[:32, 16:], np.asarray(picture))
    assert found.info["request"].width == 64


def extended(name: str, plane: Image.Image | str) -> list[int]:
    """Left, top, right and bottom of what is not 0 of a map given with a picture of 128 pixels and 64 more beside."""
    given = plane if isinstance(plane, str) else Held.of(plane)
    picture = Held.of(Image.new("RGB", (128, 128)))
    request = Request(prompt="", image=picture, extend="right=64", **{name: given})
    (found,) = edits.read(request, (192, 128), [(128, 128)], 8).hints.values()
    rows, columns = (found[0, 0] > 0).any(dim=1).nonzero(), (found[0, 0] > 0).any(dim=0).nonzero()
    return [int(each[end]) for end in (0, -1) for each in (columns, rows)]


def test_maps_go_along_when_a_picture_is_extended() -> None:
    box = Image.new("L", (128, 128))
    box.paste(255, (32, 40, 96, 80))
    assert extended("silhouette", box) == [32, 40, 95, 79]
    assert extended("silhouette", box.resize((64, 64), Image.Resampling.NEAREST)) == [32, 40, 95, 79]
    whole = Image.new("L", (192, 128))
    whole.paste(255, (100, 40, 190, 80))  # A map of the whole that is asked for stays where it is.
    assert extended("silhouette", whole) == [100, 40, 189, 79]


def test_a_picture_drawn_on_a_map_alone_has_the_maps_shape() -> None:
    wide = Image.new("L", (256, 128))
    wide.paste(255, (0, 40, 40, 80))
    alone = edits.read(Request(prompt="", silhouette=Held.of(wide)), (128, 128), [(128, 128)], 8)
    assert alone.size == (184, 88)  # As many pixels as 128 x 128, about, in latent places.
    found = (alone.hints["silhouette"][0, 0] > 0.5).nonzero()
    assert found[:, 1].max().item() == pytest.approx(184 * 40 / 256, abs=1.5)
    square = wide.resize((512, 512), Image.Resampling.NEAREST)
    assert edits.read(Request(prompt="", silhouette=Held.of(square)), (128, 128), [(128, 128)], 8).size == (128, 128)
    asked = Request(prompt="", silhouette=Held.of(wide), depth=Held.of(np.eye(8)), width=64, height=64)
    assert edits.read(asked, (128, 128), [(128, 128)], 8).size == (64, 64)
    settled = edits.read(Request(prompt="", silhouette=Held.of(wide)), (128, 128), [(128, 128)], 8, settled=True)
    assert settled.size == (128, 128)


def test_noise_that_is_given_says_how_large_a_picture_on_a_map_is(pipe: Pipeline, monkeypatch) -> None:
    asked: list[dict[str, Any]] = []
    read = edits.read
    monkeypatch.setattr(edits, "read", lambda *args, **more: (asked.append(more), read(*args, **more))[1])
    pipe(PROMPT, steps=1, noise=torch.zeros(1, 4, 4, 4))
    pipe(PROMPT, steps=1)
    assert {each["settled"] for each in asked[: len(asked) // 2]} == {True}
    assert asked[-1]["settled"] is False


def test_maps_as_nearly_of_an_images_shape_as_pixels_allow() -> None:
    picture, small = Held.of(Image.new("RGB", (128, 85))), Held.of(np.eye(11, 16))
    assert edits.read(Request(prompt="", image=picture, depth=small), (128, 128), [(128, 128)], 8).size == (128, 85)
    fits = Held.of(Image.new("L", (64, 64), 255))  # The image is cropped to this, and the map is of what is left.
    asked = Request(prompt="", image=picture, silhouette=fits, width=64, height=64)
    assert (edits.read(asked, (64, 64), [(64, 64)], 8).hints["silhouette"] > 0).all()


def test_maps_of_another_shape_are_refused() -> None:
    wide, square = Held.of(Image.new("L", (256, 128), 255)), Held.of(np.arange(64.0).reshape(8, 8))
    picture = Held.of(Image.new("RGB", (128, 128)))
    with pytest.raises(UserError, match="silhouette is 256x128 pixels and the image 128x128: give one of the image's"):
        edits.read(Request(prompt="", image=picture, silhouette=wide), (128, 128), [(128, 128)], 8)
    extended = Request(prompt="", image=picture, silhouette=wide, extend="top=128")
    with pytest.raises(UserError, match="silhouette is 256x128 pixels and the image 128x128: give one of the image's"):
        edits.read(extended, (128, 256), [(128, 128)], 8)
    with pytest.raises(UserError, match="depth is 8x8 pixels and the hint silhouette 256x128: give both in one shape"):
        edits.read(Request(prompt="", depth=square, silhouette=wide), (128, 128), [(128, 128)], 8)


def test_a_map_taken_from_an_extended_picture_is_of_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = torch.arange(1.0, 129.0).expand(1, 1, 128, 128)
    monkeypatch.setattr(edits, "depth_of", lambda _pixels, _by: ramp)
    picture = Held.of(Image.new("RGB", (128, 128)))
    request = Request(prompt="", image=picture, depth="auto", extend="right=64", width=128, height=128)
    assert torch.equal(edits.read(request, (128, 128), [(128, 128)], 8).hints["depth"], ramp)


@pytest.mark.parametrize("upscale", ["auto", "two-pass", "tiles", "none"])
def test_beyond_the_trained_size_outside_the_mask_every_bit_stays(pipe, picture, mask, upscale: str) -> None:
    large, where = (each.resize((96, 64), Image.Resampling.NEAREST) for each in (picture, mask))
    inside = np.asarray(where) > 0
    moves = list(pipe.steps(PROMPT, image=large, mask=where, upscale=upscale, steps=4, seed=2))
    found = np.asarray(moves[-1].picture.image)
    assert np.array_equal(found[~inside], np.asarray(large)[~inside])
    assert np.abs(found[inside].astype(int) - np.asarray(large)[inside]).mean() > 5
    widths = list(dict.fromkeys(move.estimate.shape[3] * pipe.codec.factor for move in moves))
    assert widths == ([96] if upscale == "none" else [48, 96])


def test_what_a_mask_leaves_is_taken_on_at_the_full_size(pipe: Pipeline) -> None:
    small, large = (draw_noise([side], (4, side, side)) for side in (2, 4))
    repaint = torch.zeros(1, 1, 4, 4)
    repaint[..., 2:] = 0.5
    start = Start(small, (Seen(small, torch.ones(1, 1, 2, 2)), Seen(large, repaint)))
    with torch.inference_mode():
        found, drawn = start.enlarged(pipe.codec, small, (4, 4)), pipe.codec.enlarge(small, (4, 4))
    assert torch.equal(found, torch.where(repaint > 0, drawn, large))
    assert not torch.equal(drawn, large)


def test_a_mask_of_thin_lines_and_one_that_is_black_survive_being_made_smaller(pipe: Pipeline) -> None:
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., 20] = 1
    edit = Edit((96, 64), drawn((96, 64), 8), pixels=torch.zeros(1, 3, 64, 96), mask=mask)
    small = edit.at((48, 32))
    assert small.pixels is not None
    assert small.pixels.shape == (1, 3, 32, 48)
    assert small.mask is not None
    assert small.mask[..., 10].all()
    assert small.mask.sum() == 32
    assert edit.at((96, 64)) is edit


@pytest.mark.parametrize("upscale", ["two-pass", "tiles", "dilated"])
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_what_lies_beside_the_latent_goes_through_every_pass(
    tiny_parts: Any, picture: Image.Image, mask: Image.Image, channels: int, upscale: str
) -> None:
    facts = dataclasses.replace(tiny_parts.facts, sizes=((48, 32),))
    pipe = conditioned(dataclasses.replace(tiny_parts, facts=facts), channels)
    large, where = picture.resize((96, 64)), mask.resize((96, 64))
    given: dict[str, Any] = {"image": large, "upscale": upscale, "steps": 4, "seed": 1}
    given |= {1: {"depth": where}, 4: {}, 5: {"mask": where}}[channels]
    prompt = "[a red cube:a blue ball:0.5]"
    found = pipe(prompt, **given)
    assert found.size == (96, 64)
    other = {1: {"depth": where.rotate(180)}, 4: {"image": large.rotate(180)}, 5: {"mask": where.rotate(180)}}
    assert found.tobytes() != pipe(prompt, **given | other[channels]).tobytes()


def test_more_strength_moves_further_beyond_the_trained_size_too(pipe: Pipeline, picture: Image.Image) -> None:
    large = picture.resize((96, 64))
    apart = []
    for strength in (0.0, 0.2, 0.5, 1.0):
        moves = list(pipe.steps(PROMPT, image=large, strength=strength, steps=10, seed=1))
        if strength == 0.0:
            start = moves[0].estimate
        apart.append(float((moves[-1].estimate - start).square().mean()))
    assert apart == sorted(apart)
    assert apart[0] == 0 < apart[1]


def test_a_size_of_its_own(pipe: Pipeline, picture: Image.Image) -> None:
    odd = picture.resize((45, 31))
    assert pipe(PROMPT, image=odd).size == (45, 31)
    assert pipe(PROMPT, image=odd, width=24).size == (24, 31)
    kept = np.asarray(pipe(PROMPT, image=odd, mask=Image.new("L", (90, 62), 0).point(lambda _: 0), extend="right=3"))
    assert np.array_equal(kept[:, :45], np.asarray(odd))


def test_it_depends_on_its_request_alone(pipe: Pipeline, picture: Image.Image, mask: Image.Image) -> None:
    """Beside others in one loop, with the rounding that company makes."""
    requests = [
        pipe.request(PROMPT, seed=1, image=picture, strength=0.5),
        pipe.request(PROMPT, seed=2, image=picture, mask=mask),
        pipe.request(PROMPT, seed=3),
        pipe.request(PROMPT, seed=4, image=picture, strength=0.0),
    ]
    together = pipe(requests)
    for request, image in zip(requests, together, strict=True):
        assert np.abs(values(pipe(request)) - values(image)).max() <= 1
        assert np.array_equal(values(pipe(image.info["request"])), values(pipe(request)))


def test_text_is_projected_once_for_pictures_of_one_prompt(pipe: Pipeline, picture: Image.Image, monkeypatch) -> None:
    calls = []
    project = pipe.denoiser.project
    monkeypatch.setattr(pipe.denoiser, "project", lambda told: calls.append(told) or project(told))
    pipe([pipe.request(PROMPT, seed=seed, image=picture, strength=0.9) for seed in range(3)])
    assert len(calls) == 2  # The prompt and the negative.


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"mask": "m.png"}, "no image"),
        ({"extend": "left=8"}, "no image"),
        ({"strength": 0.5}, "no image"),
        ({"image": "a.png", "strength": 1.5}, "from 0 to 1"),
        ({"image": "a.png", "only_masked": 8}, "no mask"),
        ({"image": "a.png", "extend": "up=8"}, "left=64"),
        ({"image": "a.png", "extend": "left=-8"}, "left=64"),
        ({"image": "a.png", "resize": "squash"}, "crop, pad, stretch"),
        ({"image": "a.png", "fill": "pink"}, "original, colours, noise"),
        ({"depth_kind": "far"}, "disparity, metric"),
        ({"image_guidance": -1.0}, "from 0 to 100"),
    ],
)
def test_requests_that_mean_nothing(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Request(**fields)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"image": "none.png"}, "no picture none.png|no picture .*none.png"),
        ({"image": Image.new("RGB", (1, 1))}, "1x1 pixels"),
        ({"image": Image.new("RGB", (5000, 8))}, "5000x8 pixels"),
        ({"image": Image.new("RGB", (32, 32)), "mask": Image.new("L", (64, 32), 255)}, "the image's shape"),
        ({"image": Image.new("RGB", (32, 32)), "mask": Image.new("L", (32, 32))}, "black everywhere"),
        ({"depth": np.random.default_rng(0).random((4, 4))}, "reads no depth"),
        ({"image": 7}, "is no picture"),
    ],
)
def test_pictures_that_cannot_be(pipe: Pipeline, fields: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as told:
        pipe(PROMPT, **fields)
    assert "\n" not in str(told.value)


def test_a_picture_of_one_pixel_at_a_size_and_a_mask_white_everywhere(pipe: Pipeline, picture: Image.Image) -> None:
    assert pipe(PROMPT, image=Image.new("RGB", (1, 1), "red"), width=48, height=32).size == (48, 32)
    white = Image.new("L", picture.size, 255)
    assert values(pipe(PROMPT, image=picture, mask=white, seed=1)).std() > 5


def conditioned(parts: Any, channels: int) -> Pipeline:
    """The tiny model with a U-Net that reads so many channels beside the latent's."""
    config = dataclasses.replace(parts.unet.config, in_channels=4 + channels)
    return Pipeline.of(dataclasses.replace(parts, unet=UNet(config).eval()))


@pytest.mark.parametrize(
    ("channels", "what"), [(1, "give depth"), (4, "give image"), (7, "something unknown"), (5, None)]
)
def test_what_a_model_must_be_told(tiny_parts: Any, channels: int, what: str | None) -> None:
    pipe = conditioned(tiny_parts, channels)
    if what is None:  # A model that fills in draws from words alone too: nothing is known.
        assert pipe(PROMPT, seed=1).size == (16, 16)
        return
    with pytest.raises(UserError, match=what):
        pipe(PROMPT)
