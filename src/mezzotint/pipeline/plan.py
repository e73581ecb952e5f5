"""A request made whole: checked against a model, and everything its walk needs settled before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from mezzotint.noise.spacing import Spacing
from mezzotint.pipeline.networks import Wanted
from mezzotint.sampling import classify, guides, sizes, two_pass, upscale
from mezzotint.sampling.guidance import Guidance, worse
from mezzotint.sampling.samplers import Sampler, sampler_named
from mezzotint.text.prompt import phases
from mezzotint.types import Request, UserError, Words

if TYPE_CHECKING:
    from mezzotint.pipeline import Pipeline

SPATIAL = {1: "a depth map", 4: "the picture to change", 5: "a picture and the mask of what to fill in"}
"""What the channels are that a U-Net reads beside the latent's, by their number."""


@dataclass(frozen=True)
class Ask:
    """Words that a conditioner is asked about."""

    words: Words
    model: str = ""
    """Whose conditioner: "" is the pipeline's own, else another model's by its name."""
    alone: bool = False
    """Whether nothing may be read in one batch with them, for the sake of the last bit."""


@dataclass(frozen=True)
class Row:
    """What a row of a picture's guidance is told, and who denoises it."""

    phases: tuple[tuple[int, Ask], ...]
    """Each with the step from which on it is told; the first from step 0."""
    wanted: Wanted


@dataclass(frozen=True)
class Plan:
    """A picture to be drawn."""

    index: int
    """Its place among the requests that were asked for together."""
    request: Request
    """With its size and its model settled."""
    sampler: Sampler
    passes: Sequence[two_pass.Pass]
    """One walk, or several beyond the size that the model knows."""
    box: tuple[int, int, int, int]
    """What of the pixels is the picture: left, top, right and bottom."""
    guidance: Guidance
    """This picture's own."""
    rows: Mapping[str, Row]
    """Every row that the guidance may ask for."""
    noise: Tensor | None
    """What to start from in place of the seed's own, [1 C h w]."""

    @property
    def steps(self) -> int:
        """Steps in all."""
        return two_pass.steps(self.passes)

    @property
    def asks(self) -> list[Ask]:
        """All that its rows are told."""
        return [ask for row in self.rows.values() for _, ask in row.phases]


def plan(pipe: Pipeline, index: int, request: Request, noise: Tensor | None = None) -> Plan:
    """The plan of a request for this model.

    Raises UserError for what the model cannot draw or its request cannot mean, before anything is computed.
    """
    beside = pipe.denoiser.unet.config.spatial_channels
    if beside > 0:
        what = SPATIAL.get(beside, f"{beside} channels of something else")
        raise UserError(f"This model draws from words and {what}, which cannot be given yet: choose another.")
    factor = pipe.codec.factor
    width, height = pipe.size if noise is None else (noise.shape[3] * factor, noise.shape[2] * factor)
    width = width if request.width is None else request.width
    height = height if request.height is None else request.height
    request = pipe.named(request.but(width=width, height=height))
    place = sizes.drawn((width, height), factor)
    if noise is not None:
        latent = [pipe.codec.channels, place.size[1] // factor, place.size[0] // factor]
        if list(noise.shape[1:]) != latent:
            have = list(noise.shape[1:])
            raise UserError(f"The noise of a picture has shape {have}; at {width}x{height} this model needs {latent}.")
    sampler = sampler_named(request.sampler)
    sampler.check(request.eta)
    spacing = Spacing.parse(request.schedule)
    schedule = spacing.table(pipe.denoiser.schedule)
    sigmas = spacing.walk(schedule, request.steps, ddim=request.sampler == "ddim")
    way = upscale.way(request.upscale, place.size, pipe.sizes)
    if noise is not None and way in ("two-pass", "tiles"):
        if request.upscale != "auto":
            raise UserError("Noise that is given starts one walk: choose upscale none or dilated.")
        way = "none"
    passes = upscale.passes(way, place.size, pipe.sizes, factor, sigmas, schedule)
    wanted = Wanted(schedule, way, upscale.places(sizes.nearest(place.size, pipe.sizes), factor))
    weights, rows = _rows(pipe, request, wanted, passes[0].steps)
    guidance = guides.guided(request.guide, request.guidance, weights, prediction=schedule.prediction_type)
    guidance = classify.guided(guidance, pipe.classifier, request.classify, pipe.device)
    return Plan(index, request, sampler, passes, place.box, guidance, rows, noise)


def _rows(pipe: Pipeline, request: Request, wanted: Wanted, steps: int) -> tuple[tuple[float, ...], dict[str, Row]]:
    """The weights of the prompts that AND joins, and every row that the guidance may ask for."""
    assert request.width is not None
    assert request.height is not None
    words = Words("", (request.width, request.height), weighting=request.weighting)
    prompts = phases(request.prompt, steps, weighting=request.weighting)
    negatives = phases(request.negative, steps, weighting=request.weighting, negative=True)
    told = {
        f"cond-{number}".removesuffix("-0"): [
            (phase.first_step, replace(words, text=phase.parts[number].text)) for phase in prompts
        ]
        for number in range(len(prompts[0].parts))
    }
    told["uncond"] = [
        (phase.first_step, replace(words, text=phase.parts[0].text, negative=True)) for phase in negatives
    ]
    needs = guides.needs(request.guide)
    networks = ["", *(["perturbed"] if needs.perturbed else []), *(["weak"] if needs.weak is not None else [])]
    rows: dict[str, Row] = {}
    for network in networks:
        model = needs.weak if network == "weak" and needs.weak is not None else ""
        conditioner = pipe.networks.other(model).conditioner if model else pipe.conditioner
        # Rows of one length, so that they lie in one batch.
        chunks = max(conditioner.chunks(each) for row in told.values() for _, each in row)
        denoiser = wanted._replace(perturbed=network == "perturbed", model=model)
        for name, row in told.items():
            asks = tuple((first, Ask(replace(each, chunks=chunks), model, request.exact)) for first, each in row)
            rows[worse(network, name) if network else name] = Row(asks, denoiser)
    return tuple(part.weight for part in prompts[0].parts), rows
