"""A dataclass is a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from mezzotint.cli.flags import field_docs, parse
from mezzotint.types import UserError


@dataclass(frozen=True, kw_only=True)
class Everything:
    """One field of every kind."""

    what: Literal["vae", "unet"]
    """Given by place."""
    settings: tuple[str, ...] = ()
    """Any number of them: 100%."""
    out: Path = Path("here")
    """A path
    in two lines."""
    n: int = 0
    scale: float | None = None
    dry_run: bool = False
    shadows: bool = True
    sizes: tuple[int, ...] = (1, 2)


def read(*argv: str) -> Everything:
    return parse(Everything, "test", argv, "A test.", "what", "settings")


def test_nothing_typed_is_every_default():
    assert read("vae") == Everything(what="vae")


def test_every_kind():
    typed = ["unet", "a=1", "b=2", "-o", "there", "-n", "3", "--scale", "-0.5", "--dry-run", "--no-shadows"]
    assert read(*typed, "--sizes", "4") == Everything(
        what="unet",
        settings=("a=1", "b=2"),
        out=Path("there"),
        n=3,
        scale=-0.5,
        dry_run=True,
        shadows=False,
        sizes=(4,),
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "what"),
        (["clip"], "'clip'.*vae"),
        (["vae", "-n", "x"], "'x' is not a whole number"),
        (["vae", "--scale", "much"], "'much' is not a number"),
        (["vae", "--dry", "x"], "--dry"),
    ],
)
def test_an_error_is_one_sentence_with_where_help_is(argv: list[str], said: str):
    with pytest.raises(UserError, match=said) as error:
        read(*argv)
    assert str(error.value).endswith("(see `mezzotint test --help`).")


def test_help_is_the_docstrings(capsys: pytest.CaptureFixture[str]):
    assert field_docs(Everything)["out"] == "A path in two lines."
    with pytest.raises(SystemExit, match="0"):
        read("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "Any number of them: 100%." in said
    assert "A path in two lines. (default: here)" in said
    assert "(default: 0)" in said
    assert "default: False" not in said
