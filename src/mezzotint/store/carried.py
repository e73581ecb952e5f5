"""Parts that are not read here and that a model is not saved without, such as the estimator of a model from depth.

They go from folder to folder, through a single file too: there their tensors stand under our own prefix, their other
files in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mezzotint.store.evidence import OWN, own
from mezzotint.store.pipelines import DEPTH, Entry
from mezzotint.store.source import Source, part_sources
from mezzotint.store.weights import write_tensors
from mezzotint.types import UserError

METADATA = "carried"
"""What follows our prefix in the name of the metadata."""
WEIGHTS = "model.safetensors"
"""What a part's weights are written as; transformers reads no other name."""


@dataclass(frozen=True)
class Carried:
    """A part that is carried along unread."""

    entry: Entry
    """The library and the class that it is read with."""
    texts: Mapping[str, str]
    """Its files of settings, by name."""
    tensors: Mapping[str, Tensor]
    """Its weights as they are stored, mapped into memory."""

    def save(self, folder: Path) -> None:
        """Write it into a folder of its own. Raises UserError where the folder cannot be written."""
        folder.mkdir(parents=True)
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        if self.tensors:
            write_tensors(self.tensors, folder / WEIGHTS)


def carried_in_folder(folder: Path, entry: Entry) -> Carried:
    """A part in the folder of its own. Raises UserError where it is damaged."""
    try:
        settings = [path for path in folder.glob("*.json") if not path.name.endswith(".index.json")]
        texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(settings)}
    except (OSError, ValueError) as error:
        raise UserError(f"The part in {folder} cannot be read: {error}.") from error
    weighed = any(path.suffix in (".safetensors", ".bin") for path in folder.glob("*"))
    sources = part_sources(folder, None) if weighed else []
    return Carried(entry, texts, {name: source.tensor(name) for source in sources for name in source.entries})


def for_file(parts: Mapping[str, Carried]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata by which a single file holds these parts."""
    if not parts:
        return {}, {}
    tensors = {f"{OWN}{part}.{name}": tensor for part, own in parts.items() for name, tensor in own.tensors.items()}
    told = {part: {"entry": own.entry, "texts": dict(own.texts)} for part, own in parts.items()}
    return tensors, {OWN + METADATA: json.dumps(told)}


def carried_in_file(source: Source) -> dict[str, Carried]:
    """The parts that a single file holds. Raises UserError where their metadata is damaged."""
    found: dict[str, Carried] = {}
    for part, told in (own(source.metadata, METADATA) or {}).items():
        try:
            (library, kind), texts = told["entry"], dict(told["texts"])
            if part not in DEPTH or not all(
                isinstance(text, str) and Path(name).name == name for name, text in texts.items()
            ):
                raise ValueError(part)
            prefix = f"{OWN}{part}."
            names = [name for name in source.entries if name.startswith(prefix)]
            tensors = {name.removeprefix(prefix): source.tensor(name) for name in names}
            found[part] = Carried([str(library), str(kind)], texts, tensors)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"The metadata {OWN}{METADATA} is damaged: get the file again.") from error
    return found
