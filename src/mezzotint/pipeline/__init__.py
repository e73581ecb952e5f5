"""Request -> pictures: the one file that sees all stages.

    prompt --conditioner--> Conditioning ┐
    seed --schedule--> noise, sigmas ----┴--> the loop: denoiser x guidance x sampler --> latent --codec--> picture

A picture depends on its request alone: its noise comes from a generator of its own on the CPU, and pictures drawn side
by side share nothing but the time they take, so company changes them by rounding only.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image
from torch import Tensor

from mezzotint.conditioning.text import Conditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.packing import packed
from mezzotint.pipeline.drawing import Cancelled, Picture, Progress, Report, finished, moves
from mezzotint.pipeline.networks import Networks, Other
from mezzotint.pipeline.plan import plan
from mezzotint.sampling.inversion import ROUNDS
from mezzotint.store.extras import Extras, Loras, Names
from mezzotint.store.facts import preferred
from mezzotint.store.image_prompt import find_image_prompts
from mezzotint.store.memory import held
from mezzotint.store.pictures import located
from mezzotint.types import Request, UserError
from mezzotint.vae.codec import Codec, to_uint8

if TYPE_CHECKING:
    from mezzotint.conditioning.image_prompt import PictureConditioner
    from mezzotint.denoise.picture_layers import PictureLayers
    from mezzotint.denoise.unet import UNet
    from mezzotint.store.attach import Attachments
    from mezzotint.store.classifier import StoredClassifier
    from mezzotint.store.folder import Parts
    from mezzotint.store.hints import StoredHints
    from mezzotint.store.image_prompt import StoredImagePrompts

__all__ = ["Cancelled", "Picture", "Pipeline", "Progress", "Report"]

MAX_PIXELS = 2**20
"""Pixels that the autoencoder decodes at once, unless one picture has more."""


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
        sizes: Sequence[tuple[int, int]] = (),
        defaults: Mapping[str, Any] = MappingProxyType({}),
        hinted: Mapping[str, Any] = MappingProxyType({}),
        classifier: StoredClassifier | None = None,
        hints: StoredHints | None = None,
        image_prompts: StoredImagePrompts | None = None,
        max_rows: int = 16,
    ) -> None:
        """Put the stages together.

        `name` is what requests call the model; `size`, width and height in pixels, is that of a picture whose request
        does not say, by default what the U-Net's config says it was trained at, and `sizes` are all that it was trained
        at; `defaults` are the request's fields that this model is best drawn with, and `hinted` what takes their
        place where something lies beside the latent; `classifier` is what a request's `classify` asks, `hints`
        what is read of pictures that lie beside the latent, and `image_prompts` what reads pictures as prompts;
        `max_rows` bounds the batches of the U-Net, where a picture under guidance takes two rows.
        """
        self.conditioner = conditioner
        self.denoiser = denoiser
        self.codec = codec
        self.name = name
        self.size = self._trained_size() if size is None else size
        self.sizes = tuple(sizes) or (self.size,)
        self.defaults, self.hinted = defaults, hinted
        self.classifier = classifier
        self.hints = hints
        self.image_prompts = self._own_image_prompts = image_prompts
        self.max_rows = max_rows
        self.extras = Extras()
        self._attached: Attachments | None = None
        self.networks = self._networks()
        """The denoisers that rows of its pictures ask for."""
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
            sizes=facts.sizes,
            defaults=facts.defaults,
            hinted=facts.hinted,
            classifier=parts.classifier,
            hints=parts.hints,
            image_prompts=parts.image_prompts,
        )
        pipe.denoiser.unet = pipe._packed(parts.unet)
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
        self.networks = self._networks()
        return self

    def use(
        self,
        *,
        vae: str | Path | None = None,
        loras: Loras | None = None,
        embeddings: Names | None = None,
        image_adapter: str | Path | None = None,
    ) -> Pipeline:
        """Draw with these files beside the model from now on; what is not given stays as it is.

        `vae` is a file or folder of another autoencoder, "" the model's own; `loras` are {FILE: WEIGHT}, or as in a
        request; `embeddings` are files of learned words; `image_adapter` is a file of IP-Adapter, or its folder, "" the
        model's own. What is taken off leaves every weight as it was, to the last
        bit. Raises UserError, before anything changes, for a file that is missing, damaged or for another model.
        """
        extras = self.extras.but(vae=vae, loras=loras, embeddings=embeddings, image_adapter=image_adapter)
        image_prompts = self._own_image_prompts
        if extras.image_adapter != "":
            image_prompts = find_image_prompts(Path(extras.image_adapter))
            image_prompts.layers(self.denoiser.unet)  # Whether it fits is told now.
        if self._attached is None and extras != self.extras:
            from mezzotint.store.attach import Attachments

            self._attached = Attachments(self.denoiser.unet, self.conditioner, self.codec.autoencoder)
        if self._attached is not None:
            self._attached.set(extras)
            self.codec, self.extras, self.image_prompts = Codec(self._attached.vae), extras, image_prompts
            self.networks = self._networks()  # The U-Net that reads hints has weights of its own.
        return self

    def request(self, prompt: str, **given: Any) -> Request:
        """The request for a prompt: what is given, then what this model is best drawn with, then a request's defaults.

        The model's schedule, fresh noise and guides are for its sampler, and left out where another is given.

        Raises UserError for a value that no request can have.
        """
        return self.named(Request(**preferred(self.defaults, self.hinted, held(given)), prompt=prompt))

    def check(self, request: Request) -> None:
        """Raise UserError for a request that this model cannot draw, as `draw` would."""
        plan(self, 0, request)

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
        where `progress` returned False.
        """
        several = not isinstance(what, str | Request)
        requests = self._requests(list(what) if several else [what], seed, changes)
        pictures = sorted(finished(self._moves(requests, noise, progress)), key=lambda picture: picture.index)
        if len(pictures) < len(requests):
            raise Cancelled
        images = [picture.image for picture in pictures]
        return images if several else images[0]

    def draw(
        self, requests: Iterable[Request], *, noise: Tensor | None = None, progress: Report | None = None
    ) -> Iterator[Picture]:
        """Draw requests side by side, yielding each picture when it is finished; cancelled ones never come.

        All requests are checked before the first is drawn; leaving the iterator stops the work. Raises UserError for
        an unknown sampler, more steps than the schedule has, or a size or noise that does not fit the model.
        """
        return finished(self._moves(list(requests), noise, progress))

    def steps(
        self, what: str | Request, *, seed: int | None = None, noise: Tensor | None = None, **changes: Any
    ) -> Iterator[Progress]:
        """Draw one picture, move by move; the last move has the picture, and whoever stops asking stops the work.

        Arguments and errors are those of a call with one picture. `pipe.preview(move.estimate)` shows how it
        looks so far.
        """
        return self._moves(self._requests([what], seed, changes), noise, None)

    def invert(self, image: Image.Image, what: str | Request, *, rounds: int = ROUNDS, **changes: Any) -> Tensor:
        """The noise [1 C h w] from which the walk of `ddim` draws a picture again: DDIM inversion.

        `pipe(what, noise=noise, sampler="ddim", **changes)` is the picture, as near as the autoencoder brings it back.
        The nearer the more `rounds` of correction a step (`sampling.invert`), best at `guidance` 1: under strong
        guidance they do not converge. Raises UserError for sides that are no multiples of 8, and as a call does.
        """
        from mezzotint.pipeline.inverting import inverted

        (request,) = self._requests([what], None, {"sampler": "ddim", **changes})
        return inverted(self, image, request, rounds)

    def _moves(self, requests: list[Request], noise: Tensor | None, progress: Report | None) -> Iterator[Progress]:
        """Every move of all pictures."""
        if noise is not None and (noise.ndim != 4 or len(noise) != len(requests)):
            have, want = list(noise.shape), len(requests)
            raise UserError(f"The noise has shape {have}; it must be [B C h w] with B = {want}, one a picture.")
        rows = [None] * len(requests) if noise is None else noise.split(1)
        plans = [plan(self, index, *pair) for index, pair in enumerate(zip(requests, rows, strict=True))]
        return moves(self, plans, progress)

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, shift: Tensor | None = None) -> list[Image.Image]:
        """The RGB pictures of latents [B C h w], decoded as many at once as MAX_PIXELS allows.

        `shift` [1 3 1 1] is added to the pixels in [-1, 1].
        """
        pixels = latents[0, 0].numel() * self.codec.factor**2
        decoded = (self.codec.decode(chunk) for chunk in latents.split(max(1, MAX_PIXELS // pixels)))
        shifted = (chunk if shift is None else chunk.float() + shift.to(chunk.device) for chunk in decoded)
        return [Image.fromarray(rgb.numpy()) for chunk in shifted for rgb in to_uint8(chunk)]

    @torch.inference_mode()
    def preview(self, latents: Tensor, *, times: int = 1) -> list[Image.Image]:
        """Small RGB pictures of latents [B C h w], `times` pixels along a side of each place: see `vae.preview`."""
        from mezzotint.vae.preview import LatentPreview

        return LatentPreview.of(self.codec)(latents, times=times)

    def named(self, request: Request) -> Request:
        """The request with this model's name, where it has one, and full names of all files that it depends on."""
        request = located(request)
        return self.extras.on(request if self.name == "" else request.but(model=self.name))

    def _other(self, name: str) -> Other:
        """Another model on this one's device, as precise."""
        from mezzotint.store.load import load_parts
        from mezzotint.store.models import resolve

        parts = load_parts(resolve(name), self.device, self.denoiser.unet.dtype)
        return Other(Denoiser(parts.unet, parts.schedule), parts.conditioner())

    def _networks(self) -> Networks:
        """Its denoisers, none of them made yet."""
        self.picture_conditioner = cache(self._picture_conditioner)
        return Networks(
            self.denoiser,
            load=self._other,
            hinted=self._hinted,
            picture_layers=self._picture_layers,
            max_rows=self.max_rows,
        )

    def _picture_layers(self) -> PictureLayers:
        """What reads pictures beside the words."""
        assert self.image_prompts is not None
        with torch.inference_mode(False):
            return self.image_prompts.layers(self.denoiser.unet)

    def _picture_conditioner(self) -> PictureConditioner:
        """What reads pictures as prompts."""
        assert self.image_prompts is not None
        with torch.inference_mode(False):
            return self.image_prompts.conditioner(self.device, self.denoiser.unet.dtype)

    def _hinted(self) -> UNet:
        """The U-Net that reads hints beside the latent."""
        assert self.hints is not None
        with torch.inference_mode(False):
            return self._packed(self.hints.unet(self.denoiser.unet))

    def _packed(self, unet: UNet) -> UNet:
        """A U-Net laid out, on a CPU, for pictures of the model's own size."""
        width, height = self.size
        return packed(unet, (height // self.codec.factor, width // self.codec.factor))

    def _trained_size(self) -> tuple[int, int]:
        """Width and height in pixels that the U-Net's config tells of, or the autoencoder's."""
        side, factor = self.denoiser.unet.config.sample_size, self.codec.factor
        if side is None:
            side, factor = self.codec.autoencoder.config.sample_size, 1
        height, width = (side, side) if isinstance(side, int) else side
        return width * factor, height * factor

    def _requests(
        self, whats: Sequence[object], seed: int | Sequence[int] | None, changes: dict[str, Any]
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
            elif isinstance(what, Request):
                seeded = {} if seed is None else {"seed": own}
                requests.append(what.but(**held(changes) | seeded))
            else:
                raise UserError(f"A {type(what).__name__} cannot be drawn: give a prompt or a Request.")
        return requests
