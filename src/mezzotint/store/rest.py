"""What of a single file has no place in a diffusers folder, kept there in a file of our own, mezzotint.safetensors.

diffusers reads the last block that a text encoder has. So that of Stable Diffusion 2, of which the block before the
last is read, goes into a folder without its last and without its projection. These go into our own file, which other
programs pass over, and are put on again when the folder is read: the model is then what the single file was.

    text_encoder.NAME   a tensor of the text encoder, by our name; `text_encoder_2.NAME` likewise
    leftover.NAME       a tensor that no network here has, by its name in the single file
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mezzotint.conditioning.clip import CLIPTextConfig
from mezzotint.conditioning.text import AnyTextModel
from mezzotint.store.evidence import OWN
from mezzotint.store.layout import REST, REST_MARK
from mezzotint.store.source import Source, open_source
from mezzotint.store.weights import in_dtype, write_tensors
from mezzotint.types import UserError

LEFTOVER = "leftover."
LAYERS = "text_model.encoder.layers."
PROJECTION = "text_projection.weight"
KEPT = ("cond_stage_model.", "conditioner.", "depth_model.")
"""What the names of leftover tensors begin with that a folder keeps: no marks of training, averages or schedules."""
ABOUT = "what of a single file has no place in a diffusers folder"


@dataclass(frozen=True)
class Rest:
    """The file of one folder, of which nothing but the header is read yet."""

    source: Source

    def has(self, encoder: str, name: str) -> bool:
        """Whether it has that tensor of a text encoder."""
        return f"{encoder}.{name}" in self.source.entries

    def blocks(self, encoder: str) -> set[str]:
        """The numbers of the text encoder's blocks that are here."""
        start = f"{encoder}.{LAYERS}"
        return {name.removeprefix(start).partition(".")[0] for name in self.source.entries if name.startswith(start)}

    def put_on(self, encoder: str, config: CLIPTextConfig) -> CLIPTextConfig:
        """The config of the whole text encoder, for that of the folder's own.

        Raises UserError where the blocks here are not those that follow on the folder's.
        """
        blocks, found = config.num_hidden_layers, self.blocks(encoder)
        if found != {str(blocks + index) for index in range(len(found))}:
            raise UserError(
                f"{self.source.path} has block {min(found)} of a {encoder} of which {blocks} are in the folder: remove "
                f"that file if you changed the {encoder} on purpose."
            )
        config = replace(config, num_hidden_layers=blocks + len(found))
        if not self.has(encoder, PROJECTION):
            return config
        shape = self.source.entries[f"{encoder}.{PROJECTION}"].shape
        if len(shape) != 2:
            raise UserError(f"{self.source.path} has {encoder}.{PROJECTION} of shape {list(shape)}: get it again.")
        return replace(config, with_projection=True, projection_dim=shape[0])

    def layers(self, encoders: Iterable[str]) -> int:
        """How many blocks every text encoder has here. Raises UserError where one has more than another."""
        counts = {len(self.blocks(encoder)) for encoder in encoders}
        if len(counts) > 1:
            raise UserError(f"{self.source.path} has more blocks of one text encoder than of another: get it again.")
        return counts.pop()

    def leftover(self) -> dict[str, Tensor]:
        """The tensors that no network here has, by their names in a single file."""
        names = [name for name in self.source.entries if name.startswith(LEFTOVER)]
        return {name.removeprefix(LEFTOVER): self.source.tensor(name) for name in names}


def read_rest(folder: Path) -> Rest | None:
    """What a folder has of this, or none where it has none. Raises UserError where the file is damaged."""
    return Rest(open_source(folder / REST)) if (folder / REST).is_file() else None


def write_rest(
    wholes: Mapping[str, AnyTextModel],
    saved: Mapping[str, AnyTextModel],
    leftover: Mapping[str, Tensor],
    folder: Path,
    dtype: torch.dtype | None,
) -> list[Path]:
    """Write what text encoders have beyond those that are `saved`, and what is left over; returns the file, if any."""
    tensors = {f"{LEFTOVER}{name}": tensor for name, tensor in leftover.items()}
    for encoder, whole in wholes.items():
        kept = saved[encoder].state_dict().keys()
        tensors |= {f"{encoder}.{name}": own for name, own in whole.state_dict().items() if name not in kept}
    if not tensors:
        return []
    write_tensors(in_dtype(tensors, dtype), folder / REST, {OWN + REST_MARK: ABOUT})
    return [folder / REST]
