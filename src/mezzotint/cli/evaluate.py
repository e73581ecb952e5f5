"""`mezzotint evaluate`: what a model obeys, and the judge that says so."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from mezzotint.cli.album import Album, made
from mezzotint.cli.flags import parse
from mezzotint.cli.progress import ProgressLine
from mezzotint.types import Request, UserError

ABOUT = (
    "obedience: draw prompts of ten categories and let the judge say which pictures show just what was asked for; "
    "or, with --conditioner, draw from masks, depth maps, silhouettes and pictures of scenes kept out of training. "
    "vae: send scenes kept out of training through the autoencoder and back. "
    "judge: train the judge anew on real scenes and measure it."
)
FLAGS = {
    "obedience": (
        "model",
        "n",
        "seed",
        "categories",
        "conditioner",
        "steps",
        "guidance",
        "sampler",
        "schedule",
        "guide",
        "hint_guidance",
        "out",
        "device",
    ),
    "vae": ("model", "n", "seed", "device"),
    "judge": ("out", "images"),
}
"""What each use reads, beside --json."""
DEFAULT_N, DEFAULT_IMAGES = 200, 50_000
MAX_SEED = 10**9
ALL = "all"
"""Every conditioner that the model reads."""
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
    conditioner: tuple[str, ...] = ()
    """In place of categories, what is given beside words: image, inpaint, depth, silhouette, image-prompt, another hint
    by its name, or all that the model reads. (obedience)"""
    steps: int | None = None
    """Steps; by default the model's own. (obedience)"""
    guidance: float | None = None
    """Guidance; by default the model's own. (obedience)"""
    sampler: str | None = None
    """Sampler; by default the model's own. (obedience)"""
    schedule: str | None = None
    """Schedule; by default the model's own. (obedience)"""
    guide: tuple[str, ...] = ()
    """What else steers (see `mezzotint guides`), once for each; by default the model's own. (obedience)"""
    hint_guidance: float | None = None
    """How closely hints are kept to; by default as generate does. (obedience)"""
    out: Path | None = None
    """A folder for a sheet of every category or conditioner, NAME.png, and its verdicts, NAME.jsonl (obedience); for
    judge, where it is written, by default runs/judge."""
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
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"The seed is {self.seed}; it must be from 0 to {MAX_SEED}.")
        if self.categories and self.conditioner:
            raise UserError("Categories are measured by words alone: give --categories or --conditioner.")
        for entry in fields(self):
            users = [use for use, names in FLAGS.items() if entry.name in names]
            if users and self.what not in users and getattr(self, entry.name) not in (None, ()):
                flag, told = entry.name.replace("_", "-"), " and ".join(users)
                raise UserError(f"--{flag} is for {told}, and {self.what} does not read it: leave it out.")

    @property
    def used(self) -> tuple[str, int, int]:
        """Model, number and seed, given or by default."""
        return (
            Request.model if self.model is None else self.model,
            DEFAULT_N if self.n is None else self.n,
            0 if self.seed is None else self.seed,
        )

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of requests that stand in for the model's own."""
        names = ("steps", "guidance", "sampler", "schedule", "guide", "hint_guidance")
        return {name: getattr(self, name) for name in names if getattr(self, name) not in (None, ())}


def run(argv: Sequence[str]) -> int:
    """Measure."""
    options = parse(Options, "evaluate", argv, ABOUT, "what")
    obedience = _conditioned if options.conditioner else _obedience
    return {"obedience": obedience, "vae": _vae, "judge": _judge}[options.what](options)


