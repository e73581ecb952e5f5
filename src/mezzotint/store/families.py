"""Which family a single file belongs to, what it holds, and how its model was trained.

All is told by names, shapes and metadata, never by the file's name. No torch is imported and no weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mezzotint.store.contents import Part, contents, spread_tensor, text_layouts, unet_prefix
from mezzotint.store.evidence import Numbers, Training, continuous_noise, is_leftover, training
from mezzotint.store.keymap import sources
from mezzotint.store.kinds import KINDS, Glance, kind_of
from mezzotint.store.ldm import ema
from mezzotint.store.ldm.names import Shapes, under
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a single file is, and what tells of it."""

    name: str
    kind: str
    """A key of KINDS."""
    parts: tuple[Part, ...]
    """The networks that are in the file and that this program can make."""
    training: Training
    scaling_factor: float
    """What latents are multiplied by."""
    averaged: bool
    """Whether averages of the U-Net's weights (EMA) are there too."""
    unused: tuple[str, ...]
    """Tensors that no part reads, in the file's order."""
    unknown: tuple[str, ...]
    """Those of the unused that files are not known to carry."""
    missing: tuple[str, ...]
    """Tensors that a part needs and the file has not."""
    refusal: str | None
    """Why this program cannot run the model, in a sentence; none where nothing speaks against it."""

    def part(self, kind: str) -> Part | None:
        """The part of that kind (unet, vae, text_encoder, text_encoder_2), or none where the file has none."""
        return next((part for part in self.parts if part.kind == kind), None)


def recognise(shapes: Shapes, metadata: Mapping[str, str], numbers: Numbers) -> Family:
    """What the file of these tensors is. `numbers` gives those of one small tensor, and is seldom asked.

    What our own metadata says comes before what shapes tell. A part that this program cannot make is left out, and
    `refusal` says why. Raises UserError where there is no U-Net, and for metadata of ours that is damaged.
    """
    if not shapes:
        raise UserError("The file holds no tensors at all: get it again.")
    prefix = unet_prefix(shapes)
    if prefix is None:
        raise UserError("The file has no tensor input_blocks.0.0.weight, so it holds no U-Net: give a whole model.")
    glance = Glance.at(under(shapes, prefix))
    texts = set(text_layouts(shapes).values())
    kind = kind_of(texts, glance)
    about = KINDS[kind]
    spread = spread_tensor(shapes) if kind == "sd2" and glance.variant == "" else None
    trained = training(shapes, metadata, numbers, side=about.side, spread=spread)
    parts, reasons = contents(shapes, metadata, about, trained.size)
    read = set[str]().union(*(sources(part.places) for part in parts))
    unused = tuple(name for name in shapes if name not in read)
    scales = [part.config.scaling_factor for part in parts if isinstance(part.config, AutoencoderConfig)]
    refusals = (continuous_noise(shapes), about.refusal, *reasons)
    return Family(
        name=about.name + glance.variant if texts else glance.name,
        kind=kind,
        parts=parts,
        training=trained,
        scaling_factor=scales[0] if scales else about.scaling_factor,
        averaged=any(sources(ema.places(part.places)) <= shapes.keys() for part in parts if part.kind == "unet"),
        unused=unused,
        unknown=tuple(name for name in unused if not is_leftover(name)),
        missing=tuple(sorted(read - shapes.keys())),
        refusal=next((refusal for refusal in refusals if refusal is not None), None),
    )
