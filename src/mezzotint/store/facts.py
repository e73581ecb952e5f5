"""What a model says of itself beside what all models do: mezzotint.json in a folder, metadata in a single file.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from mezzotint.store.checked import made
from mezzotint.store.evidence import OWN, own
from mezzotint.store.header import read_header
from mezzotint.types import Request, UserError

Made = TypeVar("Made")

FILE_NAME = "mezzotint.json"
SETTLED = ("prompt", "seed", "model", "vae", "loras", "embeddings")
"""The fields of a request that no model may give a default for."""
LAID = ("mask", "extend", "depth", "silhouette", "hint")
"""The fields of a request by which something lies beside the latent."""


def _nothing() -> dict[str, Any]:
    return {}


def _no_sums() -> dict[str, str]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A model's name, what it was made from, and how it is best drawn with."""

    name: str = ""
    """What the model is called."""
    about: str = ""
    """One line for `mezzotint models`."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Width and height in pixels of the pictures it was trained on; the first is what it draws when not told."""
    recipe: dict[str, Any] = field(default_factory=_nothing)
    """What made it: the recipe's name and its resolved configuration."""
    defaults: dict[str, Any] = field(default_factory=_nothing)
    """Fields of a request that this model is best drawn with: steps, guidance, sampler, ..."""
    hinted: dict[str, Any] = field(default_factory=_nothing)
    """What takes their place where something lies beside the latent: a mask, a depth map, a silhouette, ..."""
    sha256: dict[str, str] = field(default_factory=_no_sums)
    """Sums of the weight files by their path in the folder, so that damage is noticed."""

    def __post_init__(self) -> None:
        """Raise UserError for a default that no request has, or that it may not have."""
        known = sorted({entry.name for entry in fields(Request)} - {*SETTLED, *LAID})
        for where, told in (("defaults", self.defaults), ("hinted", self.hinted)):
            for name in told:
                if name not in known:
                    raise UserError(f"The model's {where} name {name!r}; they can name {', '.join(known)}.")
        for size in self.sizes:
            if len(size) != 2 or min(size) < 1:
                raise UserError(f"The model has the training size {list(size)}; it must be a width and a height.")

    def request(self, **given: Any) -> Request:
        """A request with what is given, then what the model is best drawn with, then what any request has.

        Raises UserError for a value that no request can have.
        """
        return Request(**preferred(self.defaults, self.hinted, given))


def preferred(defaults: Mapping[str, Any], hinted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields: those that are given, over those that a model is best drawn with.

    The latter are `defaults`, and over them `hinted` where a field of LAID is given. Its schedule, its eta and its
    guides are for its sampler: with another one that is asked for, steps lie where the model was trained, fresh noise
    is that sampler's own and guidance is plain.
    """
    best = _over(defaults, hinted) if any(given.get(name) for name in LAID) else defaults
    return _over(best, given)


def _over(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    other = "sampler" in given and given["sampler"] != own.get("sampler")
    kept = {name: value for name, value in own.items() if not (other and name in ("schedule", "eta", "guide"))}
    return {**kept, **given}


def read_facts(model: Path) -> Facts:
    """What a folder's mezzotint.json says, or a single file's metadata; without these its own name is all there is.

    Raises UserError where what is there is damaged or has a key that is not known.
    """
    if model.is_file():
        return file_facts(model, read_header(model).metadata)
    path = model / FILE_NAME
    return _made(read_json(path), str(path)) if path.is_file() else Facts(name=model.absolute().name)


def file_facts(path: Path, metadata: Mapping[str, str]) -> Facts:
    """What the metadata of a single file says. Raises as `read_facts`."""
    values = own(metadata, "facts")
    return Facts(name=path.stem) if values is None else _made(values, f"The metadata {OWN}facts of {path}")


def _made(values: dict[str, Any], where: str) -> Facts:
    unknown = sorted(set(values) - {entry.name for entry in fields(Facts)})
    if unknown:
        raise UserError(f"{where} has unknown keys: {', '.join(unknown)}.")
    try:
        return made(_facts, values, where)
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error


def _facts(values: dict[str, Any]) -> Facts:
    sizes = tuple((int(width), int(height)) for width, height in values.get("sizes", ()))
    told: dict[str, Any] = {**values, "sizes": sizes}
    return Facts(**told)


def write_facts(facts: Facts, folder: Path) -> None:
    """Write the folder's mezzotint.json."""
    write_json(asdict(facts), folder / FILE_NAME)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds. Raises UserError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON, or is damaged: get it again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} does not hold a JSON object: get it again.")
    return cast("dict[str, Any]", values)


def described(make: Callable[[dict[str, Any]], Made], path: Path) -> Made:
    """What `make` makes of a JSON file. Raises UserError where the file is damaged or tells of no such thing."""
    return made(make, read_json(path), str(path))


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write an object as indented JSON with a newline at the end."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
