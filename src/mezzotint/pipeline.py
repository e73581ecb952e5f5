"""Request -> pictures: the one file that sees all stages.

    prompt --conditioner--> Conditioning ┐
    seed --schedule--> noise, sigmas ----┴--> the loop: denoiser x guidance x sampler --> latent --codec--> picture

A picture depends on its request alone: its noise comes from a generator of its own on the CPU, and pictures drawn side
by side share nothing but the time they take, so company changes them by rounding only.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image
from torch import Tensor

from mezzotint.conditioning.text import Conditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.packing import packed
from mezzotint.noise.generator import generator
from mezzotint.sampling.guidance import ClassifierFree
from mezzotint.sampling.loop import Loop
from mezzotint.sampling.samplers import Sampler, sampler_named
from mezzotint.store.extras import Extras, Loras, Names
from mezzotint.types import Conditioning, PromptWarning, Request, UserError, Words
from mezzotint.vae.codec import Codec, to_uint8

if TYPE_CHECKING:
    from mezzotint.store.attach import Attachments
    from mezzotint.store.folder import Parts

SPATIAL = {1: "a depth map", 4: "the picture to change", 5: "a picture and the mask of what to fill in"}
"""What the channels are that a U-Net reads beside the latent's, by their number."""
MAX_PIXELS = 2**20
"""Pixels that the autoencoder decodes at once, unless one picture has more."""


@dataclass(frozen=True)
class Picture:
    """A finished picture."""

    index: int
    """Its place among the requests that were asked for together."""
    request: Request
    """Everything it depends on, nothing left open: seed, size and model are those that drew it."""
    image: Image.Image
    """RGB; its `info["request"]` is the request too."""


@dataclass(frozen=True)
class Progress:
    """A picture has moved; `pipe.decode(progress.estimate)` shows how it looks so far."""

    index: int
    """Its place among the requests that were asked for together."""
    step: int
    """Steps done."""
    steps: int
    """Steps in all."""
    estimate: Tensor
    """The clean estimate [1 C h w], a latent."""


Report = Callable[[Progress], object]
"""Told of every move; whoever returns False from it cancels that picture."""


class Cancelled(Exception):  # noqa: N818 - it is no error
    """A picture was cancelled, so there is none to return."""


@dataclass(frozen=True)
class _Job:
    """A request, checked and made whole, and what it starts from."""

    index: int
    request: Request
    sampler: Sampler
    sigmas: list[float]
    shape: tuple[int, int, int, int]
    noise: Tensor | None

    @property
    def words(self) -> dict[str, Words]:
        """What each row of its guidance is told."""
        assert self.request.width is not None
        assert self.request.height is not None
        size = (self.request.width, self.request.height)
        return {
            "cond": Words(self.request.prompt, size),
            "uncond": Words(self.request.negative, size, negative=True),
        }


