"""Spatial conditioners: what lies on the latent's channels beside the words, one small file each.

A hint is a plane in pixels, which a user gives as a picture or training takes from a rendered scene, and what a U-Net
reads of it at the latent's size. A file here with a `HINT` in it is a hint: it can be trained (`mezzotint train hints
RECIPE names=NAME`) and given (`--hint NAME:FILE`), and nothing else has to know of it.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from mezzotint.conditioning.hints.base import Hint, Truth
from mezzotint.types import UserError

__all__ = ["INPAINT", "Hint", "Truth", "channels", "hint_named", "hints"]

INPAINT = "inpaint"
"""The mask and what it leaves of the picture: it is made with the autoencoder, so it has no file here."""
INPAINT_CHANNELS = 5
"""The mask's and those of the picture's latent."""


@cache
def hints() -> dict[str, Hint]:
    """Every hint that has a file here, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    found: list[Hint] = [import_module(f"{__name__}.{name}").HINT for name in names]
    return {hint.name: hint for hint in found}


def hint_named(name: str) -> Hint:
    """The hint of this name. Raises UserError listing the names for another."""
    if name == INPAINT:
        raise UserError("The hint inpaint is a picture and what is masked of it: give image and mask.")
    if name not in hints():
        raise UserError(f'There is no hint "{name}": use one of {", ".join(hints())}.')
    return hints()[name]


def channels(name: str) -> int:
    """How many channels a U-Net reads of a hint. Raises UserError as `hint_named`."""
    return INPAINT_CHANNELS if name == INPAINT else hint_named(name).channels
