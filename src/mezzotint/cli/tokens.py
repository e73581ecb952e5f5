"""`mezzotint tokens`: how a prompt is read."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from mezzotint.cli.flags import parse
from mezzotint.store.facts import read_facts
from mezzotint.store.model_words import model_tokenizers
from mezzotint.store.models import resolve
from mezzotint.text.chunks import chunked
from mezzotint.text.prompt import Part, phases
from mezzotint.types import Request

if TYPE_CHECKING:
    from mezzotint.store.model_words import AnyTokenizer

ABOUT = "Show how a prompt is read: from which step on, in which parts and chunks, as which tokens, with which weights."
WIDTH = 100
"""Columns of a line."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is read, and how."""

    prompt: str
    """The prompt, in quotes."""
    model: str = Request.model
    """A shipped model's name, a diffusers folder, one file, or OWNER/NAME on the hub."""
    weighting: Literal["a1111", "compel", "none"] = "a1111"
    """How (word:1.3) weighs: a1111, compel, or none, which reads brackets as they stand."""
    steps: int | None = None
    """How many steps the picture is drawn in; by default the model's own number."""
    negative: bool = False
    """Read it as what to steer away from, where AND is a word as any other."""
    json: bool = False
    """Print one JSON object, with the tokens' ids."""


def run(argv: Sequence[str]) -> int:
    """Print what the prompt says. Raises UserError for a prompt or a number of steps that no request can have."""
    options = parse(Options, "tokens", argv, ABOUT, "prompt")
    path = resolve(options.model)
    given: dict[str, Any] = {"prompt": options.prompt, "weighting": options.weighting}
    request = read_facts(path).request(**given, **({} if options.steps is None else {"steps": options.steps}))
    tokenizers = model_tokenizers(path)
    found = told(request, tokenizers, negative=options.negative)
    print(json.dumps(found) if options.json else "\n".join(lines(found)))
    return 0


def told(request: Request, tokenizers: dict[str, AnyTokenizer], *, negative: bool) -> dict[str, Any]:
    """How a request's prompt is read, as plain values."""
    read = phases(request.prompt, request.steps, weighting=request.weighting, negative=negative)
    ends = [*(phase.first_step for phase in read[1:]), request.steps]
    return {
        "steps": request.steps,
        "weighting": request.weighting,
        "room": {name: tokenizer.room for name, tokenizer in tokenizers.items()},
        "phases": [
            {
                "first_step": phase.first_step,
                "last_step": end - 1,
                "parts": [_part(part, request.weighting, tokenizers) for part in phase.parts],
            }
            for phase, end in zip(read, ends, strict=True)
        ],
    }


def _part(part: Part, weighting: str, tokenizers: dict[str, AnyTokenizer]) -> dict[str, Any]:
    """One text, its weight, and its chunks by the name of each tokenizer."""
    chunks = {
        name: [
            [
                {"id": index, "token": token, "weight": weight}
                for index, token, weight in zip(chunk.ids, tokenizer.names(chunk.ids), chunk.weights, strict=True)
            ]
            for chunk in chunked(tokenizer, part.text, weighting)
        ]
        for name, tokenizer in tokenizers.items()
    }
    return {"text": part.text, "weight": part.weight, "chunks": chunks}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The same as text; tokenizers that agree are told once."""
    for phase in found["phases"]:
        first, last = phase["first_step"], phase["last_step"]
        yield f"step {first}" if first == last else f"steps {first} to {last}"
        for part in phase["parts"]:
            weight = "" if part["weight"] == 1 else f", weight {part['weight']:g}"
            yield f'  "{part["text"]}"{weight}'
            sides = part["chunks"]
            alike = all(chunks == next(iter(sides.values())) for chunks in sides.values())
            for name, chunks in list(sides.items())[: 1 if alike else None]:
                for number, chunk in enumerate(chunks, 1):
                    owner = "" if alike else f"{name}, "
                    yield f"    {owner}chunk {number} of {len(chunks)}, {len(chunk)} of {found['room'][name]} tokens"
                    yield from _runs(chunk)


def _runs(chunk: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A chunk's tokens, those of one weight in a row."""
    for weight, run in groupby(chunk, key=lambda token: token["weight"]):
        tokens = " ".join(token["token"] for token in run)
        indent = f"      {weight:<8.4g}"
        yield from textwrap.wrap(
            tokens,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=" " * len(indent),
            break_long_words=False,
            break_on_hyphens=False,
        )
