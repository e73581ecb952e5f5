"""`mezzotint reproduce`: draw a picture again from the request that it carries, and compare the bits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mezzotint.cli.flags import parse
from mezzotint.store.models import resolve

if TYPE_CHECKING:
    from PIL.Image import Image

ABOUT = "Draw a picture again from the request that it carries, and say whether the bits agree (exit code 0 or 1)."


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw again, and with what."""

    picture: Path
    """A PNG that `mezzotint generate` wrote."""
    model: str | None = None
    """The model to draw with, where the one that the picture names is now called otherwise."""
    device: str | None = None
    """Where to draw; by default the accelerator if there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the networks; by default that of the picture."""
    json: bool = False
    """Print one JSON object: file, same, max_difference, different_pixels, same_weights, seconds, request."""


def run(argv: Sequence[str]) -> int:
    """Draw again; exit code 0 where every bit agrees, 1 where not."""
    began = time.perf_counter()
    options = parse(Options, "reproduce", argv, ABOUT, "picture")
    from mezzotint.store.png import read_provenance

    image, provenance = read_provenance(options.picture)
    request = provenance.request if options.model is None else provenance.request.but(model=options.model)
    folder = resolve(request.model)
    from mezzotint.cli.drawing import draw, open_model

    dtype = options.dtype if options.dtype is not None else provenance.made_with.get("dtype")
    # A sum that more threads share is added in another order.
    threads = provenance.made_with.get("threads")
    known = threads if isinstance(threads, int) and 0 < threads <= (os.cpu_count() or 1) else None
    opened = open_model(request.model, folder, options.device, dtype, known)
    (picture,) = draw(opened.pipe, [request])
    highest, differing = difference(image, picture.image)
    same = differing == 0
    same_weights = provenance.weights == opened.checksums.whole
    if options.json:
        told = {
            "file": str(options.picture),
            "same": same,
            "max_difference": highest,
            "different_pixels": differing,
            "same_weights": same_weights,
            "seconds": round(time.perf_counter() - began, 3),
            "request": request.to_dict(),
        }
        print(json.dumps(told))
    elif same:
        print(f"{options.picture}: the same to the last bit")
    else:
        pixels = image.width * image.height
        why = "" if same_weights else "; the model's weights are not those it was drawn with"
        print(f"{options.picture}: different in {differing} of {pixels} pixels, by up to {highest} of 255{why}")
    return 0 if same else 1


def difference(one: Image, other: Image) -> tuple[int, int]:
    """The largest difference of a value, and how many pixels differ at all; every one does where the sizes differ."""
    import numpy as np

    if one.size != other.size:
        return 255, one.width * one.height
    apart = np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16))
    return int(apart.max()), int(apart.any(axis=2).sum())
