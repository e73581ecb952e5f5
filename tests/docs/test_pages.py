"""The pages hold: links lead somewhere, commands and settings are understood, Python examples import what is there."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import mezzotint
from mezzotint.cli import VERBS

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"^(?: {4})?(?:\S+=\S+ )*(?:\.venv/bin/)?(?:mezzotint|torchrun .* -m mezzotint) (.+)$")


def name(page: Path) -> str:
    """The page by its place."""
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """What a link may name on a page: its headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert anchor == "" or anchor in anchors(target), link


def commands(page: Path) -> list[str]:
    """What follows `mezzotint` on every line of an example."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found = [match.group(1) for line in lines if (match := COMMAND.match(line))]
    return [command for command in found if command.split()[0] in VERBS]


class Read(Exception):
    """The arguments were understood; nothing is done with them."""


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch):
    for command in commands(page):
        verb, *argv = shlex.split(command)
        module = importlib.import_module(f"mezzotint.cli.{verb}")
        reader = "read" if verb == "generate" else "parse"
        if argv == ["--help"] or not hasattr(module, reader):
            continue
        real = getattr(module, reader)

        def read_only(*args: Any, real: Any = real) -> None:
            raise Read(real(*args))

        monkeypatch.setattr(module, reader, read_only)
        with pytest.raises(Read) as understood:
            module.run(argv)
        monkeypatch.setattr(module, reader, real)
        if verb == "train":
            check_settings(understood.value.args[0])


def check_settings(options: Any) -> None:
    """Recipe, stage and settings are there."""
    from mezzotint.training.recipes import changed, recipe_named

    changed(recipe_named(options.recipe), options.settings, stage="" if options.stage == "all" else options.stage)


def examples() -> Sequence[Any]:
    """Every Python example with its page."""
    blocks = [
        (page, code)
        for page in [*PAGES, ROOT / "README.md"]
        if page.exists()
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ]
    return [pytest.param(code, id=f"{name(page)}-{number}") for number, (page, code) in enumerate(blocks)]


@pytest.mark.parametrize("code", examples())
def test_python_examples_import_what_is_there(code: str):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mezzotint"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mezzotint":
            assert node.attr in mezzotint.__all__


def test_every_public_name_and_field_is_told_of():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    names = [*mezzotint.__all__, *(field.name for field in fields(mezzotint.Request))]
    assert [name for name in names if f"`{name}" not in page] == []


def test_every_decision_is_listed():
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in folder.glob("0*.md") if f"({path.name})" not in listed] == []
