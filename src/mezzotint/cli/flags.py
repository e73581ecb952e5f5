"""Flags made from a dataclass: a field added once appears on the command line, with its docstring as its help.

argparse stands behind it, because it is imported in milliseconds and leaves the words of an error to us.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from mezzotint.types import UserError

Options = TypeVar("Options")

SHORT = {"out": "-o", "n": "-n"}
"""The fields that have a short flag too, in every verb."""
ONE_EACH = {"loras": "lora", "embeddings": "embedding"} | {
    name: name for name in ("guide", "classify", "hint", "image_prompt")
}
"""The fields of several values whose flag is typed once for each of them, and that flag's name."""
METAVARS = {
    "vae": "FILE",
    "image": "FILE",
    "mask": "FILE",
    "depth": "FILE",
    "silhouette": "FILE",
    "hint": "NAME:FILE",
    "image_prompt": "FILE:WEIGHT",
    "image_adapter": "FILE",
    "extend": "SIDE=N,...",
    "only_masked": "PIXELS",
    "loras": "FILE:WEIGHT",
    "embeddings": "FILE",
    "guide": "NAME:VALUE",
    "classify": "WORDS:SCALE",
}
"""What help calls the value of a field, where it does not go by its type."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors: one sentence that names the flag and where help is."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        sentence = message.removeprefix("argument ")
        raise UserError(f"{sentence[:1].upper()}{sentence[1:]} (see `{self.prog} --help`).")


def make_parser(verb: str, about: str) -> Parser:
    """A parser for one verb; `about` is its help's first line."""
    return Parser(
        prog=f"mezzotint {verb}",
        description=about,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=100),
    )


def add_flags(
    parser: Parser,
    cls: type,
    *,
    without: Collection[str] = (),
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Add a flag for every field of a dataclass, except those in `without`.

    A field may be an int, a float, a str, a Path, a bool (--name; --name or --no-name where it is true), a Literal, any
    of these or None, or a tuple of them of any length. A flag that is not typed leaves no trace in what is parsed, so
    that its default can come from elsewhere; `defaults` maps such a field to what help calls its default.
    """
    hints = get_type_hints(cls)
    docs = field_docs(cls)
    for entry in fields(cls):
        if entry.name in without:
            continue
        names = [flag(entry.name)]
        if entry.name in SHORT:
            names.insert(0, SHORT[entry.name])
        settings = _settings(hints[entry.name], entry.default)
        if entry.name in METAVARS:
            settings["metavar"] = METAVARS[entry.name]
        if entry.name in ONE_EACH:
            settings = {name: value for name, value in settings.items() if name != "nargs"} | {"action": "append"}
        required = entry.default is MISSING and entry.default_factory is MISSING
        default = (defaults or {}).get(entry.name, _default_text(entry))
        text = docs.get(entry.name, "") + (f" (default: {default})" if default != "" else "")
        parser.add_argument(
            *names,
            dest=entry.name,
            default=argparse.SUPPRESS,
            required=required,
            help=text.replace("%", "%%"),
            **settings,
        )


def parse(cls: type[Options], verb: str, argv: Sequence[str], about: str, *positional: str) -> Options:
    """The dataclass `cls` that a verb's arguments tell of; the fields in `positional` are given by place, not by flag.

    This is all that a plain verb needs. Raises UserError for an argument that is no flag or no value of its kind, and
    for what the dataclass itself refuses.
    """
    parser = make_parser(verb, about)
    hints, docs = get_type_hints(cls), field_docs(cls)
    for name in positional:
        settings: dict[str, Any] = {**_settings(hints[name]), "metavar": name}
        parser.add_argument(name, help=docs.get(name, "").replace("%", "%%"), **settings)
    add_flags(parser, cls, without=positional)
    return cls(**parsed(parser, argv))


def parsed(parser: Parser, argv: Sequence[str]) -> dict[str, Any]:
    """What was typed, by field; several values are a tuple. Raises UserError as `parse`."""
    values = vars(parser.parse_intermixed_args(argv))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def flag(field: str) -> str:
    """The flag of a field."""
    return f"--{ONE_EACH.get(field, field).replace('_', '-')}"


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    docs: dict[str, str] = {}
    if isinstance(body, ast.ClassDef):
        for statement, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                value = after.value if isinstance(after, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    docs[statement.target.id] = " ".join(value.value.split())
    return docs


def _default_text(entry: Field[Any]) -> str:
    """The default as a user would type it; nothing where there is none to speak of."""
    if entry.default is MISSING or entry.default is None or isinstance(entry.default, bool):
        return ""
    return str(entry.default) if entry.default not in ("", ()) else ""


def _settings(hint: Any, default: Any = MISSING) -> dict[str, Any]:
    """What argparse is told of a field of this type."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(choice for choice in get_args(hint) if choice is not type(None))
    if get_origin(hint) is tuple:
        return _settings(get_args(hint)[0]) | {"nargs": "*"}
    if get_origin(hint) is Literal:
        return {"choices": list(get_args(hint))}
    if hint is bool:
        return {"action": "store_true" if default is False else argparse.BooleanOptionalAction}
    readers: dict[Any, Callable[[str], Any]] = {int: whole_number, float: number, Path: Path, str: str}
    metavar = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
    return {"type": readers[hint], "metavar": metavar[hint]}


def whole_number(text: str) -> int:
    """An int, or argparse's error in our words."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def number(text: str) -> float:
    """A float, or argparse's error in our words."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def size(text: str) -> tuple[int, int]:
    """Width and height in pixels from "128x64", or from "128" for a square."""
    sides = text.lower().replace("×", "x").split("x")
    try:
        width, height = (int(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 128x128") from error
    return width, height
