"""Write cli.md beside this file: what every verb says of itself under `--help`.

    .venv/bin/python docs/reference/make_cli.py

tests/docs holds the page to the program, so a flag that is added, changed or taken away changes the page with it.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from mezzotint.cli import VERBS, main

PAGE = Path(__file__).with_name("cli.md")

INTRODUCTION = """\
# Command line

<!-- Written by docs/reference/make_cli.py from the program's own help: change the docstrings there, not this page. -->

    mezzotint VERB ...

| exit code | what it means |
|---|---|
| 0 | done |
| 1 | `reproduce` only: the picture came out different |
| 2 | something that you can mend; one sentence on stderr says what is wrong and what to do |
| 130 | stopped with Ctrl-C |
| 141 | whoever read the output has gone, as in `mezzotint world \\| head -1` |

What a program may read is on stdout, and with `--json` it is JSON alone; progress, warnings and errors are on stderr.
Nothing half-written is left behind: pictures and model folders are written beside and renamed.
"""


def told(*argv: str) -> str:
    """What the command prints on stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(argv)
    return out.getvalue()


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    verbs = [("mezzotint", ()), *((f"mezzotint {verb}", (verb,)) for verb in VERBS)]
    parts += [f"## {title}\n\n```text\n{told(*argv, '--help').rstrip()}\n```\n" for title, argv in verbs]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
