"""`mezzotint reproduce`: draw a picture again from the request that it carries, and compare the bits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mezzotint.cli.flags import parse
from mezzotint.store.models import resolve
from mezzotint.types import Request, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from mezzotint.cli.drawing import Opened

ABOUT = "Draw a picture again from the request that it carries, and say whether the bits agree (exit code 0 or 1)."


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw again, and with what."""

    picture: Path
    """A PNG that `mezzotint generate` wrote."""
    model: str | None = None
    """The model to draw with, where the one that the picture names is now called otherwise."""
    device: str | None = None
    """Where to draw; by default where the picture was drawn, if that is here."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the networks; by default that of the picture."""
    json: bool = False
    """Print one JSON object: file, same, max_difference, different_values, different_pixels, same_weights, changed,
    seconds, request."""


def run(argv: Sequence[str]) -> int:
    """Draw again; exit code 0 where every bit agrees, 1 where not."""
    began = time.perf_counter()
    options = parse(Options, "reproduce", argv, ABOUT, "picture")
    from mezzotint.store.png import read_provenance

    image, provenance = read_provenance(options.picture)
    request = provenance.request if options.model is None else provenance.request.but(model=options.model)
    folder = located(options, request)
    opened = opened_as(options, request, folder, provenance.made_with)
    from mezzotint.cli.drawing import draw

    (picture,) = draw(opened.pipe, [request])
    apart = difference(image, picture.image)
    same_weights = provenance.weights == opened.checksums.whole
    changed = changes(provenance.made_with, opened.made_with())
    if options.json:
        told = {
            "file": str(options.picture),
            "same": apart.values == 0,
            "max_difference": apart.highest,
            "different_values": apart.values,
            "different_pixels": apart.pixels,
            "same_weights": same_weights,
            "changed": {name: {"then": then, "now": now} for name, (then, now) in changed.items()},
            "seconds": round(time.perf_counter() - began, 3),
            "request": request.to_dict(),
        }
        print(json.dumps(told))
    elif apart.values == 0:
        print(f"{options.picture}: the same to the last bit")
    else:
        count = image.width * image.height * 3
        print(
            f"{options.picture}: different in {apart.values} of {count} values, by up to {apart.highest} of 255; ",
            end="",
        )
        print(reasons(same_weights, changed))
    return 0 if apart.values == 0 else 1


def located(options: Options, request: Request) -> Path:
    """The folder of the model to draw with. Raises UserError where it is not there."""
    try:
        return resolve(request.model)
    except UserError as error:
        if options.model is not None:
            raise
        name = request.model
        raise UserError(
            f"{options.picture} was drawn by the model {name!r}, which is not here: give --model."
        ) from error


def opened_as(options: Options, request: Request, folder: Path, then: dict[str, Any]) -> Opened:
    """The model on the device and in the precision that are asked for, else those that the picture was drawn with.

    Where its device is not here, another of its type is taken, else what `generate` would take.
    """
    from mezzotint.cli.drawing import open_model
    from mezzotint.store.device import first_device

    known: str | None = then.get("device")
    wanted = [known, known.split(":")[0], None] if known is not None else [None]
    device = first_device(wanted if options.device is None else [options.device])
    dtype = options.dtype
    if dtype is None and (device.type == "cpu" or not then.get("as_stored", False)):
        dtype = then.get("dtype")
    # A sum that more threads share is added in another order.
    threads: int = then.get("threads", 0)
    return open_model(
        request.model, folder, str(device), dtype, threads if 0 < threads <= (os.cpu_count() or 1) else None
    )


@dataclass(frozen=True)
class Difference:
    """How far two pictures are apart."""

    highest: int
    """The largest difference of a value, 0 to 255."""
    values: int
    """How many differ, of three a pixel."""
    pixels: int
    """How many pixels differ at all."""


def difference(one: Image, other: Image) -> Difference:
    """How far two RGB pictures are apart; everything differs where the sizes do."""
    import numpy as np

    if one.size != other.size:
        return Difference(255, one.width * one.height * 3, one.width * one.height)
    apart = np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16))
    return Difference(int(apart.max()), int(np.count_nonzero(apart)), int(apart.any(axis=2).sum()))


def changes(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a picture's bits depend on that was one thing and is another, as far as the picture tells it."""
    return {name: (then[name], value) for name, value in now.items() if name in then and then[name] != value}


def reasons(same_weights: bool, changed: dict[str, tuple[Any, Any]]) -> str:
    """Why the pictures may differ, in words."""
    found = [] if same_weights else ["the model's files are not those it was drawn with"]
    found += [f"{name} was {then} and is {now}" for name, (then, now) in changed.items()]
    if not found:
        return "the model's files, versions, device and dtype are those it was drawn with"
    return ", ".join(found)
