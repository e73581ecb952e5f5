"""Pictures in memory have names too, made of what they hold, so that a request stays a value that can be compared and
written down. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import ItemsView, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image

from mezzotint.types import IN_MEMORY, PICTURES, ImagePrompt, UserError

if TYPE_CHECKING:
    import numpy as np


class Held(str):
    """The name of a picture in memory, which holds the picture: a PIL image, or numbers [H W] in float32."""

    __slots__ = ("picture",)
    picture: Any

    @classmethod
    def of(cls, picture: Any) -> Held:
        """The name of a PIL image, or of an array or a tensor as `_of_array` reads it. Raises UserError as that."""
        if not isinstance(picture, Image.Image):
            picture = _of_array(picture)
        kind, data = (picture.mode if isinstance(picture, Image.Image) else "F"), picture.tobytes()
        size = picture.size if isinstance(picture, Image.Image) else picture.shape
        digest = hashlib.sha256(f"{kind} {size} ".encode() + data).hexdigest()
        name = cls(f"{IN_MEMORY}{digest[:16]}")
        name.picture = picture
        return name

    def weighed(self, weight: float) -> Held:
        """The name of the same picture with a weight, as an image prompt."""
        return self._as(f"{self}:{float(weight)!r}")

    def laid(self, hint: str) -> Held:
        """The name of the same picture as a hint."""
        return self._as(f"{hint}:{self}")

    def _as(self, text: str) -> Held:
        name = Held(text)
        name.picture = self.picture
        return name

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        """Itself: a name does not change."""
        return self


def held(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields with names in the place of pictures that are given as paths or in memory.

    `image_prompt` may be one picture or several, each alone or with its weight; `hint` the pictures by their hints'
    names, as a mapping or in pairs. Raises UserError as `Held.of`.
    """
    named = {name: _name(value) if name in PICTURES else value for name, value in fields.items()}
    if "image_prompt" in named:
        named["image_prompt"] = _prompts(named["image_prompt"])
    if "hint" in named:
        named["hint"] = _hints(named["hint"])
    return named


def _of_array(given: Any) -> Any:
    """A picture of bools, or of whole numbers from 0 to 255, [H W] or [H W 3]; other numbers [H W] in float32.

    Sides of 1 before or after these are left out. Raises UserError for anything else.
    """
    import numpy as np

    if hasattr(given, "detach"):  # A tensor, of whatever type and wherever it is.
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() else given
    try:
        values = np.asarray(given)
    except (TypeError, ValueError):
        values = np.zeros((), dtype=object)
    kind = values.dtype.kind
    values = plane_of(values, colours=values.ndim == 3 and values.dtype == np.uint8)
    refusal = f"A {type(given).__name__} is no picture: give a file, a PIL image, bytes [H W 3] or numbers [H W]."
    if kind not in "biuf" or values.ndim < 2:
        raise UserError(refusal)
    if kind != "f" and values.size > 0 and values.min() >= 0 and values.max() <= 255:
        levels = values.astype(np.uint8) * np.uint8(255 if kind == "b" else 1)
        try:
            return Image.fromarray(levels)
        except (TypeError, ValueError) as error:
            raise UserError(f"An array {list(values.shape)} is no picture: give bytes [H W] or [H W 3].") from error
    if values.ndim > 2:
        raise UserError(refusal)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def plane_of(values: np.ndarray[Any, Any], *, colours: bool = False) -> np.ndarray[Any, Any]:
    """An array without sides of 1 before or after its height and width; `colours` stay, if there are three or four."""
    while values.ndim > 2 and values.shape[-1] == 1:
        values = values[..., 0]
    while values.ndim > 2 and values.shape[0] == 1 and not (colours and values.shape[-1] in (3, 4)):
        values = values[0]
    return values


def _hints(given: Any) -> Any:
    """Names of hints with the names of their pictures; texts NAME:FILE as they are."""
    pairs = cast("Mapping[Any, Any]", given).items() if isinstance(given, Mapping) else given
    if not isinstance(pairs, Sequence | ItemsView) or isinstance(pairs, str):
        return given
    several: list[Any] = list(cast("Sequence[Any]", pairs))
    if len(several) == 2 and isinstance(several[0], str) and not isinstance(several[1], str):
        several = [tuple(several)]
    return tuple(_laid(*one) if isinstance(one, tuple | list) else one for one in several)


def _laid(*given: Any) -> str:
    """The name of a hint and of its picture. Raises UserError for anything but these two."""
    if len(given) != 2 or not isinstance(given[0], str):
        raise UserError('A hint in brackets must be its name and a picture, such as ("silhouette", picture).')
    name = _name(given[1])
    return name.laid(given[0]) if isinstance(name, Held) else f"{given[0]}:{name}"


def _name(given: Any) -> str:
    return str(given) if isinstance(given, Path) else given if isinstance(given, str) else Held.of(given)


def _prompts(given: Any) -> tuple[str, ...]:
    """The names of one image prompt or several."""
    several: list[Any] = list(cast("Sequence[Any]", given)) if isinstance(given, list | tuple) else [given]
    if len(several) == 2 and _is_weight(several[1]):
        several = [tuple(several)]
    return tuple(_weighed(*one) if isinstance(one, tuple) else _name(one) for one in several)


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _weighed(*given: Any) -> str:
    """The name of a picture and its weight. Raises UserError for anything but these two."""
    if len(given) != 2 or not _is_weight(given[1]):
        raise UserError("An image prompt in brackets must be a picture and its weight, such as (picture, 0.8).")
    name = _name(given[0])
    return name.weighed(given[1]) if isinstance(name, Held) else str(ImagePrompt(name, given[1]))
