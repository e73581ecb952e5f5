"""Pictures that a user gives, in every state in which they come."""

from __future__ import annotations

import copy
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from mezzotint.store.memory import Held, held
from mezzotint.store.pictures import (
    check_there,
    full_name,
    picture_names,
    read_colours,
    read_depth,
    read_mask,
)
from mezzotint.types import Request, UserError

RED, CLEAR = (255, 0, 0, 255), (0, 255, 0, 0)


@pytest.fixture
def rgba() -> Image.Image:
    picture = Image.new("RGBA", (2, 1), RED)
    picture.putpixel((1, 0), CLEAR)
    return picture


def stored(picture: Image.Image, path: Path, **settings: object) -> str:
    picture.save(path, **settings)
    return str(path)


def test_what_is_transparent_is_white_in_a_picture_and_black_in_a_mask(tmp_path: Path, rgba: Image.Image) -> None:
    name = stored(rgba, tmp_path / "a.png")
    assert list(read_colours(name).get_flattened_data()) == [(255, 0, 0), (255, 255, 255)]
    assert read_mask(name).getpixel((1, 0)) == 0


def test_exif_turns_it(tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (8, 16), "red"), Image.Exif()
    exif[0x0112] = 6
    assert read_colours(stored(picture, tmp_path / "a.jpg", exif=exif)).size == (16, 8)


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_way_to_turn_is_pillow_s(tmp_path: Path, turn: int) -> None:
    picture, exif = Image.effect_noise((8, 16), 80).convert("RGB"), Image.Exif()
    exif[0x0112] = turn
    name = stored(picture, tmp_path / "a.png", exif=exif)
    with Image.open(name) as opened:
        assert read_colours(name).tobytes() == ImageOps.exif_transpose(opened).tobytes()
    assert read_colours(Held.of(read_colours(name))).tobytes() == read_colours(name).tobytes()


def test_exif_that_holds_nonsense_beside_the_turn(tmp_path: Path) -> None:
    """A resolution in words, which Pillow's own turning trips over."""
    tags = struct.pack("<HHIHHI", 0x0112, 3, 1, 6, 0, 0)[:12] + struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 0)
    name = stored(Image.new("RGB", (8, 16), "red"), tmp_path / "a.jpg", exif=exif)
    assert read_colours(name).size == (16, 8)


def test_a_picture_of_too_many_pixels_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = stored(Image.new("RGB", (8, 16), "red"), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match="more pixels"):
        read_colours(name)


def test_a_name_that_begins_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(Image.new("RGB", (8, 16), "red"), tmp_path / "~nobody-of-this-name.png")
    assert picture_names(Request(prompt="", image="~nobody-of-this-name.png")) == [
        str(tmp_path / "~nobody-of-this-name.png")
    ]


@pytest.mark.parametrize("mode", ["I;16", "I", "L", "1", "P", "LA", "CMYK", "HSV", "YCbCr"])
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.full((4, 4), 128, dtype=np.uint8)
    wide = {"I;16": np.uint16, "I": np.int32}.get(mode)
    picture = Image.fromarray(grey) if wide is None else Image.fromarray(grey.astype(wide) * 257)
    picture = picture.convert(mode) if wide is None else picture
    ending = ".tiff" if mode in ("CMYK", "YCbCr", "I", "I;16") else ".png"
    name = Held.of(picture) if mode == "HSV" else stored(picture, tmp_path / f"a{ending}")
    found = read_colours(name)
    assert found.mode == "RGB"
    assert abs(int(np.asarray(found).mean()) - 128) <= (127 if mode == "1" else 2)


def test_sixteen_bits_of_depth_are_not_cut_to_eight(tmp_path: Path) -> None:
    values = np.arange(0, 60000, 10000, dtype=np.uint16).reshape(2, 3)
    found = read_depth(stored(Image.fromarray(values), tmp_path / "d.png"))
    assert np.array_equal(np.asarray(found), values.astype(np.float32))


def test_depth_from_numpy_and_from_memory(tmp_path: Path) -> None:
    values = np.linspace(0.5, 9.0, 12).reshape(3, 4)
    np.save(tmp_path / "d.npy", values[None])
    wanted = values.astype(np.float32)
    assert np.array_equal(np.asarray(read_depth(str(tmp_path / "d.npy"))), wanted)
    assert np.array_equal(np.asarray(read_depth(Held.of(values))), wanted)


