"""What is learned from: the still life on disk, and folders of pictures with captions beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mezzotint.training import data
from mezzotint.training.data import Folder, Pictures, StillLife
from mezzotint.types import UserError
from mezzotint.world.render import render
from mezzotint.world.scene import COLOURS, SHAPES, gather, is_held_out

SIZE = 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> StillLife:
    return StillLife(tmp_path_factory.mktemp("data"), 6, SIZE)


def test_the_pictures_show_the_scenes(pictures: StillLife):
    index = torch.tensor([0, 4, 2])
    drawn = render(gather([pictures.scene(i) for i in index.tolist()]), SIZE).pixels
    assert (pictures.pixels(index) - drawn).abs().max() <= 0.5 / 127.5 + 1e-6


def test_the_second_half_is_the_first_mirrored(pictures: StillLife):
    assert len(pictures) == 12
    index = torch.tensor([1, 5])
    assert torch.equal(pictures.pixels(index + 6), pictures.pixels(index).flip(3))
    for place in range(6):
        here, there = pictures.scene(place), pictures.scene(place + 6)
        assert [solid.x for solid in here.solids] == [-solid.x for solid in there.solids]
        assert {here.light, there.light} in ({"left", "right"}, {"front"})


def test_nothing_held_out_is_learned_from(pictures: StillLife):
    assert not any(is_held_out(pictures.scene(place).solids) for place in range(len(pictures)))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * SIZE**2, before[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            StillLife(tmp_path, 6, SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("disguise", [("colour",), ("colour", "shape")])
def test_scenes_in_disguise_lie_in_other_files(tmp_path: Path, disguise: tuple[str, ...]):
    own, other = StillLife(tmp_path, 6, SIZE), StillLife(tmp_path, 6, SIZE, disguise=disguise)
    assert own.identity != other.identity
    drawn = render(gather([other.scene(place) for place in range(6)]), SIZE).pixels
    assert (other.pixels(torch.arange(6)) - drawn).abs().max() <= 0.5 / 127.5 + 1e-6
    for place in range(12):
        here, there = own.scene(place), other.scene(place)
        assert [(solid.size, solid.x) for solid in here.solids] == [(solid.size, solid.x) for solid in there.solids]
        assert here.solids != there.solids
    assert torch.equal(StillLife(tmp_path, 6, SIZE).pixels(torch.arange(12)), own.pixels(torch.arange(12)))


def test_tints_are_seen(tmp_path: Path):
    plain, tinted = StillLife(tmp_path, 6, SIZE), StillLife(tmp_path, 6, SIZE, tinted=0.5)
    index = torch.arange(12)
    changed = (plain.pixels(index) != tinted.pixels(index)).flatten(1).any(dim=1)
    assert torch.equal(changed, (tinted.scenes.tint != 0).flatten(1).any(dim=1).repeat(2))
    assert 0 < changed.sum() < 12
    assert plain.identity != tinted.identity
    again = StillLife(tmp_path, 6, SIZE, tinted=0.5)
    assert torch.equal(again.pixels(index), tinted.pixels(index))


def test_captions_are_a_pure_function_of_the_seed(pictures: StillLife):
    index = torch.arange(12)
    assert pictures.captions(index, 3) == pictures.captions(index, 3)
    assert pictures.captions(index, 3) != pictures.captions(index, 4)
    assert pictures.captions(index, 3) == [told.text for told in pictures.told(index, 3)]


def test_a_share_of_captions_is_clear(pictures: StillLife):
    index = torch.arange(12)
    assert pictures.told(index, 3, clear=0.5) == pictures.told(index, 3, clear=0.5)

    def clear(share: float) -> float:
        told = [each for seed in range(60) for each in pictures.told(index, seed, clear=share)]
        return sum(each.tells(("colour",)) for each in told) / len(told)

    none, half, all_of_them = clear(0.0), clear(0.5), clear(1.0)
    assert all_of_them > 0.97
    assert half == pytest.approx((none + all_of_them) / 2, abs=0.08)  # Four deviations.
    assert none < 0.7


def test_shards_hold_no_more_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StillLife, "SHARD", 8)
    whole, few = StillLife(tmp_path, 12, SIZE), StillLife(tmp_path, 3, SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"still-life-16-{StillLife.SEED}-000-of-3.npy",
        f"still-life-16-{StillLife.SEED}-000.npy",
        f"still-life-16-{StillLife.SEED}-001.npy",
    ]
    assert (len(whole), len(few)) == (24, 6)
    assert [np.load(path).shape[0] for path in sorted(tmp_path.iterdir())] == [3, 8, 8]
    # Places beyond the first shard are in the second, scenes like pictures.
    drawn = render(gather([whole.scene(9)]), SIZE).pixels
    assert (whole.pixels(torch.tensor([9])) - drawn).abs().max() <= 0.5 / 127.5 + 1e-6
    assert torch.equal(whole.pixels(torch.tensor([9]))[0].add(1).mul(127.5).round().byte(),
                       torch.from_numpy(np.load(tmp_path / f"still-life-16-{StillLife.SEED}-001.npy")[1]))  # fmt: skip


def test_what_is_rendered_once_is_not_rendered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = StillLife(tmp_path, 2, SIZE)

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(data, "render", never)
    again = StillLife(tmp_path, 2, SIZE)
    assert torch.equal(first.pixels(torch.arange(4)), again.pixels(torch.arange(4)))
    with pytest.raises(AssertionError):
        StillLife(tmp_path, 2, SIZE, seed=StillLife.SEED + 1)
    # What was interrupted does not bear the name of a shard.
    assert len(list(tmp_path.glob("*.npy"))) == 1


def picture(path: Path, size: tuple[int, int], colour: tuple[int, ...], mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def test_a_folder_of_pictures_with_captions_beside_them(tmp_path: Path):
    picture(tmp_path / "a.png", (40, 20), (255, 0, 0)).with_suffix(".txt").write_text("a red wall\n")
    picture(tmp_path / "sub" / "b.png", (20, 20), (0, 255, 0, 255), "RGBA").with_suffix(".txt").write_text(
        "grün\n  green  \n", encoding="utf-8"
    )
    picture(tmp_path / "c.jpg", (9, 30), (0, 0, 255)).with_suffix(".txt").write_text("")
    picture(tmp_path / "alone.png", (9, 9), (0, 0, 0))
    folder: Pictures = Folder(tmp_path, 8)
    assert len(folder) == 3  # One has no caption.
    pixels = folder.pixels(torch.tensor([0, 2, 1]))
    assert pixels.shape == (3, 3, 8, 8)
    expected = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])[:, :, None, None].expand(3, 3, 8, 8)
    assert (pixels - expected).abs().max() < 0.05  # JPEG.
    assert folder.captions(torch.tensor([0, 1]), 0) == ["a red wall", ""]
    assert {folder.captions(torch.tensor([2]), seed)[0] for seed in range(20)} == {"grün", "green"}


def test_the_middle_square_is_taken_and_photographs_are_turned(tmp_path: Path):
    wide = Image.new("RGB", (30, 10), "black")
    wide.paste("white", (10, 0, 20, 10))
    wide.save(tmp_path / "wide.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # Turned upside down.
    turned = Image.new("RGB", (16, 16), "black")
    turned.paste("white", (0, 0, 16, 8))
    turned.save(tmp_path / "turned.png", exif=exif)
    for name in ("wide", "turned"):
        (tmp_path / f"{name}.txt").write_text(name)
    turned_pixels, wide_pixels = Folder(tmp_path, 10).pixels(torch.tensor([0, 1]))
    assert wide_pixels.min() > 0.9
    assert turned_pixels[:, 9].min() > 0.9
    assert turned_pixels[:, 0].max() < -0.9


def test_a_folder_without_captions(tmp_path: Path):
    picture(tmp_path / "a.png", (8, 8), (0, 0, 0))
    with pytest.raises(UserError, match="no picture with a caption"):
        Folder(tmp_path, 8)


def test_a_caption_that_is_not_text(tmp_path: Path):
    picture(tmp_path / "a.png", (8, 8), (0, 0, 0)).with_suffix(".txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.txt cannot be read as a caption"):
        Folder(tmp_path, 8)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_picture_is_named(tmp_path: Path, content: bytes | None):
    file = picture(tmp_path / "a.png", (64, 64), (1, 2, 3))
    file.write_bytes(file.read_bytes()[:60] if content is None else content)
    file.with_suffix(".txt").write_text("a")
    if content is None:
        folder = Folder(tmp_path, 8)
        with pytest.raises(UserError, match=r"a\.png is not a picture"):
            folder.pixels(torch.tensor([0]))
    else:
        with pytest.raises(UserError, match=r"a\.png is not a picture"):  # Found before anything is trained.
            Folder(tmp_path, 8)


def test_sixteen_bits_and_a_byte_order_mark(tmp_path: Path):
    Image.fromarray(np.full((8, 8), 0x8000, dtype=np.uint16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa grey square")
    folder = Folder(tmp_path, 8)
    assert folder.captions(torch.tensor([0]), 0) == ["a grey square"]
    assert folder.pixels(torch.tensor([0])).abs().max() < 0.01


def test_what_is_transparent_shows_white(tmp_path: Path):
    """Not the colour that happens to lie under it."""
    clear = picture(tmp_path / "a.png", (16, 16), (0, 0, 0, 0), "RGBA")
    half = picture(tmp_path / "b.png", (16, 16), (255, 0, 0, 128), "RGBA")
    grey = picture(tmp_path / "c.png", (16, 16), (0, 0), "LA")
    palette = tmp_path / "d.png"
    painted = Image.new("P", (16, 16), 1)
    painted.putpalette([0, 0, 0, 10, 20, 30])
    painted.save(palette, transparency=1)
    for file in (clear, half, grey, palette):
        file.with_suffix(".txt").write_text("a")
    pixels = Folder(tmp_path, 8).pixels(torch.arange(4))
    assert (pixels[[0, 2, 3]] == 1).all()
    expected = torch.tensor([1.0, 127 / 127.5 - 1, 127 / 127.5 - 1])[:, None, None]
    assert (pixels[1] - expected).abs().max() <= 1 / 127.5 + 1e-6


def test_collections_are_told_apart(tmp_path: Path, pictures: StillLife):
    picture(tmp_path / "a.png", (16, 16), (0, 0, 0)).with_suffix(".txt").write_text("a")
    one = Folder(tmp_path, 8).identity
    assert Folder(tmp_path, 8).identity == one
    assert Folder(tmp_path, 16).identity != one
    picture(tmp_path / "a.png", (99, 16), (9, 9, 9))
    other = Folder(tmp_path, 8).identity
    assert other != one
    picture(tmp_path / "b.png", (16, 16), (0, 0, 0)).with_suffix(".txt").write_text("b")
    assert Folder(tmp_path, 8).identity not in (one, other, pictures.identity)


def test_cells_are_what_the_masks_cover(pictures: StillLife):
    """Up to what 4 x 4 rays a cell see of its edges, the share of each solid; mirrored as the picture is."""
    index = torch.tensor([0, 3, 5])
    shape, colour, shares = pictures.cells(index, 8)
    assert shares.shape == (3, 4, 8, 8)
    masks = render(gather([pictures.scene(i) for i in index.tolist()]), 128).masks
    for row, place in enumerate(index.tolist()):
        solids = [(SHAPES.index(solid.shape), COLOURS.index(solid.colour)) for solid in pictures.scene(place).solids]
        told = list(zip(shape[row].tolist(), colour[row].tolist(), strict=True))
        seen = [share for share in shares[row] if share.sum() > 0]
        assert [pair for pair, share in zip(told, shares[row], strict=True) if share.sum() > 0] == solids
        for mine, truth in zip(seen, F.avg_pool2d(masks[row], 16), strict=False):
            assert (mine - truth).abs().max() <= 0.25  # A boundary along a cell moves by less than a ray's row.
            assert (mine - truth).abs().mean() < 0.02
    again = pictures.cells(index + 6, 8)
    assert torch.equal(again[0], shape)
    assert torch.equal(again[1], colour)
    assert torch.equal(again[2], shares.flip(3))
