"""How long and how hard to train. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mezzotint.types import UserError


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long and how to train; progress is counted in images."""

    images: int
    """Images to see in all; 0 leaves the network as it was begun."""
    batch: int = 64
    """Images a step."""
    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW (arXiv:1711.05101)."""
    weight_decay: float = 0.01
    muon: bool = False
    """Whether matrices both of whose sides are 64 or longer learn by Muon (arXiv:2502.16982), the rest by AdamW."""
    warmup: int = 2000
    """Images over which the learning rate rises from zero."""
    fall: float = 0.35
    """Last share of the images over which the learning rate falls to zero."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema: int = 5000
    """Images after which half of the averaged weights is new; 0 keeps no average. Early on, a tenth of those seen."""
    bf16: bool = True
    """Compute the networks in bfloat16 where the device has it; weights and optimiser stay in float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError for a run that cannot be."""
        if self.images < 0 or self.batch < 1:
            raise UserError(f"images is {self.images} and batch {self.batch}; they must be at least 0 and 1.")
        if not 0 < self.lr < math.inf or not 0 <= self.fall <= 1:
            raise UserError(
                f"lr is {self.lr} and fall {self.fall}; lr must be above 0, not infinite, fall from 0 to 1."
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed is {self.seed}; it must be from 0 to 2**32 - 1.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas is {self.betas}; it must be two numbers from 0 to below 1.")
        if self.weight_decay < 0 or self.clip <= 0:
            raise UserError(
                f"weight_decay is {self.weight_decay} and clip {self.clip}; they must be at least 0 and above 0."
            )

    def lr_at(self, seen: int) -> float:
        """The learning rate after `seen` images: a ramp, a plateau, a line down to zero."""
        up = (seen + self.batch) / max(self.warmup, self.batch)
        down = (self.images - seen) / max(self.fall * self.images, 1)
        return self.lr * max(0.0, min(1.0, up, down))

    def ema_decay(self, seen: int) -> float:
        """Share of the average that one step keeps (the ramp of arXiv:2206.00364, appendix F.2)."""
        half = min(self.ema, max(seen, 1) * 0.1)
        return 0.5 ** (self.batch / max(half, 1e-8))
