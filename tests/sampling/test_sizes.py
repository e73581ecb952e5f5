"""The size that is drawn for the size that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.sampling.sizes import Drawn, drawn, is_large, native, nearest

SIDES = st.integers(8, 4096)


@given(SIDES, SIDES, st.sampled_from([1, 8, 64]))
def test_what_is_drawn_holds_the_picture_and_no_more_than_it_must(width, height, multiple):
    what = drawn((width, height), multiple)
    left, top, right, bottom = what.box
    assert (right - left, bottom - top) == (width, height)
    for side, asked, first, last in zip(what.size, (width, height), (left, top), (right, bottom), strict=True):
        assert side % multiple == 0
        assert 0 <= side - asked < multiple
        assert 0 <= first <= last <= side
        assert abs(first - (side - last)) <= 1  # the middle of it


def test_a_multiple_is_drawn_as_it_is():
    assert drawn((128, 64), 8) == Drawn((128, 64), (0, 0, 128, 64))
    assert drawn((100, 61), 8) == Drawn((104, 64), (2, 1, 102, 62))


@given(st.integers(1, 512), st.integers(1, 512))
def test_the_native_size_has_the_shape_and_the_trained_area(w, h):
    size, trained, multiple = (8 * w, 8 * h), (128, 128), 8
    width, height = native(size, trained, multiple)
    assert width % multiple == height % multiple == 0
    assert 8 <= width <= size[0]
    assert 8 <= height <= size[1]
    if size[0] * size[1] <= 128 * 128:
        assert (width, height) == size
    elif 1 / 4 <= w / h <= 4:
        # Rounding moves a side of 64 or more by at most 4, so the area by an eighth and the aspect by less.
        assert 0.87 < width * height / (128 * 128) < 1.13
        assert 0.87 < (width / height) / (w / h) < 1.15


def test_native_sizes():
    assert native((256, 256), (128, 128), 8) == (128, 128)
    assert native((512, 256), (128, 128), 8) == (184, 88)
    assert native((2048, 1024), (1024, 1024), 64) == (1472, 704)


@pytest.mark.parametrize(("size", "large"), [((128, 128), False), ((144, 144), False), ((152, 152), True)])
def test_what_is_large(size, large):
    assert is_large(size, [(128, 128), (96, 96)]) is large


def test_the_nearest_trained_size_is_that_of_the_nearest_shape():
    trained = [(512, 512), (1024, 1024), (768, 1344)]
    assert nearest((2048, 2048), trained) == (1024, 1024)
    assert nearest((256, 256), trained) == (512, 512)
    assert nearest((1000, 1800), trained) == (768, 1344)
