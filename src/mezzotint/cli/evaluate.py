"""`mezzotint evaluate`: what a model obeys, and the judge that says so."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mezzotint.cli.flags import parse
from mezzotint.cli.progress import ProgressLine
from mezzotint.types import Request, UserError

if TYPE_CHECKING:
    from mezzotint.evaluate.obedience import Verdict

ABOUT = (
    "obedience: draw prompts of eight categories and let the judge say which pictures show just what was asked for. "
    "vae: send scenes kept out of training through the autoencoder and back. "
    "judge: train the judge anew on real scenes and measure it."
)
FLAGS = {
    "obedience": ("model", "n", "seed", "categories", "steps", "guidance", "sampler", "out", "device"),
    "vae": ("model", "n", "seed", "device"),
    "judge": ("out", "images"),
}
"""What each use reads, beside --json."""
DEFAULT_N, DEFAULT_IMAGES = 200, 50_000
EVERY = 30.0
"""Seconds between lines of progress where nobody watches."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how carefully."""

    what: Literal["obedience", "vae", "judge"]
    """obedience, vae or judge."""
    model: str | None = None
    """A model, as generate takes it; by default still-life. (obedience, vae)"""
    n: int | None = None
    """Pictures a category, or scenes; by default 200. (obedience, vae)"""
    seed: int | None = None
    """Other seeds, other prompts and noise, or scenes; by default 0. (obedience, vae)"""
    categories: tuple[str, ...] = ()
    """Only these categories; by default all. (obedience)"""
    steps: int | None = None
    """Steps; by default the model's own. (obedience)"""
    guidance: float | None = None
    """Guidance; by default the model's own. (obedience)"""
    sampler: str | None = None
    """Sampler; by default the model's own. (obedience)"""
    out: Path | None = None
    """A folder for a sheet of every category, CATEGORY.png, and its verdicts, CATEGORY.jsonl (obedience); for judge,
    where it is written, by default runs/judge."""
    images: int | None = None
    """Scenes that a new judge is trained on; by default 50000. (judge)"""
    device: str | None = None
    """Where to compute: cpu, cuda, ...; by default the accelerator if there is one. (obedience, vae)"""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        """Raise UserError for numbers that cannot be, and for a flag that has no meaning here."""
        if self.n is not None and not 1 <= self.n <= 100_000:
            raise UserError(f"The number of pictures is {self.n}; it must be from 1 to 100000.")
        if self.images is not None and not self.images >= 1:
            raise UserError(f"The number of scenes is {self.images}; it must be at least 1.")
        for entry in fields(self):
            users = [use for use, names in FLAGS.items() if entry.name in names]
            if users and self.what not in users and getattr(self, entry.name) not in (None, ()):
                told = " and ".join(users)
                raise UserError(f"--{entry.name} is for {told}, and {self.what} does not read it: leave it out.")

    @property
    def used(self) -> tuple[str, int, int]:
        """Model, number and seed, given or by default."""
        return (
            Request.model if self.model is None else self.model,
            DEFAULT_N if self.n is None else self.n,
            0 if self.seed is None else self.seed,
        )


def run(argv: Sequence[str]) -> int:
    """Measure."""
    options = parse(Options, "evaluate", argv, ABOUT, "what")
    return {"obedience": _obedience, "vae": _vae, "judge": _judge}[options.what](options)


