"""The command line: one thin module per verb, imported when its verb is typed. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper

from mezzotint.types import UserError

VERBS: dict[str, str] = {
    "generate": "draw pictures from words",
    "reproduce": "draw a picture again and say whether the bits agree",
    "models": "list the models that come with the package",
    "samplers": "list the walks from noise to picture",
    "guides": "list what else steers a picture",
    "tokens": "show how a prompt is read: its steps, parts, chunks, tokens and weights",
    "inspect": "say what a model file or folder holds",
    "convert": "write a model in another layout",
    "depth": "estimate how near every place of a picture is",
    "world": "render scenes of the still life",
    "train": "train a model, or one stage of it",
    "evaluate": "measure what a model obeys",
}
"""Every verb and its line of help. A verb V is the module cli/V.py with `run(argv: Sequence[str]) -> int`."""

ABOUT = "Mezzotint draws pictures from words with latent diffusion models, and makes such models."
BAD_INPUT = 2
"""The exit code of an error that the user can mend."""
INTERRUPTED = 130
CLOSED = 141
"""The exit code where whoever read the output has gone, as of a program that SIGPIPE ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that the arguments begin with; returns the exit code.

    An error that the user can mend is one sentence on stderr and exit code 2. Where whoever reads stdout or stderr
    has gone (`| head`), that is the end, and nothing is said of it.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # A terminal that cannot show a sign is no reason to fail.
    try:
        try:
            return outcome(list(sys.argv[1:] if argv is None else argv))
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def outcome(argv: list[str]) -> int:
    """The exit code of what the arguments ask for, with whatever went wrong told on stderr."""
    try:
        return dispatch(argv)
    except UserError as error:
        print(f"mezzotint: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("mezzotint: stopped.", file=sys.stderr)
        return INTERRUPTED


def dispatch(argv: list[str]) -> int:
    """Run the verb, or tell of the verbs. Raises UserError for a verb that there is not."""
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if verb in ("-V", "--version"):
        from mezzotint import __version__

        print(f"mezzotint {__version__}")
        return 0
    if verb not in VERBS:
        raise UserError(f"There is no verb {verb!r}: use one of {', '.join(VERBS)}.")
    module = import_module(f".{verb.replace('-', '_')}", __package__)
    return int(module.run(argv[1:]))


def help_text() -> str:
    """What `mezzotint --help` says."""
    width = max(len(verb) for verb in VERBS) + 2
    verbs = "\n".join(f"  {verb:<{width}}{line}" for verb, line in VERBS.items())
    return (
        f"{ABOUT}\n\nusage: mezzotint VERB ...\n\n{verbs}\n\n"
        "`mezzotint VERB --help` tells of one verb; `mezzotint --version` gives the version.\n\n"
        'example: mezzotint generate "a red sphere to the left of a blue cube" -o out.png'
    )
