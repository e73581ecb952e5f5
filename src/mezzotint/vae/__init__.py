"""Latent to pixels and back: the autoencoder and its codec. Importing this, or the config, imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mezzotint.vae.config import AutoencoderConfig
from mezzotint.vae.tiny_config import TinyAutoencoderConfig

if TYPE_CHECKING:
    from mezzotint.vae.autoencoder import Autoencoder, Moments
    from mezzotint.vae.codec import AnyAutoencoder, Codec, from_uint8, to_uint8
    from mezzotint.vae.preview import LatentPreview
    from mezzotint.vae.tiny import TinyAutoencoder

__all__ = [
    "AnyAutoencoder",
    "Autoencoder",
    "AutoencoderConfig",
    "Codec",
    "LatentPreview",
    "Moments",
    "TinyAutoencoder",
    "TinyAutoencoderConfig",
    "from_uint8",
    "to_uint8",
]

HOMES = {
    "AnyAutoencoder": "codec",
    "Autoencoder": "autoencoder",
    "Codec": "codec",
    "LatentPreview": "preview",
    "Moments": "autoencoder",
    "TinyAutoencoder": "tiny",
    "from_uint8": "codec",
    "to_uint8": "codec",
}
"""The modules that import torch, by the names that they hold."""


def __getattr__(name: str) -> Any:
    """What imports torch, imported when it is first asked for."""
    if name in HOMES:
        return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
