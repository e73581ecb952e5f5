"""What the verbs that draw share: opening a model with no time lost, and drawing with a line of progress."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.cli.progress import ProgressLine
from mezzotint.types import Request, UserError

if TYPE_CHECKING:
    from mezzotint.pipeline import Picture, Pipeline
    from mezzotint.store.checksum import Checksums, ExtraSums, FileSum


PREVIEW_TIMES = 4
"""Pixels along a side that a preview has for every place of the latent."""


@dataclass(frozen=True)
class Opened:
    """A model ready to draw, the sums of its files, and whether it is in the precision that they store."""

    pipe: Pipeline
    checksums: Checksums
    extra_sums: ExtraSums
    as_stored: bool

    @property
    def sums(self) -> dict[str, FileSum]:
        """The sums of the files beside the model, by path."""
        return self.extra_sums.sums

    def made_with(self) -> dict[str, Any]:
        """What a picture's bits depend on beside its request and the model's files: `store.png.MADE_WITH`."""
        import torch

        from mezzotint import __version__
        from mezzotint.store.device import hardware

        return {
            "mezzotint": __version__,
            "torch": torch.__version__,
            "device": str(self.pipe.device),
            "hardware": hardware(self.pipe.device),
            "dtype": str(self.pipe.denoiser.unet.dtype).removeprefix("torch."),
            "as_stored": self.as_stored,
            "threads": torch.get_num_threads(),
        }


def open_model(
    model: str,
    path: Path,
    device: str | None,
    dtype: str | None,
    threads: int | None = None,
    request: Request | None = None,
) -> Opened:
    """Load the model at `path`, which is called `model`, and put on it what a `request` names beside it.

    Files that are missing, cut short or of another kind are told before torch is imported. They are summed in a thread
    while it is, and what is imported is not searched for garbage. `threads` is how many work on a CPU; none leaves that
    to torch. Raises UserError for what cannot be loaded.
    """
    from mezzotint.store.checksum import Checksums, ExtraSums
    from mezzotint.store.extras import Extras, text_width
    from mezzotint.store.layout import model_headers

    extras = Extras() if request is None else Extras.of(request)
    extras.check(text_width(path))
    model_headers(path, dtype)
    files = [] if request is None else [*steering_files(request, path), *picture_files(request)]
    checksums, extra_sums = Checksums(path, dtype), ExtraSums([*extras.files(), *files])
    gc.disable()
    from mezzotint import load

    try:
        with warnings.catch_warnings(record=True) as told:
            pipe = load(model, device, dtype, **extras.fields, checksums=checksums)
    finally:
        gc.enable()
    gc.freeze()
    for entry in told:
        print(f"mezzotint: warning: {entry.message}", file=sys.stderr)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return Opened(pipe, checksums, extra_sums, as_stored=dtype is None and pipe.device.type != "cpu")


def steering_files(request: Request, path: Path) -> list[Path]:
    """The weights that steer a request's picture beside those of its model at `path`: a classifier's, a worse model's.

    Raises UserError for a worse model that is not there.
    """
    from mezzotint.sampling.guides import needs
    from mezzotint.store.classifier import classifier_files
    from mezzotint.store.hints import hints_files
    from mezzotint.store.image_prompt import image_prompts_in
    from mezzotint.store.layout import all_model_files
    from mezzotint.store.models import resolve

    weak = needs(request.guide).weak
    classifier = classifier_files(path) if request.classify and path.is_dir() else []
    hinted = hints_files(path) if path.is_dir() and uses_hints(request) else []
    prompts = image_prompts_in(path, {}) if request.image_prompt and request.image_adapter == "" else None
    pictured = [] if prompts is None else prompts.files
    own = [file for file in (*classifier, *hinted, *pictured) if file.is_file()]
    return [*own, *([] if weak is None else all_model_files(resolve(weak)))]


def uses_hints(request: Request) -> bool:
    """Whether a request gives a model something that lies beside the latent."""
    return bool(request.hints() or request.mask or request.extend)


def picture_files(request: Request) -> list[Path]:
    """The pictures that a request names, by full names. Raises UserError for one that is not there."""
    from mezzotint.store.pictures import check_there, picture_names

    names = picture_names(request)
    for name in names:
        check_there(name)
    return [Path(name) for name in names]


def draw(pipe: Pipeline, requests: Sequence[Request], previews: Sequence[Path] = ()) -> Iterator[Picture]:
    """The pictures, each as soon as it is drawn; `previews` are folders, one a picture, for a small one at every step.

    Each is drawn alone: company would change it by rounding, and it is to come out again to the last bit. Raises
    UserError for a request that this model cannot draw, and where memory does not suffice.
    """
    from mezzotint.store.png import write_plain

    for number, request in enumerate(requests):
        which = f"picture {number + 1} of {len(requests)}, " if len(requests) > 1 else ""
        with enough_memory(request), ProgressLine() as line:
            for move in pipe.steps(request):
                line.tell(move.step, move.steps, f"{which}step {move.step} of {move.steps}")
                if previews:
                    (small,) = pipe.preview(move.estimate, times=PREVIEW_TIMES)
                    write_plain(small, previews[number] / f"step-{move.step:03d}.png")
                if move.picture is not None:
                    yield move.picture


def warn(pipe: Pipeline, requests: Sequence[Request]) -> list[str]:
    """Say on stderr, once each, what the user should know of requests that can be drawn; returns the sentences."""
    told = unread(pipe, requests[0])
    for message in told:
        print(f"mezzotint: warning: {message}", file=sys.stderr)
    return told


def unread(pipe: Pipeline, request: Request) -> list[str]:
    """A sentence where none of the learned words that a request brings is in its texts."""
    tokenizer: Any = pipe.conditioner.tokenizer
    words: dict[str, range] = getattr(tokenizer, "words", {}) if request.embeddings else {}
    read = {index for text in (request.prompt, request.negative) for index in tokenizer.ids(text)} if words else set()
    if not words or any(ids.start in read for ids in words.values()):
        return []
    names = ", ".join(words)
    return [f"None of the learned words is in the prompt or the negative, so they change nothing: {names}."]


@contextmanager
def enough_memory(request: Request) -> Generator[None]:
    """Turn torch's error of a picture that does not fit into memory into a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error):
            size = f"{request.width}x{request.height} " if request.width is not None else ""
            raise UserError(f"A picture of this size {size}does not fit into memory: ask for a smaller one.") from error
        raise