def test_depth_from_openexr(tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR")
    values = np.linspace(0.5, 9.0, 12, dtype=np.float32).reshape(3, 4)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, {"Z": values}) as file:
        file.write(str(tmp_path / "d.exr"))
    assert np.array_equal(np.asarray(read_depth(str(tmp_path / "d.exr"))), values)


def test_depth_among_other_channels_of_openexr(tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR")
    values, name = np.linspace(0.5, 9.0, 12, dtype=np.float32).reshape(3, 4), str(tmp_path / "d.exr")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}

    def found(channels: dict[str, np.ndarray]) -> np.ndarray:
        with openexr.File(header, channels) as file:
            file.write(name)
        return np.asarray(read_depth(name))

    combined = {f"ViewLayer.Combined.{letter}": values * 0 + 1 for letter in "ABGR"}
    assert np.array_equal(found({**combined, "ViewLayer.Depth.Z": values}), values)
    assert np.array_equal(found({"A": values * 0 + 1, "depth": values}), values)
    normal = {f"ViewLayer.Normal.{letter}": values * 0 + 1 for letter in "XYZ"}
    assert np.array_equal(found({**combined, **normal, "ViewLayer.Depth.Z": values}), values)
    assert np.array_equal(found({**combined, **normal, "ViewLayer.Depth.V": values}), values)
    assert np.array_equal(found({"Z": values, "N.X": values - 1, "N.Y": values - 2, "N.Z": values - 3}), values)
    assert np.array_equal(found({"Z": values, "other.Z": values - 1}), values)
    assert np.array_equal(found({"R": values, "A": values * 0 + 1}), values)
    grey = found({"R": values, "G": values, "B": values})
    assert np.allclose(grey, values, rtol=1e-5)
    for unclear in ({"one.Z": values, "other.Z": values}, normal):
        with pytest.raises(UserError, match="one of them alone must be Z or depth"):
            found(unclear)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.full((4, 4), np.nan), "holds NaN"),
        (np.full((4, 4), 3.0), "is 3 everywhere"),
        (np.ones((4, 4, 3)), "is no picture"),
        (np.zeros((0, 4)), "has the shape"),
    ],
)
def test_depth_that_says_nothing(values: np.ndarray, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_depth(Held.of(values))


@pytest.mark.parametrize("ending", ["png", "npy", "exr"])
def test_files_that_are_broken(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    file.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with pytest.raises(UserError, match=r"a\.") as told:
        read_depth(str(file))
    assert "\n" not in str(told.value)


def test_a_picture_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.effect_noise((64, 64), 50).save(file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="is damaged"):
        read_colours(str(file))


@pytest.mark.parametrize("name", ["none.png", "", "memory:0123", "x" * 5000])
def test_files_that_are_not_there(name: str) -> None:
    if name == "":
        check_there(name)
        return
    with pytest.raises(UserError, match=r"There is no picture|is gone"):
        read_colours(name)


def test_a_picture_in_memory_has_the_name_of_what_it_holds(rgba: Image.Image) -> None:
    name = Held.of(rgba)
    assert name == Held.of(rgba.copy()) != Held.of(rgba.convert("RGB"))
    request = Request(image=name)
    assert json.loads(json.dumps(request.to_dict()))["image"] == name
    assert request.but(steps=3).image.picture is rgba
    for again in (copy.deepcopy(name), pickle.loads(pickle.dumps(name))):
        assert again == name
        assert read_colours(again).size == (2, 1)
    with pytest.raises(UserError, match="is no picture"):
        Held.of(object())


def test_names_are_told_from_pictures(tmp_path: Path, rgba: Image.Image) -> None:
    fields = held({"image": tmp_path / "a.png", "mask": rgba, "depth": "d.npy", "steps": 3})
    assert (fields["image"], fields["depth"], fields["steps"]) == (str(tmp_path / "a.png"), "d.npy", 3)
    assert isinstance(fields["mask"], Held)
    assert full_name("a.png") == str(Path("a.png").absolute())
    assert full_name(fields["mask"]) is fields["mask"]


def test_arrays_as_people_have_them() -> None:
    grey = np.full((4, 5), 128, dtype=np.uint8)
    assert read_mask(Held.of(grey[..., None])).size == (5, 4)
    assert read_mask(Held.of(grey > 100)).getextrema() == (255, 255)
    for odd in (np.zeros((3, 4, 5), dtype=np.uint8), np.zeros((4, 5, 3)), np.full((4, 5, 3), 300, dtype=np.uint16)):
        with pytest.raises(UserError, match="is no picture"):
            Held.of(odd)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int64])
