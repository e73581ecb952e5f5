"""The shape of `sight`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from mezzotint.types import UserError


@dataclass(frozen=True, kw_only=True)
class SightConfig:
    """Channels at every resolution, from half the picture's down, each half the one before."""

    widths: tuple[int, ...] = (24, 48, 96, 128)
    norm_num_groups: int = 8
    """Groups of every group norm; divides every width."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        groups = self.norm_num_groups
        if not self.widths or groups < 1 or any(width < 1 or width % groups != 0 for width in self.widths):
            raise UserError(
                f"The network that sees depth has widths {list(self.widths)} and norm_num_groups {groups}; it needs "
                "one or more widths, all divisible by norm_num_groups."
            )
