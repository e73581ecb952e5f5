"""An autoencoder from a file or folder of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from mezzotint.store.facts import described
from mezzotint.store.folder import autoencoder_name
from mezzotint.store.layout import weight_files
from mezzotint.store.source import open_source
from mezzotint.store.weights import build
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.config import AutoencoderConfig


def load_vae(
    path: Path, device: torch.device | str, dtype: torch.dtype | None, *, like: AutoencoderConfig
) -> Autoencoder:
    """The autoencoder in a diffusers folder, or in a file with diffusers' names and the sizes of `like`.

    One that overflows in float16 (`force_upcast`) is in 32 bits. Raises UserError as `build`.
    """
    folder = path.is_dir()
    config = described(AutoencoderConfig.from_dict, path / "config.json") if folder else like
    return build(
        lambda: Autoencoder(config),
        [open_source(file) for file in (weight_files(path) if folder else [path])],
        device=torch.device(device),
        dtype=torch.float32 if config.force_upcast and dtype == torch.float16 else dtype,
        rename=autoencoder_name,
    )
