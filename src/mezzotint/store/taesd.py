"""The tiny autoencoder in its layouts: diffusers names, and the numbered names of the TAESD project. Imports no torch.

TAESD ships its encoder and its decoder as files of their own, each a plain sequence of layers named by their numbers:
`0.weight`, `1.conv.0.weight`. Programs join the two under `taesd_encoder.` and `taesd_decoder.`, or `encoder.` and
`decoder.`. The project's decoder begins with a layer without parameters, the squeezing of the latent, so its numbers
are one higher than those in diffusers. Sources: madebyollin/taesd, taesd.py; diffusers,
scripts/convert_tiny_autoencoder_to_diffusers.py; ComfyUI, nodes.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from mezzotint.store.ldm.names import Shapes, shape
from mezzotint.store.ldm.vae import DIFFUSERS, PREFIXES
from mezzotint.types import UserError
from mezzotint.vae.tiny_config import TinyAutoencoderConfig

NUMBERED = "numbered names"
SIDES = ("encoder", "decoder")
SKIPPED = {NUMBERED: {"encoder": 0, "decoder": 1}, DIFFUSERS: {"encoder": 0, "decoder": 0}}
"""Layers without parameters that a layout counts and our module does not, at the beginning of each half."""
BEGINNINGS = {DIFFUSERS: ("{side}.layers.",), NUMBERED: ("taesd_{side}.", "{side}.", "")}
"""What the names of a half begin with, in each layout."""
FIRST_BLOCK = {"encoder": 1, "decoder": 2}
"""Our number of the first residual block of each half."""
SCALES = ("vae_scale", "vae_shift")
"""What ComfyUI stores beside the two halves: the scale of the latents that its U-Nets give, which here are scaled."""
NUMBER = re.compile(r"[0-9]{1,4}")
"""A layer's number; longer ones are only made to take time."""


@dataclass(frozen=True)
class Halves:
    """A tiny autoencoder in a file."""

    names: str
    """The layout of its names."""
    beginnings: Mapping[str, str]
    """For each half that is there, what its names begin with."""
    scales: tuple[str, ...]
    """Tensors of SCALES by their whole names."""

    def ours(self, name: str) -> str | None:
        """Our name for a tensor of the file: none for one that tells of a scale, itself for what is unknown."""
        if name in self.scales:
            return None
        for side, beginning in self.beginnings.items():
            number, dot, rest = name.removeprefix(beginning).partition(".")
            own = int(number) - SKIPPED[self.names][side] if NUMBER.fullmatch(number) else -1
            if name.startswith(beginning) and dot and own >= 0:
                return f"{side}.layers.{own}.{rest}"
        return name


def find(shapes: Shapes) -> Halves | None:
    """Where the halves of a tiny autoencoder are among these tensors, or none where there is none."""
    for prefix in PREFIXES:
        for names, beginnings in BEGINNINGS.items():
            found: dict[str, str] = {}
            for side in SIDES:
                for beginning in (prefix + beginning.format(side=side) for beginning in beginnings):
                    skipped = SKIPPED[names][side]
                    marks = (f"{skipped}.weight", f"{FIRST_BLOCK[side] + skipped}.conv.0.weight")
                    if beginning not in found.values() and all(beginning + mark in shapes for mark in marks):
                        found[side] = beginning
                        break
            if found:
                return Halves(names, found, tuple(prefix + scale for scale in SCALES))
    return None


def config(shapes: Shapes, halves: Halves) -> TinyAutoencoderConfig:
    """What the tiny autoencoder of these tensors is made of.

    No shape tells of its activation and of how it enlarges: they are those of TAESD. Raises UserError for tensors that
    are missing or of another kind of autoencoder.
    """
    own = {name: told for theirs, told in shapes.items() if (name := halves.ours(theirs)) is not None}
    blocks: dict[str, tuple[int, ...]] = dict.fromkeys(SIDES, ())
    widths = dict(blocks)
    pixels, latents = dict[str, int](), dict[str, int]()
    for side in halves.beginnings:
        blocks[side], last = _stages(own, side)
        first = shape(own, f"{side}.layers.0.weight", 4)
        ends = first[1], shape(own, f"{side}.layers.{last}.weight", 4)[0]
        pixels[side], latents[side] = ends if side == "encoder" else ends[::-1]
        widths[side] = (first[0],) * len(blocks[side])
    if len(set(latents.values())) > 1:
        raise UserError(
            f"The encoder gives {latents['encoder']} latent channels and the decoder takes {latents['decoder']}: "
            "they belong to different autoencoders."
        )
    return TinyAutoencoderConfig(
        in_channels=pixels.get("encoder", TinyAutoencoderConfig.in_channels),
        out_channels=pixels.get("decoder", TinyAutoencoderConfig.out_channels),
        encoder_block_out_channels=widths["encoder"],
        decoder_block_out_channels=widths["decoder"],
        num_encoder_blocks=blocks["encoder"],
        num_decoder_blocks=blocks["decoder"],
        latent_channels=next(iter(latents.values())),
    )


def _stages(own: Shapes, side: str) -> tuple[tuple[int, ...], int]:
    """How many blocks follow each convolution of one half but the last, and the last one's number."""
    start = f"{side}.layers."
    told = {name.removeprefix(start).partition(".")[0] for name in own if name.startswith(start)}
    numbers = sorted(int(number) for number in told if NUMBER.fullmatch(number))
    convolutions = [number for number in numbers if f"{start}{number}.weight" in own]
    blocks = [number for number in numbers if f"{start}{number}.conv.0.weight" in own]
    counts = tuple(sum(before < block < after for block in blocks) for before, after in pairwise(convolutions))
    return counts, convolutions[-1]
