"""Pictures brought to a size, and what is drawn put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mezzotint.conditioning import canvas
from mezzotint.types import UserError


def squares(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("mode", ["RGB", "L", "F"])
def test_every_way_gives_the_size(resize: str, mode: str) -> None:
    picture = squares(30, 20).convert("L").convert(mode) if mode != "RGB" else squares(30, 20)
    found = canvas.fitted(picture, (24, 32), resize)
    assert (found.size, found.mode) == ((24, 32), mode)
    assert canvas.fitted(picture, (30, 20), resize) is picture


def test_padding_goes_on_with_the_edges_and_leaves_a_mask_black() -> None:
    picture = Image.new("RGB", (2, 4), "red")
    assert set(canvas.fitted(picture, (8, 4), "pad").get_flattened_data()) == {(255, 0, 0)}
    mask = np.asarray(canvas.fitted(Image.new("L", (2, 4), 255), (8, 4), "pad"))
    assert mask.tolist() == [[0, 0, 0, 255, 255, 0, 0, 0]] * 4


def test_the_box_around_a_mask() -> None:
    mask = Image.new("L", (20, 10))
    mask.paste(9, (5, 3, 8, 6))
    assert canvas.boxed(mask, 0) == (5, 3, 8, 6)
    assert canvas.boxed(mask, 4) == (1, 0, 12, 10)
    with pytest.raises(UserError, match="black everywhere"):
        canvas.boxed(Image.new("L", (4, 4)), 2)


def test_filling_takes_the_colours_around_and_leaves_the_rest() -> None:
    pixels = torch.zeros(1, 3, 16, 24)
    pixels[..., :12] = 0.5
    mask = torch.zeros(1, 1, 16, 24)
    mask[..., 4:12, 2:8] = 1
    damaged = pixels + 7 * mask
    found = canvas.filled(damaged, mask)
    assert torch.equal(found * (1 - mask), pixels * (1 - mask))
    assert (found - pixels)[mask.expand_as(pixels) > 0].abs().max() < 0.2
    assert torch.equal(canvas.filled(damaged, torch.ones_like(mask)), damaged)  # Nothing is around.


@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_pasting_keeps_every_bit_outside(mask: str) -> None:
    whole, drawn = squares(20, 10), Image.new("RGB", (12, 6), "blue")
    where = Image.new("L", (20, 10))
    where.paste(255 if mask == "hard" else 90, (4, 2, 8, 6))
    found = np.asarray(canvas.pasted(drawn, whole, where, (2, 1, 14, 7), 4))
    inside = np.asarray(where) > 0
    assert np.array_equal(found[~inside], np.asarray(whole)[~inside])
    assert not np.array_equal(found[inside], np.asarray(whole)[inside])


def test_a_canvas_that_is_all_drawn_anew_is_what_was_drawn() -> None:
    whole, drawn = squares(20, 10), Image.effect_noise((20, 10), 90).convert("RGB")
    found = canvas.pasted(drawn, whole, Image.new("L", (20, 10), 255), (0, 0, 20, 10), 4)
    assert found.tobytes() == drawn.tobytes()


def test_pasting_leaves_no_seam_and_the_middle_as_it_was_drawn() -> None:
    """A drawing that is darker all over meets its canvas at the edge, and is itself inside."""
    whole, drawn = Image.new("RGB", (64, 64), (120, 130, 140)), Image.new("RGB", (64, 64), (90, 100, 110))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 64))  # The lower border is no edge.
    found = np.asarray(canvas.pasted(drawn, whole, mask, (0, 0, 64, 64), 8)).astype(int)
    across = found[48, :, 0]
    assert across[15] - across[16] < 5
    assert (np.diff(across[15:25]) < 0).all()
    assert (found[24:, 24:40] == (90, 100, 110)).all()


def test_a_membrane_is_what_is_fixed_and_the_mean_of_its_neighbours_elsewhere() -> None:
    chance = torch.Generator().manual_seed(0)
    fixed = torch.rand(1, 3, 20, 24, generator=chance) - 0.5
    free = (torch.rand(1, 1, 20, 24, generator=chance) < 0.7).float()
    values = canvas.membrane(fixed, free)
    assert torch.equal(values * (1 - free), fixed * (1 - free))
    around = F.pad(values, (1, 1, 1, 1), mode="replicate")  # No slope across the picture's border.
    laplace = F.conv2d(around, torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3), groups=3)
    assert (laplace * free).abs().max() < 1e-4
    assert not canvas.membrane(fixed, torch.ones_like(free)).any()


def test_what_is_told_of_a_mask_leaves_its_edge_alone() -> None:
    pixels, mask = torch.zeros(1, 3, 64, 96), torch.zeros(1, 1, 64, 96)
    pixels[..., :40] = 0.5
    mask[..., 8:48, 0:32] = 0.3  # Up to the picture's border, which is no edge.
    mask[..., 4:7, 60:84] = 1.0  # Too thin to have an inside.
    damaged = torch.where(mask > 0, torch.ones_like(pixels), pixels)
    told, inner = canvas.inset(damaged, mask, 4)
    wanted = torch.zeros_like(mask)
    wanted[..., 12:44, 0:28] = 1
    wanted[..., 4:7, 60:84] = 1
    assert torch.equal(inner, wanted)
    outside, between = mask == 0, (mask > 0) & (inner == 0)
    assert torch.equal(told * outside, pixels * outside)
    assert (told - pixels)[between.expand_as(pixels)].abs().max() < 0.2  # What was masked is 0.5 away.
    everything = canvas.inset(damaged, torch.ones_like(mask), 4)
    assert torch.equal(everything[0], damaged)
    assert everything[1].all()


@pytest.mark.parametrize("side", [8, 9, 12, 16, 17, 20])
def test_something_is_told_of_a_small_mask_wherever_it_is(side: int) -> None:
    """A U-Net is told every eighth pixel."""
    for left, top in ((left, top) for left in range(8) for top in range(8)):
        mask = torch.zeros(1, 1, 48, 48)
        mask[..., 8 + top : 8 + top + side, 8 + left : 8 + left + side] = 1
        assert canvas.inset(torch.zeros(1, 3, 48, 48), mask, 4)[1][..., ::8, ::8].any()


def test_a_masks_edge_is_left_alone_where_it_is_not_straight_too() -> None:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    away, turn = torch.hypot(x - 48, y - 48), torch.atan2(y - 48, x - 48)
    for mask in (away < 30, (x - 48).abs() + (y - 48).abs() < 36, away < 30 + 2 * torch.sin(20 * turn)):
        inner = canvas.inset(torch.zeros(1, 3, 96, 96), mask[None, None].float(), 4)[1][0, 0] > 0
        grown = F.max_pool2d(inner[None, None].float(), 9, 1, 4)[0, 0] > 0
        assert (grown <= mask).all()
        assert inner.sum() > 0.4 * mask.sum()


def test_a_place_of_the_latent_is_drawn_where_any_pixel_is() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 7, 8] = 0.5
    assert canvas.latent_mask(mask, 8).tolist() == [[[[0.0, 0.5], [0.0, 0.0]]]]


def test_metric_depth_is_turned_round() -> None:
    metres = Image.fromarray(np.array([[1.0, 4.0, np.inf]], dtype=np.float32), mode="F")
    assert np.asarray(canvas.disparity(metres, "metric")).tolist() == [[1.0, 0.25, 0.0]]
    with pytest.raises(UserError, match="without end"):
        canvas.disparity(metres, "disparity")
    with pytest.raises(UserError, match="above 0"):
        canvas.disparity(Image.fromarray(np.zeros((1, 2), dtype=np.float32), mode="F"), "metric")


def test_the_depth_channel_reaches_from_far_to_near() -> None:
    channel = canvas.depth_channel(torch.rand(1, 1, 32, 24, generator=torch.Generator().manual_seed(0)), (4, 3))
    assert (channel.shape, channel.amin().item(), channel.amax().item()) == ((1, 1, 4, 3), -1.0, 1.0)


@pytest.mark.parametrize(("size", "made"), [((40, 40), (128, 128)), ((64, 16), (256, 64)), ((300, 200), (160, 104))])
def test_a_part_is_drawn_at_the_area_that_the_model_knows(size: tuple[int, int], made: tuple[int, int]) -> None:
    assert canvas.at_area(size, 128 * 128, 8) == made


def test_a_part_of_a_map_that_is_flat_says_nothing() -> None:
    assert torch.equal(canvas.depth_channel(torch.full((1, 1, 16, 16), 5.0), (2, 2)), torch.zeros(1, 1, 2, 2))
    wide = torch.tensor([-3e38, 3e38]).repeat(8).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    assert canvas.depth_channel(wide, (4, 4)).isfinite().all()


def test_metric_depth_too_near_to_be_turned_round_is_told() -> None:
    with pytest.raises(UserError, match="must be above 0"):
        canvas.disparity(Image.fromarray(np.full((4, 4), 1e-42, dtype=np.float32), mode="F"), "metric")


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (16, 16)])
def test_what_is_black_in_a_mask_stays_black(resize: str, size: tuple[int, int]) -> None:
    hard = np.zeros((32, 32), dtype=np.uint8)
    hard[8:20, 10:22] = 255
    scaled = np.asarray(canvas.fitted(Image.fromarray(hard), size, resize))
    factor = size[0] / 32
    inside = np.zeros(size[::-1], dtype=bool)
    inside[int(8 * factor) : int(20 * factor), int(10 * factor) : int(22 * factor)] = True
    assert (scaled[~inside] == 0).all()
    assert (scaled[inside] == 255).all()