class Pipeline:
    """A text-to-image latent diffusion model, ready to draw.

    pipe("a red cube", seed=7)                      -> a PIL image
    pipe(["a red cube", "a blue ball"], seed=[7, 8]) -> a list of them
    pipe(Request(prompt="a red cube", steps=5))     -> a PIL image; a list of requests -> a list
    """

    def __init__(
        self,
        *,
        conditioner: Conditioner,
        denoiser: Denoiser,
        codec: Codec,
        name: str = "",
        size: tuple[int, int] | None = None,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        max_rows: int = 16,
    ) -> None:
        """Put the stages together.

        `name` is what requests call the model; `size`, width and height in pixels, is that of a picture whose request
        does not say, by default what the U-Net's config says it was trained at; `defaults` are the request's fields
        that this model is best drawn with; `max_rows` bounds the batches of the U-Net, where a picture under guidance
        takes two rows.
        """
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.codec = codec
        self.name = name
        self.size = self._trained_size() if size is None else size
        self.defaults = defaults
        self.max_rows = max_rows
        self.extras = Extras()
        self._attached: Attachments | None = None
        self.before_drawing: Callable[[], object] = lambda: None
        """Called before pictures are drawn: `load` puts off looking through large weights until then."""

    @classmethod
    def of(cls, parts: Parts, name: str = "") -> Pipeline:
        """The pipeline of a model read from disk, by the name that requests shall give it, or else its own.

        On a CPU its U-Net is laid out for pictures of the model's own size; other sizes are drawn too.
        """
        facts = parts.facts
        codec = Codec(parts.vae)
        pipe = cls(
            conditioner=parts.conditioner(),
            denoiser=Denoiser(parts.unet, parts.schedule),
            codec=codec,
            name=facts.name if name == "" else name,
            size=facts.sizes[0] if facts.sizes else None,
            defaults=facts.defaults,
        )
        width, height = pipe.size
        pipe.denoiser.unet = packed(parts.unet, (height // codec.factor, width // codec.factor))
        return pipe

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Pipeline:
        """Move every network, in place. An autoencoder whose config says it overflows in float16 stays in float32."""
        own = () if self._attached is None else (self._attached.own_vae,)
        self.conditioner.to(device=device, dtype=dtype)
        self.denoiser.to(device=device, dtype=dtype)
        for vae in {self.codec.autoencoder, *own}:
            upcast = vae.config.force_upcast and dtype == torch.float16
            vae.to(device=device, dtype=torch.float32 if upcast else dtype)
        return self

    def use(
        self, *, vae: str | Path | None = None, loras: Loras | None = None, embeddings: Names | None = None
    ) -> Pipeline:
        """Draw with these files beside the model from now on; what is not given stays as it is.

        `vae` is a file or folder of another autoencoder, "" the model's own; `loras` are {FILE: WEIGHT}, or as in a
        request; `embeddings` are files of learned words. What is taken off leaves every weight as it was, to the last
        bit. Raises UserError, before anything changes, for a file that is missing, damaged or for another model.
        """
        extras = self.extras.but(vae=vae, loras=loras, embeddings=embeddings)
        if self._attached is None and extras != self.extras:
            from mezzotint.store.attach import Attachments

            self._attached = Attachments(self.denoiser.unet, self.conditioner, self.codec.autoencoder)
        if self._attached is not None:
            self._attached.set(extras)
            self.codec, self.extras = Codec(self._attached.vae), extras
        return self

    def request(self, prompt: str, **given: Any) -> Request:
        """The request for a prompt: what is given, then what this model is best drawn with, then a request's defaults.

        Raises UserError for a value that no request can have.
        """
        values: dict[str, Any] = {**self.defaults, **given, "prompt": prompt}
        return self._named(Request(**values))

    def check(self, request: Request) -> None:
        """Raise UserError for a request that this model cannot draw, as `draw` would."""
        self._job(0, request, None)

    def warnings(self, request: Request) -> list[str]:
        """A sentence for each thing that the request asks for and that is left out: none today, a text is read whole.

        `draw` gives them as Python warnings, of the category `types.PromptWarning`.
        """
        del request
        return []

    @overload
    def __call__(
        self,
        what: str | Request,
        *,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
        progress: Report | None = None,
        **changes: Any,
    ) -> Image.Image: ...
    @overload
    def __call__(
        self,
        what: Sequence[str | Request],
        *,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
        progress: Report | None = None,
        **changes: Any,
    ) -> list[Image.Image]: ...
    def __call__(
        self,
        what: str | Request | Sequence[str | Request],
        *,
        seed: int | Sequence[int] | None = None,
        noise: Tensor | None = None,
        progress: Report | None = None,
        **changes: Any,
    ) -> Image.Image | list[Image.Image]:
        """Draw a prompt or request, or several; `changes` are fields of Request (steps, guidance, negative, ...).

        `seed` is one a picture, or the first's, and the others count up; without it a request keeps its own and a
        prompt takes one by chance. Either way `image.info["request"]` tells it. `noise` [B C h w], of unit variance,
        is what to start from in place of the seeds' own. Raises UserError for what cannot be drawn, and Cancelled
        where `progress` returned False. Warns as `draw` does.
        """
        several = not isinstance(what, str | Request)
        requests = self._requests(list(what) if several else [what], seed, changes)
        pictures = sorted(self._draw(requests, noise, progress), key=lambda picture: picture.index)
        if len(pictures) < len(requests):
            raise Cancelled
        images = [picture.image for picture in pictures]
        return images if several else images[0]

    def draw(
        self, requests: Iterable[Request], *, noise: Tensor | None = None, progress: Report | None = None
    ) -> Iterator[Picture]:
        """Draw requests side by side, yielding each picture when it is finished; cancelled ones never come.

        All requests are checked before the first is drawn; leaving the iterator stops the work. Raises UserError for
        an unknown sampler, more steps than the schedule has, or a size or noise that does not fit the model. Warns
        (PromptWarning) as `warnings` tells.
        """
        return self._draw(list(requests), noise, progress)

    def _draw(self, requests: list[Request], noise: Tensor | None, progress: Report | None) -> Iterator[Picture]:
        """As `draw`; for public methods alone, because warnings are told of their callers."""
        if noise is not None and (noise.ndim != 4 or len(noise) != len(requests)):
            have, want = list(noise.shape), len(requests)
            raise UserError(f"The noise has shape {have}; it must be [B C h w] with B = {want}, one a picture.")
        rows = [None] * len(requests) if noise is None else noise.split(1)
        jobs = [self._job(index, *pair) for index, pair in enumerate(zip(requests, rows, strict=True))]
        for message in dict.fromkeys(message for request in requests for message in self.warnings(request)):
            warnings.warn(message, PromptWarning, stacklevel=3)
        return self._run(deque(jobs), progress)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The RGB pictures of latents [B C h w], decoded as many at once as MAX_PIXELS allows."""
        pixels = latents[0, 0].numel() * self.codec.factor**2
        chunks = latents.split(max(1, MAX_PIXELS // pixels))
        return [Image.fromarray(rgb.numpy()) for chunk in chunks for rgb in to_uint8(self.codec.decode(chunk))]

    def _named(self, request: Request) -> Request:
        """The request with this model's name, where it has one, and those of the files beside it."""
        return self.extras.on(request if self.name == "" else request.but(model=self.name))

    def _trained_size(self) -> tuple[int, int]:
        """Width and height in pixels that the U-Net's config tells of, or the autoencoder's."""
        side, factor = self.denoiser.unet.config.sample_size, self.codec.factor
        if side is None:
            side, factor = self.codec.autoencoder.config.sample_size, 1
        height, width = (side, side) if isinstance(side, int) else side
        return width * factor, height * factor

    def _requests(
        self, whats: Sequence[str | Request], seed: int | Sequence[int] | None, changes: dict[str, Any]
    ) -> list[Request]:
        """What was asked for, as requests with a seed each."""
        if isinstance(seed, Sequence):
            if len(seed) != len(whats):
                raise UserError(f"There are {len(seed)} seeds for {len(whats)} pictures: give one, or one a picture.")
            seeds = list(seed)
        else:
            first = secrets.randbelow(2**32) if seed is None else seed
            seeds = [first + index for index in range(len(whats))]
        requests: list[Request] = []
        for what, own in zip(whats, seeds, strict=True):
            if isinstance(what, str):
                requests.append(self.request(what, seed=own, **changes))
            else:
                requests.append(what.but(**changes) if seed is None else what.but(seed=own, **changes))
        return requests

    def _job(self, index: int, request: Request, noise: Tensor | None) -> _Job:
        """Check a request against the model and settle what it leaves open."""
        factor, channels = self.codec.factor, self.codec.channels
        beside = self.denoiser.unet.config.spatial_channels
        if beside > 0:
            what = SPATIAL.get(beside, f"{beside} channels of something else")
            raise UserError(f"This model draws from words and {what}, which cannot be given yet: choose another.")
        width, height = self.size if noise is None else (noise.shape[3] * factor, noise.shape[2] * factor)
        width = width if request.width is None else request.width
        height = height if request.height is None else request.height
        if width % factor != 0 or height % factor != 0:
            raise UserError(f"The size is {width}x{height}; this model draws multiples of {factor} pixels.")
        shape = (1, channels, height // factor, width // factor)
        if noise is not None and tuple(noise.shape) != shape:
            want, have = list(shape[1:]), list(noise.shape[1:])
            raise UserError(f"The noise of a picture has shape {have}; at {width}x{height} this model needs {want}.")
        settled = self._named(request.but(width=width, height=height))
        sigmas = self.denoiser.schedule.walk(request.steps, ddim=request.sampler == "ddim")
        return _Job(index, settled, sampler_named(request.sampler), sigmas, shape, noise)

    def _run(self, waiting: deque[_Job], progress: Report | None) -> Iterator[Picture]:
        """Drive the loop, letting pictures in as others finish."""
        self.before_drawing()
        loop = Loop(self.denoiser, max_rows=self.max_rows)
        live: dict[int, _Job] = {}
        told: dict[Words, Conditioning] = {}
        while waiting or live:
            room = max(1, self.max_rows // 2) - len(live)
            coming = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            if coming:
                told = self._read([words for job in coming for words in job.words.values()], told)
                live |= {self._add(loop, job, told): job for job in coming}
            finished: list[tuple[_Job, Tensor]] = []
            for event in loop.turn():
                job = live[event.picture]
                move = Progress(job.index, event.step, event.steps, event.estimate)
                cancelled = progress is not None and progress(move) is False
                if cancelled:
                    loop.cancel(event.picture)
                elif event.latent is not None:
                    # What a walk ends with is x0 + sigma * n, and where sigma is not 0 the decoder sees that, scaled.
                    finished.append((job, event.latent / math.hypot(1.0, job.sigmas[-1])))
                if cancelled or event.latent is not None:
                    del live[event.picture]
            yield from self._pictures(finished)

    @torch.inference_mode()
    def _read(self, asked: Sequence[Words], known: Mapping[Words, Conditioning]) -> dict[Words, Conditioning]:
        """One row of conditioning for all that is asked; those already known are the same objects."""
        wanted = dict.fromkeys(asked)
        new = [words for words in wanted if words not in known]
        rows = {**known, **dict(zip(new, self.conditioner(new).rows(), strict=True))} if new else known
        return {words: rows[words] for words in wanted}

    def _add(self, loop: Loop, job: _Job, told: Mapping[Words, Conditioning]) -> int:
        """Start a picture's walk."""
        request, sigma = job.request, job.sigmas[0]
        # Drawn even where noise is given, so that what a stochastic sampler adds later is the same and is fresh.
        stream = generator(request.seed)
        noise = torch.randn(job.shape, generator=stream)
        if job.noise is not None:
            noise = job.noise.detach().to("cpu", torch.float32)
        return loop.add(
            # The deviation of x0 + sigma * n where x0, unknown yet, has unit variance: at sigma 4096 it is sigma.
            x=(math.hypot(1.0, sigma) * noise).to(self.device),
            sigmas=job.sigmas,
            sampler=job.sampler,
            stream=stream,
            guidance=ClassifierFree(request.guidance),
            conditioning={row: told[words] for row, words in job.words.items()},
        )

    def _pictures(self, finished: Sequence[tuple[_Job, Tensor]]) -> Iterator[Picture]:
        """Decode latents, those of one shape together."""
        for shape in dict.fromkeys(job.shape for job, _ in finished):
            jobs = [job for job, _ in finished if job.shape == shape]
            images = self.decode(torch.cat([latent for job, latent in finished if job.shape == shape]))
            for job, image in zip(jobs, images, strict=True):
                image.info["request"] = job.request
                yield Picture(job.index, job.request, image)
