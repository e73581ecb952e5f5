"""The arrows of the design: who may import whom, and who may import torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mezzotint"

STAGES = ["text", "conditioning", "noise", "denoise", "sampling", "vae"]
"""The line from words to pictures, in order: a stage sees `types`, `layers` and the stages before it."""

ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "layers": {"types"},
    **{stage: {"types", "layers", *STAGES[:place]} for place, stage in enumerate(STAGES)},
    "store": {"types", *STAGES},
    "pipeline": {"types", "store", *STAGES},
    "world": {"types"},
    "training": {"types", "store", "pipeline", "world", *STAGES},
    "evaluate": {"types", "store", "pipeline", "world", *STAGES},
    "__init__": {"types", "pipeline", "sampling", "store"},
    "__main__": {"cli"},
}
"""What each folder or file of the package may import of the others; `cli` may import all, nobody may import `cli`."""


def package_imports(path: Path) -> set[str]:
    """The folders or files right under the package that a module imports, anywhere in it, lazily too."""
    inside = path.relative_to(SOURCE).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("mezzotint", *inside)[: len(inside) + 2 - node.level] if node.level > 0 else ()
            module = (*base, *(node.module.split(".") if node.module is not None else ()))
            # `from .. import name` and `from mezzotint import name` may take a folder or a plain name.
            targets = [(*module, alias.name) for alias in node.names] if len(module) == 1 else [module]
        for target in targets:
            if target[0] == "mezzotint" and len(target) > 1:
                found.add(target[1])
    return found


def owner(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def is_part(name: str) -> bool:
    return (SOURCE / name).is_dir() or (SOURCE / f"{name}.py").is_file()


MODULES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_stands_before_it(path: Path):
    part = owner(path)
    imported = {name for name in package_imports(path) if is_part(name)} - {part}
    if part == "cli":
        return
    assert part in ALLOWED, f"{part} is new: say in ALLOWED what it may import"
    assert imported <= ALLOWED[part], f"{part} may not import {sorted(imported - ALLOWED[part])}"


@pytest.mark.parametrize(
    ("module", "level", "expected"),
    [
        ("from ..vae.codec import Codec", 1, {"vae"}),
        ("import mezzotint.cli", 1, {"cli"}),
        ("from .. import cli", 1, {"cli"}),
    ],
)
def test_the_walk_sees_every_way_to_import(module: str, level: int, expected: set[str], monkeypatch, tmp_path: Path):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    file = tmp_path / "text" / "x.py"
    file.parent.mkdir()
    file.write_text(module)
    assert package_imports(file) == expected


WITHOUT_TORCH = [
    "mezzotint",
    "mezzotint.types",
    "mezzotint.text",
    "mezzotint.noise",
    "mezzotint.sampling",
    "mezzotint.conditioning",
    "mezzotint.vae",
    "mezzotint.store.families",
    "mezzotint.store.inspect",
    "mezzotint.store.keymap",
    "mezzotint.store.models",
    "mezzotint.store.pickle_tar",
    "mezzotint.store.checksum",
    "mezzotint.store.png",
    *(f"mezzotint.cli.{path.stem}" for path in sorted((SOURCE / "cli").glob("*.py")) if path.stem != "__init__"),
]


def test_no_torch_where_none_is_needed():
    """One process imports them one after another and tells the first that brought torch, or a heavy friend of it."""
    code = (
        "import importlib, sys\n"
        f"for name in {WITHOUT_TORCH!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'rich'} & set(sys.modules)\n"
        "    assert not heavy, (name, heavy)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["generate", "--help"],
        ["models"],
        ["inspect", str(ROOT / "nothing")],
        ["tokens", "a (red:1.3) cube"],
    ],
)
def test_no_torch_behind_these_commands(argv: list[str]):
    code = (
        "import sys\n"
        "from mezzotint.cli import main\n"
        "try:\n"
        f"    main({argv!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_drawing_does_not_bring_the_compiler(tiny_folder: Path, tmp_path: Path):
    """torch._dynamo costs more than a second, and many innocent calls import it (filling a meta tensor is one)."""
    arguments = ["generate", "a cube", "--model", str(tiny_folder), "-o", str(tmp_path / "out.png"), "--device", "cpu"]
    code = (
        "import sys\n"
        "from mezzotint.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "heavy = {'torch._dynamo', 'sympy', 'diffusers', 'transformers', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