def _obedience(options: Options) -> int:
    from mezzotint.evaluate.prompts import CATEGORIES
    from mezzotint.sampling.samplers import sampler_named
    from mezzotint.store.facts import read_facts
    from mezzotint.store.models import resolve

    unknown = [name for name in options.categories if name not in CATEGORIES]
    if unknown:
        raise UserError(f"There is no category {unknown[0]!r}: use some of {', '.join(CATEGORIES)}.")
    model, n, seed = options.used
    given = {"steps": options.steps, "guidance": options.guidance, "sampler": options.sampler}
    changes = {name: value for name, value in given.items() if value is not None}
    sampler_named(read_facts(resolve(model)).request(**changes).sampler)

    import mezzotint
    from mezzotint.evaluate.judge import load_judge
    from mezzotint.evaluate.obedience import obedience, overall

    judge, accuracy = load_judge()
    pipe = mezzotint.load(model, options.device)
    pipe.check(pipe.request("", **changes))
    scores: dict[str, dict[str, Any]] = {}
    album = _Album(options.out)
    with _made(options.out), ProgressLine(EVERY) as line:
        for category in options.categories or tuple(CATEGORIES):
            done = 0

            def watch(verdict: Verdict, category: str = category) -> None:
                nonlocal done
                done += 1
                line.tell(done, n, f"{category} {done} of {n}")
                album.add(verdict)

            part = obedience(pipe, judge, n=n, seed=seed, categories=[category], changes=changes, watch=watch)
            scores |= part["categories"]
            line.wipe()
            if not options.json:
                print(_row(category, scores[category]), flush=True)
            album.close(category)
    mean = overall(scores)
    if options.json:
        told = {"model": model, "seed": seed, "request": changes, "categories": scores, "overall": mean}
        print(json.dumps(told | {"judge": accuracy}))
        return 0
    if mean is not None:
        print(f"{'overall':<16}{mean:.3f}  the mean of GenEval's categories asked for")
    print("judge on real scenes: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items()))
    return 0


def _vae(options: Options) -> int:
    import mezzotint
    from mezzotint.evaluate.reconstruction import reconstruction

    model, n, seed = options.used
    pipe = mezzotint.load(model, options.device)
    with ProgressLine(EVERY) as line:
        result = reconstruction(
            pipe.codec, pipe.size[0], n=n, seed=seed, watch=lambda done: line.tell(done, n, f"scene {done} of {n}")
        )
    if options.json:
        print(json.dumps({"model": model, "seed": seed, **result}))
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

    def add(self, verdict: Verdict) -> None:
        if self._folder is not None:
            self._verdicts.append(verdict)

    def close(self, category: str) -> None:
        """Write the category's sheet, what failed first, and its verdicts."""
        if self._folder is None:
            return
        from mezzotint.store.beside import file_beside
        from mezzotint.store.png import write_plain
        from mezzotint.world.sheet import tiled

        self._verdicts.sort(key=lambda verdict: verdict.obeyed)
        write_plain(tiled([verdict.image for verdict in self._verdicts[: self.MOST]]), self._folder / f"{category}.png")
        lines = [
            {
                "prompt": verdict.task.prompt,
                "seed": verdict.request.seed,
                "obeyed": verdict.obeyed,
                "found": [asdict(one) for one in verdict.found],
            }
            for verdict in self._verdicts
        ]
        with file_beside(self._folder / f"{category}.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._verdicts.clear()


@contextmanager
def _made(folder: Path | None) -> Generator[None]:
    """Make a folder to write to, if there is one; if nothing is written there it and those made above it are removed.

    Raises UserError where it cannot be made or written to, before any long work.
    """
    from mezzotint.store.beside import check_writable

    if folder is None:
        yield
        return
    new: list[Path] = []
    try:
        try:
            new = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made a folder: {error.strerror or error}.") from error
        check_writable(folder / "config.json")
        yield
    finally:
        with suppress(OSError):  # What holds something stays.
            for place in new:
                place.rmdir()


def _judge(options: Options) -> int:
    import torch

    from mezzotint.evaluate.judge import Judge, JudgeTask, save_judge
    from mezzotint.training.fit import Progress, channels_last, fit
    from mezzotint.training.fit_config import FitConfig

    images = DEFAULT_IMAGES if options.images is None else options.images
    torch.manual_seed(0)
    judge = channels_last(Judge())
    config = FitConfig(images=images, batch=32, lr=2e-3, warmup=1000, ema=0, fall=0.6, weight_decay=0.02)
    target = Path("runs/judge") if options.out is None else options.out
    with _made(target), tempfile.TemporaryDirectory() as checkpoints, ProgressLine(EVERY) as line:

        def tell(progress: Progress) -> None:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
            line.tell(progress.seen, progress.images, f"judge {progress.seen} of {progress.images}  {figures}")

        fit(JudgeTask(judge, images), config, Path(checkpoints), report=tell)
        line.wipe()
        measured = save_judge(judge, target)
    if options.json:
        print(json.dumps({"folder": str(target), "accuracy": measured}))
    else:
        print(f"{target}: " + ", ".join(f"{name} {value:.1%}" for name, value in measured.items()))
    return 0
