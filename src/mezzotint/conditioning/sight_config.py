"""The shape of `sight`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SightConfig:
    """Channels at every resolution, from half the picture's down, each half the one before."""

    widths: tuple[int, ...] = (24, 48, 96, 128)
    norm_num_groups: int = 8
