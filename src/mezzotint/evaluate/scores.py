"""From what single pictures come to, to scores with their 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Score = dict[str, float | int]
"""{"score", "low", "high", "n"}, rounded."""
Z = 1.959964
"""How many standard errors 95% of a normal distribution lie within."""


@dataclass(frozen=True)
class Figure:
    """What a picture adds to a score: the score is the sum of `got` over the sum of `of`."""

    got: float
    of: float = 1.0
    counts: bool = False
    """Whether it says how many are right of so many; else it is something measured."""

    @property
    def value(self) -> float:
        """The picture's own score."""
        return self.got / self.of


def counted(right: int, of: int = 1) -> Figure:
    """So many right of so many."""
    return Figure(right, of, counts=True)


def score(figures: Sequence[Figure]) -> Score:
    """The score of pictures, at least one; n is the number of what is counted, or of pictures.

    A share has Wilson's interval, and what is measured that of a ratio of two means (Cochran 1977, Sampling Techniques,
    chapter 6), which is the usual one of a mean where `of` is 1.
    """
    got, of = sum(one.got for one in figures), sum(one.of for one in figures)
    if all(one.counts for one in figures):
        return share(round(got), round(of))
    n, ratio = len(figures), got / of
    spread = sum((one.got - ratio * one.of) ** 2 for one in figures) / max(n - 1, 1)
    reach = Z * math.sqrt(spread / n) / (of / n)
    return _told(ratio, ratio - reach, ratio + reach, n)


def share(right: int, n: int) -> Score:
    """The score of so many right of n."""
    return _told(right / n, *interval(right, n), n)


def interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share (Wilson 1927)."""
    share = right / n
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def rises(curve: Sequence[Sequence[float]]) -> bool:
    """Whether the mean of a curve's points, each the values of the same pictures, never falls from one to the next.

    It falls where the mean of the pictures' own differences lies more than its 95% below 0: what is within chance, and
    what stays the same, is no fall.
    """
    return not any(_falls(before, after) for before, after in pairwise(curve))


def _falls(before: Sequence[float], after: Sequence[float]) -> bool:
    by = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(by) / len(by)
    spread = sum((one - mean) ** 2 for one in by) / max(len(by) - 1, 1)
    return mean < -Z * math.sqrt(spread / len(by))


def _told(value: float, low: float, high: float, n: int) -> Score:
    return {"score": round(value, 4), "low": round(low, 4), "high": round(high, 4), "n": n}
