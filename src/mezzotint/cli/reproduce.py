"""`mezzotint reproduce`: draw a picture again from the request that it carries, and compare the bits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mezzotint.cli.flags import flag, parse
from mezzotint.store.checksum import FileSum
from mezzotint.store.extras import Extras
from mezzotint.store.models import resolve
from mezzotint.store.pictures import estimator
from mezzotint.types import PICTURES, ImagePrompt, Request, UserError

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
    vae: str | None = None
    """The autoencoder to decode with, where the one that the picture names is now called otherwise."""
    loras: tuple[str, ...] | None = None
    """A LoRA, in the place of those that the picture names, as FILE, FILE:WEIGHT or FILE:UNET:TEXT; all, in order."""
    embeddings: tuple[str, ...] | None = None
    """A file of learned words, in the place of those that the picture names; all, in order."""
    image: str | None = None
    """The picture to begin from, where the one that the picture names is now called otherwise."""
    mask: str | None = None
    """The mask, where the one that the picture names is now called otherwise."""
    depth: str | None = None
    """The depth map, where the one that the picture names is now called otherwise."""
    silhouette: str | None = None
    """The silhouette, where the one that the picture names is now called otherwise."""
    hint: tuple[str, ...] | None = None
    """What else lies on it, in the place of what the picture names, as NAME:FILE; all, in order."""
    image_prompt: tuple[str, ...] | None = None
    """A picture as a prompt, in the place of those that the picture names, as FILE or FILE:WEIGHT; all, in order."""
    image_adapter: str | None = None
    """What reads pictures as prompts, where the one that the picture names is now called otherwise."""
    device: str | None = None
    """Where to draw; by default where the picture was drawn, if that is here."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the networks; by default that of the picture."""
    json: bool = False
    """Print one JSON object: file, same, max_difference, different_values, different_pixels, same_weights,
    changed_files, changed, seconds, request."""


def run(argv: Sequence[str]) -> int:
    """Draw again; exit code 0 where every bit agrees, 1 where not."""
    began = time.perf_counter()
    options = parse(Options, "reproduce", argv, ABOUT, "picture")
    from mezzotint.store.png import read_provenance

    image, provenance = read_provenance(options.picture)
    names = ("model", "vae", "loras", "embeddings", "image_adapter", *PICTURES, "hint", "image_prompt")
    given = {name: getattr(options, name) for name in names}
    request = provenance.request.but(**{name: value for name, value in given.items() if value is not None})
    folder = located(options, request)
    check_extras(options, request)
    opened = opened_as(options, request, folder, provenance.made_with)
    from mezzotint.cli.drawing import draw

    (picture,) = draw(opened.pipe, [request])
    apart = difference(image, picture.image)
    files = other_files(provenance.extras, opened.sums)
    if provenance.weights != opened.checksums.whole:
        files.insert(0, request.model)
    changed = changes(provenance.made_with, opened.made_with())
    if options.json:
        told = {
            "file": str(options.picture),
            "same": apart.values == 0,
            "max_difference": apart.highest,
            "different_values": apart.values,
            "different_pixels": apart.pixels,
            "same_weights": not files,
            "changed_files": files,
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
        print(reasons(request.model, files, changed))
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


def check_extras(options: Options, request: Request) -> None:
    """Raise UserError for a file beside the model that the picture names and that is not here."""
    extras = Extras.of(request)
    named = {"vae": [extras.vae], "loras": [use.file for use in extras.loras], "embeddings": extras.embeddings}
    named["image_adapter"] = [extras.image_adapter]
    named |= {name: [getattr(request, name)] for name in PICTURES}
    named["hint"] = [text.partition(":")[2] for text in request.hint]
    named["image_prompt"] = [ImagePrompt.parse(text).name for text in request.image_prompt]
    for field, files in named.items():
        missing = [file for file in files if file != "" and estimator(file) is None and not Path(file).exists()]
        if missing and getattr(options, field) is None:
            raise UserError(
                f"{options.picture} was drawn with {missing[0]}, which is not here: put it there again, "
                f"or give {flag(field)}."
            )


def other_files(then: Mapping[str, FileSum], now: Mapping[str, FileSum]) -> list[str]:
    """The files beside the model that are not those the picture was drawn with, wherever they lay then."""
    before = [file.sha256 for file in then.values()]
    changed = [path for number, (path, file) in enumerate(now.items()) if before[number : number + 1] != [file.sha256]]
    return changed + list(then)[len(now) :]


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
        request.model,
        folder,
        str(device),
        dtype,
        threads if 0 < threads <= (os.cpu_count() or 1) else None,
        request,
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


def reasons(model: str, files: Sequence[str], changed: dict[str, tuple[Any, Any]]) -> str:
    """Why the pictures may differ, in words."""
    named = ["the model's files are" if file == model else f"{file} is" for file in files]
    found = [f"{what} not what it was drawn with" for what in named]
    found += [f"{name} was {then} and is {now}" for name, (then, now) in changed.items()]
    if not found:
        return "the model's files, versions, device and dtype are those it was drawn with"
    return ", ".join(found)
