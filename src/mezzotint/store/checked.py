"""Configs out of files, which anybody may have written: every value of the kind of its field. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mezzotint.types import UserError

Made = TypeVar("Made")

WRONG = (TypeError, ValueError, KeyError, AttributeError, OverflowError)
"""What making a config of values of the wrong kind ends in."""
MOST = 2**31
"""Beyond this lies no width, length or count that a model has."""


def made(make: Callable[[dict[str, Any]], Made], values: Mapping[str, Any], where: str) -> Made:
    """The config that `make` makes of JSON values.

    Raises UserError, of which `where` begins the sentence, where a value is of the wrong kind or no number at all, and
    as `make` does.
    """
    try:
        config = make(dict(values))
        kinds = _kinds(type(config))
    except UserError:
        raise
    except WRONG as error:
        raise UserError(f"{where} holds values of the wrong kind: get it again.") from error
    for name, kind in kinds.items():
        value = getattr(config, name)
        if not _is(value, kind):
            raise UserError(f"{where} has {name} = {str(value)[:40]!r}, which is of the wrong kind: get it again.")
    return config


@cache
def _kinds(config: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of the type, a whole number also where any number may stand, but never NaN or infinite."""
    origin = get_origin(kind)
    if origin in (UnionType, Union):
        return any(_is(value, member) for member in get_args(kind))
    if origin is tuple:
        inner = [member for member in get_args(kind) if member is not Ellipsis]
        return isinstance(value, tuple) and all(any(_is(item, member) for member in inner) for item in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if isinstance(value, int | float):
        whole = isinstance(value, int)
        return (kind is float or (kind is int and whole)) and (abs(value) < MOST if whole else isfinite(value))
    if kind in (None, NoneType):
        return value is None
    target = kind if isinstance(kind, type) else origin
    return not isinstance(target, type) or isinstance(value, target)
