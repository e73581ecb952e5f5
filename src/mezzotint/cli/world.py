"""`mezzotint world`: look at the still life that models are trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mezzotint.cli.flags import parse
from mezzotint.types import UserError

ABOUT = "Render scenes of the still life on one sheet, with their captions on stdout."
PIXELS_IN_WORK = 2**20
"""Pixels that are rendered before they are put on the sheet, unless one scene has more."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which scenes, how large, where to."""

    n: int = 16
    """How many scenes."""
    out: Path = Path("world.png")
    """The sheet's file."""
    size: int = 128
    """Side of a scene, in pixels."""
    seed: int = 0
    """Other seeds, other scenes."""
    held_out: bool = False
    """Only scenes that training never sees."""
    tinted: float = 0.0
    """The share of scenes whose colours lie between the named ones."""
    json: bool = False
    """Print one JSON object: file, and the scenes with their captions."""

    def __post_init__(self) -> None:
        """Raise UserError for a number or size that cannot be."""
        if not 1 <= self.n <= 10_000:
            raise UserError(f"The number of scenes is {self.n}; it must be from 1 to 10000.")
        if not 8 <= self.size <= 2048:
            raise UserError(f"The size is {self.size}; it must be from 8 to 2048 pixels.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"The seed is {self.seed}; it must be from 0 to 2**63 - 1.")
        if not 0 <= self.tinted <= 1:
            raise UserError(f"The tinted share is {self.tinted}; it must be from 0 to 1.")


def run(argv: Sequence[str]) -> int:
    """Render."""
    options = parse(Options, "world", argv, ABOUT)
    from mezzotint.store.beside import check_writable
    from mezzotint.store.png import picture_format

    picture_format(options.out)
    check_writable(options.out)

    from mezzotint.world.sheet import Sheet

    sheet = Sheet(options.n, (options.size, options.size))

    import random
    from dataclasses import asdict

    from PIL import Image

    from mezzotint.cli.progress import ProgressLine
    from mezzotint.store.png import write_plain
    from mezzotint.world.captions import tell
    from mezzotint.world.render import render
    from mezzotint.world.scene import random_scenes

    scenes = random_scenes(options.n, options.seed, held_out=options.held_out, tinted=options.tinted)
    chunk = max(1, PIXELS_IN_WORK // options.size**2)
    with ProgressLine() as line:
        for start in range(0, options.n, chunk):
            line.tell(start, options.n, f"scene {start} of {options.n}")
            pixels = render(scenes.take(slice(start, start + chunk)), options.size).pixels
            for array in pixels.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy():
                sheet.add(Image.fromarray(array))
    write_plain(sheet.image, options.out)
    chooser = random.Random(options.seed)
    described = [(scene, tell(scene, chooser)) for scene in scenes.describe()]
    if options.json:
        told = [{"caption": told.text, "scene": asdict(scene)} for scene, told in described]
        print(json.dumps({"file": str(options.out), "scenes": told}))
        return 0
    for _, told in described:
        print(told.text)
    print(f"{options.out}: {options.n} scenes")
    return 0
