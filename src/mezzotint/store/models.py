"""The models that come with the package, and what a name stands for. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mezzotint.store.facts import Facts, read_facts
from mezzotint.store.hub import fetched, is_hub_name
from mezzotint.store.layout import BESIDE, all_weight_files, is_model_folder
from mezzotint.store.paths import expanded
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
        """Size of its weights, without what lies in folders beside its own."""
        beside = (path for part in BESIDE for path in (self.folder / part).rglob("*.safetensors"))
        weights = [*all_weight_files(self.folder), *beside]
        return sum(path.stat().st_size for path in weights)


def shipped_models(root: Path = SHIPPED) -> list[ShippedModel]:
    """The models in the package, by name: every folder there in the diffusers layout."""
    folders = sorted(path for path in root.iterdir() if is_model_folder(path)) if root.is_dir() else []
    return [ShippedModel(path.name, path, read_facts(path)) for path in folders]


def is_shipped(model: str | Path, root: Path = SHIPPED) -> bool:
    """Whether it is the name of a shipped model."""
    name = str(model)
    return name not in ("", ".", "..") and "/" not in name and is_model_folder(root / name)


def full_name(model: str | Path, root: Path = SHIPPED) -> str:
    """What a model is called wherever one stands: the name of a shipped model or of one on the hub, or a full path."""
    path = expanded(model)
    if is_shipped(model, root) or (is_hub_name(str(model)) and not path.exists()):
        return str(model)
    return str(path.absolute())


def resolve(model: str | Path, root: Path = SHIPPED) -> Path:
    """The folder or file of a model: a shipped model's name, a path, or a name on the hub, in this order.

    Raises UserError that lists what there is, and as `hub.fetched`.
    """
    name = str(model)
    try:
        if is_shipped(model, root):
            return root / name
        path = expanded(model)
        if is_model_folder(path) or path.is_file():
            return path
        if path.is_dir() and name != "":
            raise UserError(f"The folder {path} has no model_index.json: give a folder in the diffusers layout.")
    except (OSError, RuntimeError):
        pass  # A name too long for a file, or the home of a user who is not there: nothing has that name.
    # What begins with a folder that is here is a path that is misspelt.
    if is_hub_name(name) and not Path(Path(name).parts[0]).exists():
        return fetched(name)
    names = ", ".join(entry.name for entry in shipped_models(root)) or "none yet"
    raise UserError(
        f"There is no model {name!r}: give a diffusers folder, a checkpoint file, OWNER/NAME on the hub, or one of "
        f"these: {names}."
    )
