"""Habits of the house that must last: public names, readable files, nothing of one machine."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

import mezzotint

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mezzotint"
MAX_LINES = 400

UNFINISHED = ["TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error", "type: " + "ignore"]
ONE_MACHINE = re.compile(r"(?<![\w.:/])/(home|root|work|Users|mnt|farm)/\w")


def tracked(*suffixes: str) -> list[Path]:
    """Files that git knows or would take, by the end of their names."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / line for line in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def test_the_public_names():
    """A name that is added or taken away is a decision: it changes this list."""
    assert mezzotint.__all__ == [
        "Cancelled",
        "Conditioning",
        "Picture",
        "Pipeline",
        "Progress",
        "Request",
        "UserError",
        "__version__",
        "load",
    ]
    for name in mezzotint.__all__:
        assert getattr(mezzotint, name) is not None


def test_files_are_readable_in_one_sitting():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCE.rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_every_module_says_what_it_is():
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
    assert [path for path, tree in trees.items() if tree.body != [] and ast.get_docstring(tree) is None] == []


def test_nothing_is_left_unfinished_or_silenced():
    found = [
        (str(path.relative_to(ROOT)), mark)
        for path in tracked(".py")
        for mark in UNFINISHED
        if mark in path.read_text(encoding="utf-8") and SOURCE in path.parents
    ]
    assert found == []


def test_nothing_names_one_machine():
    found = [
        (str(path.relative_to(ROOT)), line)
        for path in tracked(".py", ".md", ".toml", ".json", ".txt", ".html", ".yml", "")
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if ONE_MACHINE.search(line) and path != Path(__file__)
    ]
    assert found == []


SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/**/*.py")])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_import_what_is_there(path: Path):
    """What stands outside the package is run by hand, and would else break unseen."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("mezzotint"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{path.name}: {node.module} has no {name.name}"
