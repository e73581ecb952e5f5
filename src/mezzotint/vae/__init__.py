"""Latent to pixels and back: the autoencoder and its codec."""

from __future__ import annotations

from mezzotint.vae.autoencoder import Autoencoder, Moments
from mezzotint.vae.codec import Codec, from_uint8, to_uint8
from mezzotint.vae.config import AutoencoderConfig

__all__ = ["Autoencoder", "AutoencoderConfig", "Codec", "Moments", "from_uint8", "to_uint8"]