def _obedience(options: Options) -> int:
    from mezzotint.evaluate.prompts import CATEGORIES
    from mezzotint.sampling.samplers import sampler_named
    from mezzotint.store.facts import read_facts
    from mezzotint.store.models import resolve

    unknown = [name for name in options.categories if name not in CATEGORIES]
    if unknown:
        raise UserError(f"There is no category {unknown[0]!r}: use some of {', '.join(CATEGORIES)}.")
    model, n, seed = options.used
    sampler_named(read_facts(resolve(model)).request(**options.changes).sampler)

    import mezzotint
    from mezzotint.evaluate.judge import load_judge
    from mezzotint.evaluate.obedience import judge_pictures, overall
    from mezzotint.evaluate.scores import Score, share

    changes = options.changes
    judge, accuracy = load_judge()
    pipe = mezzotint.load(model, options.device)
    pipe.check(pipe.request("", **changes))
    scores: dict[str, Score] = {}
    album = Album(options.out)
    with made(options.out), ProgressLine(EVERY) as line:
        for category in options.categories or tuple(CATEGORIES):
            right = 0
            for done, verdict in enumerate(judge_pictures(pipe, judge, category, n=n, seed=seed, changes=changes), 1):
                line.tell(done, n, f"{category} {done} of {n}")
                right += verdict.obeyed
                told = {
                    "prompt": verdict.task.prompt,
                    "seed": verdict.request.seed,
                    "obeyed": verdict.obeyed,
                    "found": [asdict(one) for one in verdict.found],
                }
                album.add([verdict.image], told, verdict.obeyed)
            scores[category] = share(right, n)
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
    print(_trust(accuracy))
    return 0


def _conditioned(options: Options) -> int:
    from mezzotint.evaluate import conditioners
    from mezzotint.evaluate.conditioners import check, kind_of, lines, measured

    every = conditioners.names()
    unknown = [name for name in options.conditioner if name not in (*every, ALL)]
    if unknown:
        raise UserError(f"There is no conditioner {unknown[0]!r}: use some of {', '.join(every)}, or {ALL}.")
    model, n, seed = options.used

    import mezzotint
    from mezzotint.evaluate.cases import Row, Studio
    from mezzotint.evaluate.judge import load_judge
    from mezzotint.store.sight import load_sight

    judge, accuracy = load_judge()
    studio = Studio(mezzotint.load(model, options.device), judge, load_sight(), seed, options.changes)
    left_out: dict[str, str] = {}
    names = every if ALL in options.conditioner else tuple(dict.fromkeys(options.conditioner))
    for name in names:
        try:
            check(studio, name)
        except UserError as error:
            if name in options.conditioner:
                raise
            left_out[name] = str(error)
    told: dict[str, dict[str, Any]] = {}
    album = Album(options.out)
    with made(options.out), ProgressLine(EVERY) as line:
        for name in [name for name in names if name not in left_out]:
            done, total = 0, n * kind_of(name).pictures

            def drawn(name: str = name, total: int = total) -> None:
                nonlocal done
                done += 1
                line.tell(done, total, f"{name} {done} of {total}")

            def watch(row: Row) -> None:
                figures = {measure: round(figure.value, 4) for measure, figure in row.figures.items()}
                about = {"prompt": row.case.prompt, "seed": row.request.seed, "figures": figures}
                pictures = [*row.case.shown, *row.drawn]
                album.add(pictures, about | {"found": [asdict(one) for one in row.found]}, row.worth)

            studio.drawn = drawn
            told[name] = measured(studio, name, n, watch)
            line.wipe()
            if not options.json:
                for label, score in lines(told[name]):
                    real = f"  real {score['real']:.3f}" if "real" in score else ""
                    print(f"{_row(f'{name} {label}', score, 28)}{real}", flush=True)
                for measure, rises in told[name].get("monotone", {}).items():
                    print(
                        f"{f'{name} {measure}':<28}{'never falls' if rises else 'FALLS'} as strength grows", flush=True
                    )
            album.close(name)
    if options.json:
        about = {"model": model, "seed": seed, "request": options.changes, "conditioners": told, "left_out": left_out}
        print(json.dumps(about | {"judge": accuracy}))
        return 0
    for name, why in left_out.items():
        print(f"{name:<28}left out: {why}")
    print(_trust(accuracy))
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


def _row(name: str, score: dict[str, Any], width: int = 16) -> str:
    return f"{name:<{width}}{score['score']:.3f}  95% {score['low']:.3f} to {score['high']:.3f}  n {score['n']}"


def _trust(accuracy: dict[str, Any]) -> str:
    return "judge on real scenes: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items())


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
    with made(target), tempfile.TemporaryDirectory() as checkpoints, ProgressLine(EVERY) as line:

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
