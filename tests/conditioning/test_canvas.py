"""Pictures brought to a size, and what is drawn put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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


def test_what_is_drawn_is_opaque_inside_and_not_seen_outside() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:32, 8:24] = 1
    found = canvas.opacity(mask, 4)
    assert torch.equal(found[mask == 0], torch.zeros_like(found[mask == 0]))
    row = found[0, 0, 20, 8:16]
    assert torch.allclose(row, torch.tensor([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]))
    assert found[0, 0, 31, 16] == 1  # The picture's own border is no edge.


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_a_narrow_part_is_opaque_along_its_middle(width: int) -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 10 : 10 + width] = 1
    assert canvas.opacity(mask, 4).amax() == 1


def test_a_soft_mask_is_never_more_opaque_than_it_is() -> None:
    mask = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert (canvas.opacity(mask, 4) <= mask).all()


def test_pasting_keeps_every_bit_outside() -> None:
    whole, drawn = squares(20, 10), Image.new("RGB", (12, 6), "blue")
    alpha = Image.new("L", (20, 10))
    alpha.paste(255, (4, 2, 8, 6))
    found = np.asarray(canvas.pasted(drawn, whole, alpha, (2, 1, 14, 7)))
    inside = np.asarray(alpha) > 0
    assert np.array_equal(found[~inside], np.asarray(whole)[~inside])
    assert (found[inside] == (0, 0, 255)).all()


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
