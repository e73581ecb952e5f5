"""`mezzotint train`: from captioned pictures to a model."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mezzotint.cli import BAD_INPUT
from mezzotint.cli.flags import parse
from mezzotint.types import UserError

if TYPE_CHECKING:
    from mezzotint.training.fit import Progress
    from mezzotint.training.recipe import Recipe

ABOUT = (
    "Train one stage of a recipe: vae, clip, unet, decoder, classifier, hints, image_prompt or sight; or all of them "
    "but the last three; assemble puts the model together. "
    "Settings change the recipe: 'unet.fit.images=1000', or for one stage just 'images=1000'."
)
WORTHWHILE = 32
"""Images of a batch that are worth a process of their own."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, on what, and where to."""

    stage: Literal["vae", "clip", "unet", "decoder", "classifier", "hints", "image_prompt", "sight", "assemble", "all"]
    """vae, clip, unet, decoder, classifier, hints, image_prompt, sight, assemble or all."""
    recipe: str
    """debug, still-life-64, still-life-64-bert, still-life-128 or still-life-256."""
    settings: tuple[str, ...] = ()
    """Changes to the recipe, key=value."""
    out: Path | None = None
    """The run's folder; by default runs/RECIPE. A stage finds the stages before it there."""
    data: Path | None = None
    """A folder of pictures with .txt captions beside them; by default what the run learns from, or the still life."""
    start: str | None = None
    """A model to begin from, a shipped model's name or a folder; `all` then fine-tunes its U-Net."""
    resume: bool = False
    """Go on from the run's checkpoints; without it a stage that was begun there is not begun again."""
    device: str | None = None
    """Where to train: cpu, cuda, ...; by default the accelerator if there is one."""
    processes: int | None = None
    """How many processes share the work; by default on a CPU one a core, as far as batches go round, and on a GPU one.
    Where torchrun starts them, it says how many."""
    json: bool = False
    """Print one JSON object at the end: folder, model, seconds."""

    @property
    def folder(self) -> Path:
        """Where the run is."""
        named = {key: value for key, _, value in (setting.partition("=") for setting in self.settings)}
        return Path("runs") / named.get("name", self.recipe) if self.out is None else self.out


def run(argv: Sequence[str]) -> int:
    """Train, in as many processes as that takes; all refuse what one refuses, and the first says why."""
    options = parse(Options, "train", argv, ABOUT, "stage", "recipe", "settings")
    from mezzotint.training import workers

    if "WORLD_SIZE" not in os.environ:
        size = processes(options)
        if size == 1:
            return train(options)
        with workers.company([sys.executable, "-m", "mezzotint", "train", *argv], size):
            return run(argv)
    workers.join()
    try:
        with workers.agreed():
            return train(options)
    except UserError:
        if workers.leads():
            raise
        return BAD_INPUT
    finally:
        workers.leave()


def processes(options: Options) -> int:
    """How many processes train together. Raises UserError for a number that cannot be, or a recipe that is none."""
    if options.processes is not None:
        if options.processes < 1:
            raise UserError(f"--processes is {options.processes}; it must be at least 1.")
        return options.processes
    from mezzotint.store.device import choose_device
    from mezzotint.training.workers import cores

    batch = recipe_for(options).unet.fit.batch
    return min(cores(), max(1, batch // WORTHWHILE)) if choose_device(options.device).type == "cpu" else 1


def train(options: Options) -> int:
    """Train, or take a share in it."""
    from mezzotint.store.device import choose_device
    from mezzotint.store.models import resolve
    from mezzotint.training.run import Run
    from mezzotint.training.stages import carry_out
    from mezzotint.training.workers import leads, own_device

    if options.data is not None and not options.data.is_dir():
        raise UserError(f"{options.data} is no folder: give one with pictures and .txt captions.")
    folder = options.folder
    recipe = recipe_for(options)
    began = time.monotonic()
    with _Line() as line:
        work = Run(
            recipe,
            folder,
            options.recipe,
            pictures_from=options.data,
            start=None if options.start is None else resolve(options.start),
            device=own_device(choose_device(options.device)),
            resume=options.resume,
            report=line.tell,
        )
        made = carry_out(work, options.stage)
    if not leads():
        return 0
    seconds = round(time.monotonic() - began, 1)
    if options.json:
        print(json.dumps({"folder": str(folder), "model": str(made), "seconds": seconds}))
    else:
        print(f"{made}: trained in {seconds} s")
    return 0


def recipe_for(options: Options) -> Recipe:
    """The recipe of the run in its folder, or else the one that is named, with the settings that are given.

    Raises UserError for settings that do not fit it, or that would say of finished stages what they are not.
    """
    from mezzotint.training.recipes import changed, recipe_named
    from mezzotint.training.record import recipe_of

    folder = options.folder
    before = recipe_of(folder, options.recipe, recipe_named(options.recipe), resume=options.resume)
    recipe = changed(before, options.settings, stage="" if options.stage == "all" else options.stage)
    if options.stage == "assemble" and (
        replace(recipe, name=before.name, defaults=before.defaults, hinted=before.hinted) != before
    ):
        raise UserError(
            f"The stages in {folder} were trained with other settings: change name, defaults and hinted alone."
        )
    return recipe


class _Line:
    """A progress line on a terminal; elsewhere a line of text now and then."""

    EVERY = 30.0

    def __enter__(self) -> _Line:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from mezzotint.training.workers import leads

        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not (self._console.is_terminal and leads()),
        )
        self._bars.start()
        self._tasks: dict[str, int] = {}
        self._last = 0.0
        self._mark: dict[str, tuple[float, int]] = {}
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def tell(self, stage: str, progress: Progress) -> None:
        """Show how far a stage is."""
        figures = "  ".join(f"{name} {value:.3g}" for name, value in progress.figures.items())
        since, before = self._mark.setdefault(stage, (progress.seconds, progress.seen))
        speed = (progress.seen - before) / max(progress.seconds - since, 1e-6) if progress.seen > before else 0.0
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=progress.images, speed=0.0, figures="")
        from rich.progress import TaskID

        self._bars.update(TaskID(self._tasks[stage]), completed=progress.seen, speed=speed, figures=figures)
        now = time.monotonic()
        if not self._console.is_terminal and (now - self._last > self.EVERY or progress.seen >= progress.images):
            self._last = now
            print(f"{stage} {progress.seen}/{progress.images}  {speed:.0f} images/s  {figures}", file=sys.stderr)
