"""What the verbs that draw share: opening a model with no time lost, and drawing with a line of progress."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.types import Request, UserError

if TYPE_CHECKING:
    from mezzotint.pipeline import Picture, Pipeline, Progress
    from mezzotint.store.checksum import Checksums


@dataclass(frozen=True)
class Opened:
    """A model ready to draw, and the sums of its weights."""

    pipe: Pipeline
    checksums: Checksums

    def made_with(self) -> dict[str, Any]:
        """What a picture's bits depend on beside its request and the weights."""
        import torch

        from mezzotint import __version__

        return {
            "mezzotint": __version__,
            "torch": torch.__version__,
            "device": str(self.pipe.device),
            "dtype": str(self.pipe.denoiser.unet.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }


def open_model(model: str, folder: Path, device: str | None, dtype: str | None, threads: int | None = None) -> Opened:
    """Load the model in `folder`, which is called `model`. Raises UserError for what cannot be loaded.

    Weights that are missing or cut short are told before torch is imported. They are summed in a thread while it is,
    and what is imported is not searched for garbage. `threads` is how many work on a CPU; none leaves that to torch.
    """
    from mezzotint.store.checksum import Checksums
    from mezzotint.store.layout import STEMS, weight_headers

    for part in STEMS:
        weight_headers(folder / part)
    checksums = Checksums(folder)
    gc.disable()
    from mezzotint import load

    try:
        pipe = load(model, device, dtype, checksums=checksums)
    finally:
        gc.enable()
    gc.freeze()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return Opened(pipe, checksums)


def draw(pipe: Pipeline, requests: Sequence[Request]) -> Iterator[Picture]:
    """The pictures, each as soon as it is drawn.

    Each is drawn alone: company would change it by rounding, and it is to come out again to the last bit. Raises
    UserError for a request that this model cannot draw, and where memory does not suffice.
    """
    line = ProgressLine(len(requests))
    for number, request in enumerate(requests):
        with enough_memory(request), line:
            (picture,) = pipe.draw([request], progress=line.of(number))
        yield picture


class ProgressLine:
    """A line on stderr that tells how far the drawing is, only where a person watches."""

    WIDTH = 24

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures
        self.watched = sys.stderr.isatty()

    def of(self, picture: int) -> Callable[[Progress], None]:
        """What shows the moves of the picture with this number, from 0."""
        which = f"picture {picture + 1} of {self.pictures}, " if self.pictures > 1 else ""

        def tell(progress: Progress) -> None:
            if self.watched:
                done = self.WIDTH * progress.step // progress.steps
                bar = "━" * done + "─" * (self.WIDTH - done)
                print(f"\r{bar} {which}step {progress.step} of {progress.steps} ", end="", file=sys.stderr, flush=True)

        return tell

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *error: object) -> None:
        """Wipe the line."""
        if self.watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


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
