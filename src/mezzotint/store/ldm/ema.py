"""Averaged weights in a checkpoint: `model_ema.` and the U-Net's name with its dots left out.

The latent diffusion code averages the whole `model`, so `model.diffusion_model.out.2.weight` has its average in
`model_ema.diffusion_modelout2weight`. Source: CompVis/latent-diffusion, ema.py.
"""

from __future__ import annotations

from dataclasses import replace

from mezzotint.store.keymap import KeyMap

PREFIX = "model_ema."
BESIDE = "model."
"""What the names of the averaged weights begin with, left out in those of their averages."""


def places(names: KeyMap) -> KeyMap:
    """The map to the averages, from the map to the weights by their whole names (`model.diffusion_model...`)."""
    return {
        ours: replace(piece, source=PREFIX + piece.source.removeprefix(BESIDE).replace(".", ""))
        for ours, piece in names.items()
    }
