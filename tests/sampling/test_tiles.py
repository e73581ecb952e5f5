"""Fused tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mezzotint.denoise.attention import Projected
from mezzotint.sampling.tiles import Tiled, ramp, starts
from mezzotint.types import Conditioning


class Local:
    """An estimate that depends on each place and its row's text alone, so tiles must change nothing."""

    def __init__(self):
        self.shapes = []

    def project(self, conditioning):
        return Projected((((conditioning.sequence, 2 * conditioning.sequence),),))

    def __call__(self, x, sigma, conditioning, projected=None):
        self.shapes.append(tuple(x.shape))
        k, v = projected.reads[0][0]
        assert torch.equal(v, 2 * k)
        assert torch.equal(k, conditioning.sequence)
        beside = 0 if conditioning.spatial is None else conditioning.spatial
        pooled = 0 if conditioning.pooled is None else conditioning.pooled[:, :, None, None]
        return x / sigma[:, None, None, None] + k[:, 0, :, None, None] + beside + pooled


def told(rows, spatial=None):
    sequence = torch.arange(float(rows)).reshape(rows, 1, 1)
    return Conditioning(sequence, 10 * sequence[:, 0], spatial)


@pytest.mark.parametrize("size", [(8, 8), (12, 8), (13, 27), (5, 20), (4, 4)])
@pytest.mark.parametrize("overlap", [0, 3, 7])
@pytest.mark.parametrize("max_rows", [1, 5, 64])
def test_tiles_of_what_is_local_change_nothing(size, overlap, max_rows):
    torch.manual_seed(0)
    x, sigma = torch.randn(3, 2, *size), torch.tensor([0.5, 1.0, 4.0])
    conditioning = told(3, torch.randn(3, 2, *size))
    plain = Local()
    want = plain(x, sigma, conditioning, plain.project(conditioning))
    inner = Local()
    tiled = Tiled(inner, (8, 8), overlap, max_rows=max_rows)
    # Means of up to four numbers that are equal but for the last bit.
    torch.testing.assert_close(tiled(x, sigma, conditioning, tiled.project(conditioning)), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiled(x, sigma, conditioning), want, rtol=1e-5, atol=1e-5) if max(size) > 8 else None
    for rows, _, height, width in inner.shapes:
        assert (height, width) == (min(8, size[0]), min(8, size[1]))
        assert rows <= max(max_rows, 3 if max(size) <= 8 else 0)


def test_what_fits_into_a_tile_is_the_very_estimate():
    inner = Local()
    x, sigma, conditioning = torch.randn(2, 1, 6, 8), torch.ones(2), told(2)
    assert torch.equal(
        Tiled(inner, (8, 8), 4)(x, sigma, conditioning, inner.project(conditioning)),
        inner(x, sigma, conditioning, inner.project(conditioning)),
    )


def test_what_is_about_as_large_as_a_tile_is_seen_whole():
    inner = Local()
    for size in ((9, 8), (4, 16), (16, 4)):
        x, conditioning = torch.randn(2, 1, *size), told(2)
        Tiled(inner, (8, 8), 4)(x, torch.ones(2), conditioning, inner.project(conditioning))
    assert inner.shapes == [(2, 1, 9, 8), (2, 1, 4, 16), (2, 1, 16, 4)]


def test_where_tiles_overlap_their_estimates_are_blended_smoothly():
    class Numbered(Local):
        def __call__(self, x, sigma, conditioning, projected=None):
            return torch.arange(float(len(x)))[:, None, None, None].expand_as(x)

    out = Tiled(Numbered(), (5, 8), 4)(torch.zeros(1, 1, 5, 12), torch.ones(1), told(1))[0, 0, 0]
    assert out[:4].tolist() == [0.0] * 4
    assert out[8:].tolist() == [1.0] * 4
    assert torch.all(out.diff() >= 0)
    assert float(out.diff().max()) < 0.4  # a hard seam would be a step of 1


@pytest.mark.parametrize("overlap", range(8))
@pytest.mark.parametrize("length", range(1, 60))
def test_tiles_cover_a_side_with_their_overlap(length, overlap):
    firsts = starts(length, 8, overlap)
    assert firsts[0] == 0
    assert firsts[-1] == max(0, length - 8)
    assert all(0 < after - before <= 8 - overlap for before, after in pairwise(firsts))


def test_ramps_are_positive_and_sum_to_one_where_two_meet():
    weights = ramp(8, 3)
    assert torch.all(weights > 0)
    assert torch.allclose(weights[:3] + weights[-3:], torch.ones(3))
    assert weights[3:5].tolist() == [1.0, 1.0]
    assert ramp(4, 0).tolist() == [1.0] * 4


def test_an_overlap_must_be_smaller_than_a_tile():
    with pytest.raises(ValueError, match="overlap"):
        Tiled(Local(), (8, 4), 4)
