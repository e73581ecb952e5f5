"""Scores of pictures and how sure they are."""

from __future__ import annotations

import math
import random
from statistics import mean, stdev

import pytest

from mezzotint.evaluate.scores import Figure, counted, interval, rises, score


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilson_s_interval(right: int, n: int, low: float, high: float):
    assert interval(right, n) == pytest.approx((low, high), abs=1e-4)


def test_a_share_counts_what_is_right_of_all_that_there_is() -> None:
    told = score([counted(2, 3), counted(0, 1), counted(1, 1)])
    low, high = interval(3, 5)
    assert told == {"score": 0.6, "low": round(low, 4), "high": round(high, 4), "n": 5}


def test_what_is_measured_has_its_mean_and_the_usual_interval() -> None:
    values = [0.2, 0.9, 0.4, 0.5]
    told = score([Figure(value) for value in values])
    reach = 1.959964 * stdev(values) / math.sqrt(4)
    assert (told["score"], told["n"]) == (0.5, 4)
    assert told["low"] == pytest.approx(mean(values) - reach, abs=1e-4)
    assert told["high"] == pytest.approx(mean(values) + reach, abs=1e-4)
    one = score([Figure(0.7)])
    assert one["score"] == one["low"] == one["high"] == 0.7


def test_a_ratio_is_that_of_the_means_and_its_interval_holds_it_19_times_of_20() -> None:
    assert score([Figure(1, 10), Figure(30, 10)])["score"] == 1.55
    assert score([Figure(2, 1), Figure(20, 10)]) == {"score": 2.0, "low": 2.0, "high": 2.0, "n": 2}
    chance = random.Random(0)
    held = 0
    for _ in range(300):
        pairs = [(chance.uniform(0.5, 1.5), chance.uniform(1, 3)) for _ in range(60)]
        told = score([Figure(got * of, of) for got, of in pairs])  # The expected ratio is 1.
        held += told["low"] <= 1.0 <= told["high"]
    assert 0.91 <= held / 300 <= 0.98


def test_a_curve_rises_unless_it_falls_by_more_than_chance() -> None:
    assert rises([[0, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert not rises([[0, 0, 0], [1, 1, 1], [0.9, 0.9, 0.9]])
    assert not rises([[1.0], [0.5]])
    # 3 of 20 lost and 2 won is chance; 8 lost and none won is not.
    before = [1.0] * 10 + [0.0] * 10
    assert rises([before, [0.0] * 3 + [1.0] * 7 + [1.0] * 2 + [0.0] * 8])
    assert not rises([before, [0.0] * 8 + [1.0] * 2 + [0.0] * 10])
