"""`mezzotint depth`: how near every place of a picture is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mezzotint.cli.flags import parse
from mezzotint.store.beside import check_writable, file_beside
from mezzotint.types import UserError

ABOUT = "Estimate how near every place of a picture is, for --depth: bright is near."
ENDINGS = (".png", ".npy")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at, and by what."""

    picture: Path
    """The picture."""
    out: Path = Path("depth.png")
    """The map: .png has 16 bits from the farthest to the nearest, .npy the numbers as they are."""
    estimator: str = ""
    """A depth model that transformers loads, a folder or a hub id; by default our own, which knows the still life."""
    json: bool = False
    """Print one JSON object: file, width, height."""

    def __post_init__(self) -> None:
        """Raise UserError for a kind of file that is not written."""
        if self.out.suffix.lower() not in ENDINGS:
            raise UserError(f"{self.out} is no kind of depth map that is written: use one of {', '.join(ENDINGS)}.")


def run(argv: Sequence[str]) -> int:
    """Write the map."""
    options = parse(Options, "depth", argv, ABOUT, "picture")
    from mezzotint.store.pictures import read_colours

    check_writable(options.out)
    if options.out.resolve() == options.picture.resolve():
        raise UserError(f"{options.out} is the picture itself, so it is not written over: choose another --out.")
    picture = read_colours(str(options.picture))
    import numpy as np
    from PIL import Image

    from mezzotint.conditioning.canvas import to_pixels
    from mezzotint.store.sight import depth_of

    values = depth_of(to_pixels(picture), options.estimator)[0, 0].float().numpy()
    with file_beside(options.out) as temporary:
        if options.out.suffix.lower() == ".npy":
            with temporary.open("wb") as file:
                np.save(file, values)
        else:
            low, high = float(values.min()), float(values.max())
            unit = (values - low) / max(high - low, 1e-12)
            Image.fromarray((unit * 65535).round().astype(np.uint16)).save(temporary, format="PNG")
    if options.json:
        print(json.dumps({"file": str(options.out), "width": picture.width, "height": picture.height}))
    else:
        print(f"{options.out}: {picture.width} x {picture.height}, near is bright")
    return 0
