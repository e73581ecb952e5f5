"""What a model has learned of hints: in the folder hints, which diffusers does not look into, read when asked for.

As the classifier's, its files are not among those that every picture's sums tell of. A single file has its tensors
under our own prefix, and the names of the hints in the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mezzotint.store.beside import make_folder
from mezzotint.store.checksum import check_folder
from mezzotint.store.evidence import OWN, own
from mezzotint.store.facts import read_json, write_json
from mezzotint.store.layout import HINTS
from mezzotint.types import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mezzotint.denoise.unet import UNet
    from mezzotint.store.source import Source

STEM = "model"
IN_FILE = f"{OWN}{HINTS}."
"""What the names of its tensors begin with in a single file of ours."""


@dataclass(frozen=True)
class StoredHints:
    """The hints that a model can be given, in the order of the channels that are read."""

    names: tuple[str, ...]
    path: Path
    """The file that holds it."""
    start: str = ""
    """What the names of its tensors begin with there."""
    folder: Path | None = None
    """A model's own folder of it, of whose files mezzotint.json has the sums."""
    sums: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """What was learned, float32, by the names of `denoise.adapter`. Raises UserError where it is damaged."""
        from mezzotint.store.source import open_source

        if self.folder is not None:
            check_folder(self.folder, self.sums)
        source = open_source(self.path)
        names = [name for name in source.entries if name.startswith(self.start)]
        return {name.removeprefix(self.start): source.tensor(name).float() for name in names}

    def tensors_for(self, names: Sequence[str]) -> dict[str, Tensor]:
        """What was learned, for a network that reads these hints: of one that is new nothing is.

        Raises UserError as `unet`.
        """
        import torch

        from mezzotint.conditioning.hints import channels
        from mezzotint.denoise.adapter import COLUMNS

        columns = self.tensors[COLUMNS]
        own = dict(zip(self.names, columns.split(self._widths(), dim=1), strict=True))
        blank = columns[:, :1].new_zeros
        parts = [
            own[name] if name in own else blank(columns.shape[0], channels(name), *columns.shape[2:]) for name in names
        ]
        return {**self.tensors, COLUMNS: torch.cat(parts, dim=1)}

    def unet(self, base: UNet, name: str = "") -> UNet:
        """The U-Net that reads the hints, or the one of a name alone, of the one that they were learned for.

        Raises UserError for another, for a hint that is not among them, and where they had other widths or are not
        all hints here.
        """
        from mezzotint.denoise.adapter import with_learned

        if name not in ("", *self.names):
            raise UserError(f"The model has learned no hint {name}: use one of {', '.join(self.names)}.")
        place = self.names.index(name) if name else 0
        try:
            widths = self._widths()
            reads = slice(sum(widths[:place]), sum(widths[: place + 1])) if name else slice(None)
            return with_learned(base, self.tensors, reads)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"The hints in {self.path} were learned for another U-Net ({error}).") from error

    def _widths(self) -> list[int]:
        """How many channels are read of each. Raises UserError where they were others when it was learned, or one of
        them is no hint here.
        """
        from mezzotint.conditioning.hints import channels
        from mezzotint.denoise.adapter import COLUMNS

        widths, read = [channels(name) for name in self.names], self.tensors[COLUMNS].shape[1]
        if sum(widths) != read:
            raise UserError(
                f"The hints in {self.path} were learned from {read} channels, and {', '.join(self.names)} have "
                f"{sum(widths)} now: learn them anew, beginning from the model without what it has of hints."
            )
        return widths


def hints_in(folder: Path, sums: dict[str, str]) -> StoredHints | None:
    """The hints in a model's folder, if there are any; `sums` are those of mezzotint.json."""
    path = folder / HINTS / "config.json"
    if not path.is_file():
        return None
    inside = {name.removeprefix(f"{HINTS}/"): digest for name, digest in sums.items() if name.startswith(f"{HINTS}/")}
    return load_hints(folder / HINTS, inside)


def load_hints(folder: Path, sums: dict[str, str] | None = None) -> StoredHints:
    """The hints in a folder of their own. Raises UserError where its config is damaged."""
    names = _names(read_json(folder / "config.json"), str(folder / "config.json"))
    return StoredHints(names, folder / f"{STEM}.safetensors", "", folder, {} if sums is None else sums)


def hints_in_file(source: Source) -> StoredHints | None:
    """The hints in a single file, if there are any. Raises UserError where its metadata is damaged."""
    values = own(source.metadata, HINTS)
    if values is None:
        return None
    return StoredHints(_names(values, f"The metadata {OWN}{HINTS} of {source.path}"), source.path, IN_FILE)


def hints_for_file(hints: StoredHints, dtype: torch.dtype | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by which a single file holds them, in `dtype`, by default float16, and what its metadata says."""
    import torch

    from mezzotint.store.weights import in_dtype

    tensors = in_dtype(hints.tensors, torch.float16 if dtype is None else dtype)
    return {IN_FILE + name: tensor for name, tensor in tensors.items()}, {"names": list(hints.names)}


def _names(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    names: Any = values.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[Any]", names)):
        raise UserError(f"{where} names no hints: get it again.")
    return tuple(cast("list[str]", names))


def save_hints(
    names: Sequence[str], tensors: dict[str, Tensor], folder: Path, dtype: torch.dtype | None = None
) -> list[Path]:
    """Write them into a folder of their own, in `dtype`, by default float16; returns the weight files.

    Raises UserError where the folder cannot be written.
    """
    import torch

    from mezzotint.store.weights import write_tensors

    make_folder(folder)
    path = folder / f"{STEM}.safetensors"
    kind = torch.float16 if dtype is None else dtype
    write_tensors({name: tensor.detach().cpu().to(kind).contiguous() for name, tensor in tensors.items()}, path)
    write_json({"_class_name": "MezzotintHints", "names": list(names)}, folder / "config.json")
    return [path]


def hints_files(folder: Path) -> list[Path]:
    """What a picture depends on that is given hints: their config and their weights."""
    return [folder / HINTS / "config.json", *sorted((folder / HINTS).glob("*.safetensors"))]
