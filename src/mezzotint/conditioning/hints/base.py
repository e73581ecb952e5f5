"""What a hint is. B pictures, H W pixels, h w the latent's height and width, S the channels that a U-Net reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image
from torch import Tensor


class Truth(NamedTuple):
    """What is known of scenes that are learned from. Planes may be smaller than the pictures."""

    pixels: Tensor
    """[B 3 H W] in [-1, 1]."""
    depth: Tensor
    """[B 1 H' W'], distances above 0."""
    solid: Tensor
    """[B 1 H' W'] the share of each pixel that solids cover."""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A spatial conditioner."""

    name: str
    about: str
    """One line for a person choosing."""
    channels: int
    """S. All zero is taken to mean that the hint is not given, so what `reads` makes of a plane never is."""
    kind: str
    """What a user's picture is read as, one of `store.pictures.READERS`: colours (mode RGB), mask (L) or depth (F)."""
    given: Callable[[Image.Image], Image.Image]
    """From that to its plane, mode L or F."""
    known: Callable[[Truth], Tensor]
    """From what is known of scenes to their planes [B 1 H W], on the scale of `given`'s, L being 0 to 1."""
    reads: Callable[[Tensor, tuple[int, int]], Tensor]
    """From planes [B 1 H W] and the latent's size (h, w) to what a U-Net reads, [B S h w], about -1 to 1."""
