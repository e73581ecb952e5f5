"""The models that come with the package, and what a name stands for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mezzotint.store.facts import Facts, read_facts
from mezzotint.store.layout import all_weight_files, is_model_folder
from mezzotint.types import UserError

SHIPPED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True)
class ShippedModel:
    """One of the package's own models."""

    name: str
    folder: Path
    facts: Facts

    @property
    def bytes(self) -> int:
        """Size of its weights."""
        return sum(path.stat().st_size for path in all_weight_files(self.folder))


def shipped_models(root: Path = SHIPPED) -> list[ShippedModel]:
    """The models in the package, by name: every folder there in the diffusers layout."""
    folders = sorted(path for path in root.iterdir() if is_model_folder(path)) if root.is_dir() else []
    return [ShippedModel(path.name, path, read_facts(path)) for path in folders]


def is_shipped(model: str | Path, root: Path = SHIPPED) -> bool:
    """Whether it is the name of a shipped model."""
    name = str(model)
    return name not in ("", ".", "..") and "/" not in name and is_model_folder(root / name)


def full_name(model: str | Path, root: Path = SHIPPED) -> str:
    """What a model is called wherever one stands: a shipped model's name as it is, anything else as a full path."""
    return str(model) if is_shipped(model, root) else str(Path(model).expanduser().absolute())


def resolve(model: str | Path, root: Path = SHIPPED) -> Path:
    """The folder that a shipped model's name, or a path, stands for; a name comes before a folder of that name.

    Raises UserError that lists what there is.
    """
    name = str(model)
    try:
        if is_shipped(model, root):
            return root / name
        path = Path(model).expanduser()
        if is_model_folder(path):
            return path
        if path.is_dir() and name != "":
            raise UserError(f"The folder {path} has no model_index.json: give a folder in the diffusers layout.")
        if path.is_file():
            raise UserError(f"{path} is a file: give a shipped model's name or a folder in the diffusers layout.")
    except (OSError, RuntimeError):
        pass  # A name too long for a file, or the home of a user who is not there: nothing has that name.
    names = ", ".join(entry.name for entry in shipped_models(root)) or "none yet"
    raise UserError(f"There is no model {name!r}: give a folder in the diffusers layout, or one of these: {names}.")
