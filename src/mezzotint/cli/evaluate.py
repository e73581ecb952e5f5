"""`mezzotint evaluate`: what a model obeys, and the judge that says so."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mezzotint.cli.flags import parse
from mezzotint.types import Request, UserError

if TYPE_CHECKING:
    from mezzotint.evaluate.obedience import Verdict

ABOUT = (
    "obedience: draw prompts of eight categories and let the judge say which pictures show just what was asked for. "
    "vae: send scenes kept out of training through the autoencoder and back. "
    "judge: train the judge anew on real scenes and measure it."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how carefully."""

    what: Literal["obedience", "vae", "judge"]
    """obedience, vae or judge."""
    model: str = Request.model
    """A shipped model's name, or a folder."""
    n: int = 200
    """Pictures a category, or scenes."""
    seed: int = 0
    """Other seeds, other prompts and noise."""
    categories: tuple[str, ...] = ()
    """Only these categories; by default all."""
    steps: int | None = None
    """Steps; by default the model's own."""
    guidance: float | None = None
    """Guidance; by default the model's own."""
    sampler: str | None = None
    """Sampler; by default the model's own."""
    out: Path | None = None
    """A folder for a sheet of every category, CATEGORY.png, and its verdicts, CATEGORY.jsonl; for `judge`, where it is
    written, by default runs/judge."""
    images: int = 50_000
    """Scenes that a new judge is trained on."""
    device: str | None = None
    """Where to compute: cpu, cuda, ...; by default the accelerator if there is one."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        """Raise UserError for numbers that cannot be."""
        if not 1 <= self.n <= 100_000:
            raise UserError(f"The number of pictures is {self.n}; it must be from 1 to 100000.")
        if not self.images >= 1:
            raise UserError(f"The number of scenes is {self.images}; it must be at least 1.")


def run(argv: Sequence[str]) -> int:
    """Measure."""
    options = parse(Options, "evaluate", argv, ABOUT, "what")
    return {"obedience": _obedience, "vae": _vae, "judge": _judge}[options.what](options)


def _obedience(options: Options) -> int:
    from mezzotint.evaluate.prompts import CATEGORIES

    unknown = [name for name in options.categories if name not in CATEGORIES]
    if unknown:
        raise UserError(f"There is no category {unknown[0]!r}: use some of {', '.join(CATEGORIES)}.")
    import mezzotint
    from mezzotint.evaluate.judge import load_judge
    from mezzotint.evaluate.obedience import obedience

    judge, accuracy = load_judge()
    pipe = mezzotint.load(options.model, options.device)
    given = {"steps": options.steps, "guidance": options.guidance, "sampler": options.sampler}
    changes = {name: value for name, value in given.items() if value is not None}
    categories = options.categories or tuple(CATEGORIES)
    album = _Album(options.out)
    result: dict[str, Any] = {"model": options.model, "seed": options.seed, "request": changes}
    for category in categories:
        part = obedience(
            pipe, judge, n=options.n, seed=options.seed, categories=[category], changes=changes, watch=album.add
        )
        result.setdefault("categories", {}).update(part["categories"])
        if not options.json:
            print(_row(category, part["categories"][category]), flush=True)
        album.close(category)
    from mezzotint.evaluate.obedience import overall

    result |= {"overall": overall(result["categories"]), "judge": accuracy}
    if options.json:
        print(json.dumps(result))
        return 0
    if result["overall"] is not None:
        print(f"{'overall':<16}{result['overall']:.3f}  the mean of GenEval's categories asked for")
    print("judge on real scenes: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items()))
    return 0


def _vae(options: Options) -> int:
    import mezzotint
    from mezzotint.evaluate.reconstruction import reconstruction

    pipe = mezzotint.load(options.model, options.device)
    result = reconstruction(pipe.codec, pipe.size[0], n=options.n, seed=options.seed)
    if options.json:
        print(json.dumps({"model": options.model, "seed": options.seed, **result}))
    else:
        reach = f"95% {result['low']:.2f} to {result['high']:.2f}"
        print(f"{result['psnr']:.2f} dB  {reach}  n {result['n']} held-out scenes")
    return 0


def _row(category: str, score: dict[str, Any]) -> str:
    return f"{category:<16}{score['score']:.3f}  95% {score['low']:.3f} to {score['high']:.3f}  n {score['n']}"


class _Album:
    """Keeps pictures and verdicts in a folder, if there is one."""

    MOST = 48

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._verdicts: list[Verdict] = []
        if folder is not None:
            _make(folder)

    def add(self, verdict: Verdict) -> None:
        if self._folder is not None:
            self._verdicts.append(verdict)

    def close(self, category: str) -> None:
        """Write the category's sheet, what failed first, and its verdicts."""
        if self._folder is None:
            return
        from mezzotint.store.png import write_plain
        from mezzotint.world.sheet import tiled

        self._verdicts.sort(key=lambda verdict: verdict.obeyed)
        write_plain(tiled([verdict.image for verdict in self._verdicts[: self.MOST]]), self._folder / f"{category}.png")
        with (self._folder / f"{category}.jsonl").open("w", encoding="utf-8") as file:
            for verdict in self._verdicts:
                told = {"prompt": verdict.task.prompt, "seed": verdict.request.seed, "obeyed": verdict.obeyed}
                file.write(json.dumps(told | {"found": [asdict(one) for one in verdict.found]}) + "\n")
        self._verdicts.clear()


def _make(folder: Path) -> None:
    """Make a folder to write to. Raises UserError where that cannot be, before any long work."""
    from mezzotint.store.beside import check_writable

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made a folder: {error.strerror or error}.") from error
    check_writable(folder / "config.json")


def _judge(options: Options) -> int:
    import torch

    from mezzotint.evaluate.judge import Judge, JudgeTask, save_judge
    from mezzotint.training.fit import Progress, channels_last, fit
    from mezzotint.training.fit_config import FitConfig

    def tell(progress: Progress) -> None:
        if progress.seen % 1600 == 0:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
            print(f"judge {progress.seen}/{progress.images}  {figures}", file=sys.stderr, flush=True)

    torch.manual_seed(0)
    judge = channels_last(Judge())
    config = FitConfig(images=options.images, batch=32, lr=2e-3, warmup=1000, ema=0, fall=0.6, weight_decay=0.02)
    target = Path("runs/judge") if options.out is None else options.out
    _make(target)
    with tempfile.TemporaryDirectory() as checkpoints:
        fit(JudgeTask(judge, options.images), config, Path(checkpoints), report=tell)
    measured = save_judge(judge, target)
    if options.json:
        print(json.dumps({"folder": str(target), "accuracy": measured}))
    else:
        print(f"{target}: " + ", ".join(f"{name} {value:.1%}" for name, value in measured.items()))
    return 0
