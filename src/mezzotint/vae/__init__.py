"""Latent to pixels and back: the autoencoder and its codec. Importing this, or the config, imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mezzotint.vae.config import AutoencoderConfig

if TYPE_CHECKING:
    from mezzotint.vae.autoencoder import Autoencoder, Moments
    from mezzotint.vae.codec import Codec, from_uint8, to_uint8

__all__ = ["Autoencoder", "AutoencoderConfig", "Codec", "Moments", "from_uint8", "to_uint8"]

HOMES = {
    "Autoencoder": "autoencoder",
    "Codec": "codec",
    "Moments": "autoencoder",
    "from_uint8": "codec",
    "to_uint8": "codec",
}
"""The modules that import torch, by the names that they hold."""


def __getattr__(name: str) -> Any:
    """What imports torch, imported when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
