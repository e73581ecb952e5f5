"""`mezzotint generate`: words to picture files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mezzotint.cli.flags import add_flags, make_parser, parsed, size
from mezzotint.store.beside import check_writable, make_folder
from mezzotint.store.facts import read_facts
from mezzotint.store.models import resolve
from mezzotint.types import Request, UserError

ABOUT = "Draw pictures from words."
MAX_COUNT = 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the pictures themselves do not depend on."""

    out: Path = Path("out.png")
    """The picture's file: .png carries its request; .jpg and .webp carry the parameters as text."""
    n: int = 1
    """How many pictures, with seeds that count up; NAME-0, NAME-1, ... and NAME itself, a sheet of them all."""
    preview: Path | None = None
    """A folder for a small picture of every step, made from the latent without decoding it."""
    device: str | None = None
    """Where to draw: cpu, cuda, ...; by default the accelerator if there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the networks; by default 32 bits on a CPU and as stored elsewhere."""
    json: bool = False
    """Print one JSON object: files, seed, seconds, request, warnings."""

    def __post_init__(self) -> None:
        """Raise UserError for a number of pictures that cannot be."""
        if not 1 <= self.n <= MAX_COUNT:
            raise UserError(f"The number of pictures is {self.n}; it must be from 1 to {MAX_COUNT}.")


def run(argv: Sequence[str]) -> int:
    """Draw what the arguments ask for. Everything that can be wrong with them is found before the model is loaded."""
    began = time.perf_counter()
    given, options = read(argv)
    path = resolve(given.get("model", Request.model))
    request = read_facts(path).request(**given)
    check(request)
    requests = [request.but(seed=request.seed + number) for number in range(options.n)]
    check_writable(options.out)
    targets = names(options.out, options.n)
    for target in targets:
        check_writable(target)

    from mezzotint.store.pictures import picture_names
    from mezzotint.store.png import Provenance, picture_format, write_picture, write_plain
    from mezzotint.world.sheet import Sheet

    picture_format(options.out)
    written = {target.resolve() for target in (*targets, options.out)}
    for file in (Path(name).resolve() for name in picture_names(request)):
        previewed = options.preview is not None and options.preview.resolve() in file.parents
        if file in written or (previewed and file.match("step-*.png")):
            raise UserError(f"{file} is read for this picture, so it is not written over: write elsewhere.")
    from mezzotint.cli.drawing import draw, open_model, warn

    opened = open_model(request.model, path, options.device, options.dtype, request=request)
    opened.pipe.check(request)
    previews = folders(options.preview, targets)
    warnings = warn(opened.pipe, requests)
    sheet: Sheet | None = None
    drawn: list[Request] = []
    for picture, target in zip(draw(opened.pipe, requests, previews), targets, strict=True):
        made_with = opened.made_with()
        provenance = Provenance(
            request=picture.request, weights=opened.checksums.whole, extras=opened.sums, made_with=made_with
        )
        write_picture(picture.image, target, provenance)
        drawn.append(picture.request)
        if options.n > 1:
            sheet = Sheet(options.n, picture.image.size, shrink=True) if sheet is None else sheet
            sheet.add(picture.image)
    if sheet is not None:
        write_plain(sheet.image, options.out)
    seconds = time.perf_counter() - began
    tell(options, targets, drawn[0], seconds, warnings)
    return 0


def read(argv: Sequence[str]) -> tuple[dict[str, Any], Options]:
    """The fields of a request that were given, with a seed in any case, and the options."""
    parser = make_parser("generate", ABOUT)
    parser.add_argument("prompt", help="What to draw, in quotes.")
    defaults = {name: f"the model's own, else {getattr(Request, name)}" for name in ("steps", "guidance", "sampler")}
    without = ("prompt", "width", "height")
    add_flags(parser, Request, without=without, defaults=defaults | {"seed": "drawn by chance"})
    parser.add_argument(
        "--size", type=size, metavar="WxH", help="Pixels; by default the size the model was trained at."
    )
    add_flags(parser, Options)
    given = parsed(parser, argv)
    shape = given.pop("size")
    if shape is not None:
        given["width"], given["height"] = shape
    given.setdefault("seed", int.from_bytes(os.urandom(4), "little"))
    options = {name: given.pop(name) for name in list(given) if name in Options.__dataclass_fields__}
    return given, Options(**options)


def check(request: Request) -> None:
    """Raise UserError where nothing says what to draw, and for a sampler, schedule or guide that there is not.

    A negative prompt, a guide, a classifier or a picture needs no prompt.
    """
    told = (request.negative, request.guide, request.classify, request.image, request.image_prompt, request.hints())
    if not any(told) and not any(character.isalnum() for character in request.prompt):
        raise UserError("The prompt has no word in it: say what to draw, such as 'a red sphere'.")
    from mezzotint.noise.spacing import Spacing
    from mezzotint.sampling.guides import chosen
    from mezzotint.sampling.samplers import sampler_named

    sampler_named(request.sampler).check(request.eta)
    Spacing.parse(request.schedule)
    chosen(request.guide)


def folders(preview: Path | None, targets: Sequence[Path]) -> list[Path]:
    """The folders of previews, made where they are missing: `preview`, or for several pictures one in it for each.

    Raises UserError where one cannot be made.
    """
    if preview is None:
        return []
    made = [preview] if len(targets) == 1 else [preview / target.stem for target in targets]
    for folder in made:
        make_folder(folder)
        check_writable(folder / "step-000.png")
    return made


def names(out: Path, count: int) -> list[Path]:
    """The pictures' files: `out` itself, or for several out-0, out-1, ... with the same end."""
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(count)]


def tell(options: Options, targets: Sequence[Path], request: Request, seconds: float, warnings: Sequence[str]) -> None:
    """Say what was written; `request` is the first picture's."""
    files = [str(target) for target in targets]
    if options.json:
        told: dict[str, Any] = {"files": files, "seed": request.seed, "seconds": round(seconds, 3)}
        if options.n > 1:
            told["sheet"] = str(options.out)
        print(json.dumps(told | {"request": request.to_dict(), "warnings": warnings}))
        return
    if options.n > 1:
        files = [f"{files[0]} to {files[-1]}", f"{options.out} (all of them on a sheet)"]
    seeds = str(request.seed) if options.n == 1 else f"{request.seed} to {request.seed + options.n - 1}"
    print(f"{', '.join(files)}: seed {seeds}, {seconds:.1f} s")