def test_whole_numbers_up_to_255_are_bytes(kind: type) -> None:
    labels = np.array([[0, 1, 2], [2, 255, 0]], dtype=kind)
    assert np.array_equal(np.asarray(read_mask(Held.of(labels))), labels)
    assert np.array_equal(np.asarray(read_depth(Held.of(labels))), labels)
    assert read_colours(Held.of(np.stack([labels] * 3, axis=2))).getpixel((1, 1)) == (255, 255, 255)


def test_masks_of_zeros_and_ones_are_black_and_white(tmp_path: Path) -> None:
    ones = np.array([[0, 1], [1, 0]])
    wanted = (255 * ones).tolist()
    assert np.asarray(read_mask(Held.of(ones))).tolist() == wanted
    assert np.asarray(read_mask(stored(Image.fromarray(ones.astype(np.uint8)), tmp_path / "a.png"))).tolist() == wanted
    assert read_mask(Held.of(0 * ones)).getextrema() == (0, 0)
    assert read_mask(Held.of(0.003 * ones)).getextrema() == (0, 1)  # These are shares.
    wide = Image.fromarray(np.array([[0, 300], [65535, 0]], dtype=np.uint16))
    assert np.asarray(read_mask(stored(wide, tmp_path / "b.png"))).tolist() == [[0, 1], [255, 0]]


def test_masks_of_real_numbers_are_shares() -> None:
    shares = torch.tensor([[0.0, 0.5], [1.0, 0.2]])
    assert np.asarray(read_mask(Held.of(shares))).tolist() == [[0, 128], [255, 51]]
    assert np.asarray(read_mask(Held.of(shares > 0.3))).tolist() == [[0, 255], [255, 0]]
    for wrong in (shares * 3, shares - 1, shares / 0):
        with pytest.raises(UserError, match="give shares from 0 to 1"):  # Or what else a mask may be.
            read_mask(Held.of(wrong))


def test_labels_in_sixteen_bits(tmp_path: Path) -> None:
    labels = np.array([[0, 1], [2, 3]], dtype=np.uint16)
    assert np.array_equal(np.asarray(read_mask(stored(Image.fromarray(labels), tmp_path / "a.png"))), labels)
    assert read_colours(str(tmp_path / "a.png")).getextrema() == ((0, 0),) * 3  # As a picture it is black.


def test_tensors_of_any_type() -> None:
    learned = torch.ones(1, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    assert read_mask(Held.of(learned)).size == (5, 4)
    assert read_depth(Held.of(torch.arange(20).view(1, 5, 4))).size == (4, 5)
    assert read_colours(Held.of(np.zeros((1, 5, 3), dtype=np.uint8))).size == (5, 1)
    with pytest.raises(UserError, match="has no pixels"):
        read_mask(Held.of(np.zeros((0, 4))))


def test_maps_a_pixel_high_or_wide(tmp_path: Path) -> None:
    for shape, size in (((1, 3), (3, 1)), ((3, 1), (1, 3)), ((1, 3, 1), (3, 1)), ((1, 1, 3), (3, 1))):
        np.save(tmp_path / "a.npy", np.arange(3.0).reshape(shape))
        assert read_depth(str(tmp_path / "a.npy")).size == size
    np.save(tmp_path / "a.npy", np.arange(4).reshape(2, 2) * 1j)
    with pytest.raises(UserError, match="no array of numbers"):
        read_depth(str(tmp_path / "a.npy"))


def test_a_mask_in_lab_is_its_lightness() -> None:
    grey = Image.new("RGB", (4, 4), (128, 128, 128))
    lab = ImageCms.applyTransform(
        grey,
        ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
    )
    assert lab is not None
    assert abs(int(np.asarray(read_mask(Held.of(lab))).mean()) - 128) <= 10


def test_sixteen_bits_with_a_transparent_grey_are_not_white(tmp_path: Path) -> None:
    values = np.full((4, 4), 128 * 257, dtype=np.uint16)
    name = stored(Image.fromarray(values), tmp_path / "a.png", transparency=0)
    assert np.asarray(read_colours(name)).mean() == 128
