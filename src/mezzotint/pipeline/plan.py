"""A request made whole: checked against a model, and everything its walk needs settled before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.noise.spacing import Spacing
from mezzotint.pipeline import edit as edits
from mezzotint.pipeline import start
from mezzotint.pipeline.edit import Edit
from mezzotint.pipeline.networks import Wanted
from mezzotint.sampling import classify, guides, sizes, two_pass, upscale
from mezzotint.sampling.guidance import Guidance, worse
from mezzotint.sampling.known import begun
from mezzotint.sampling.samplers import Sampler, sampler_named
from mezzotint.text.prompt import phases
from mezzotint.types import Request, UserError, Words

if TYPE_CHECKING:
    from mezzotint.pipeline import Pipeline


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
    schedule: NoiseSchedule
    """The table that it reckons by."""
    passes: Sequence[two_pass.Pass]
    """One walk, or several beyond the size that the model knows."""
    edit: Edit
    """Its pictures, and how what is drawn becomes the one that is asked for."""
    layout: start.Layout
    """What its U-Net reads beside the latent."""
    anew: bool
    """Whether it begins from noise alone."""
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
    layout = start.layout(pipe, request)
    pictured = bool(request.image_prompt)
    if pictured and pipe.image_prompts is None:
        raise UserError(
            "This model reads no image prompts: give image_adapter, a file of IP-Adapter made for it, or put what it "
            "reads them by beside its folder NAME, in NAME-image-prompt."
        )
    factor = pipe.codec.factor
    native = pipe.size if noise is None else (noise.shape[3] * factor, noise.shape[2] * factor)
    edit = edits.read(request, native, pipe.sizes, factor, settled=noise is not None)
    spatial = start.spatial_guidance(request, layout)
    if layout.learned:  # A picture carries what it depends on.
        request = request.but(hint_guidance=spatial)
    elif request.hint_guidance is not None:
        raise UserError(
            "There is a hint_guidance, and nothing that this model has learned as a hint: leave it out, or give a "
            "mask, a map or a shape that the model reads."
        )
    request = pipe.named(request.but(width=edit.size[0], height=edit.size[1]))
    size = edit.drawn.size
    if noise is not None:
        latent = [pipe.codec.channels, size[1] // factor, size[0] // factor]
        if list(noise.shape[1:]) != latent:
            have = list(noise.shape[1:])
            told = f"{edit.size[0]}x{edit.size[1]}"
            raise UserError(f"The noise of a picture has shape {have}; at {told} this model needs {latent}.")
    sampler = sampler_named(request.sampler)
    sampler.check(request.eta)
    spacing = Spacing.parse(request.schedule)
    schedule = spacing.table(pipe.denoiser.schedule)
    sigmas = spacing.walk(schedule, request.steps, ddim=request.sampler == "ddim")
    strength = start.strength(request, layout)
    sigmas = begun(sigmas, strength)
    way = upscale.way(request.upscale, size, pipe.sizes)
    if noise is not None and way in ("two-pass", "tiles"):
        if request.upscale != "auto":
            raise UserError("Noise that is given starts one walk: choose upscale none or dilated.")
        way = "none"
    passes = upscale.passes(way, size, pipe.sizes, factor, sigmas, schedule)
    trained = upscale.places(sizes.nearest(size, pipe.sizes), factor)
    wanted = Wanted(schedule, way, trained, hinted=layout.learned, pictured=pictured)
    weights, rows = _rows(pipe, request, wanted, passes[0].steps)
    prediction = schedule.prediction_type
    guidance = guides.guided(request.guide, request.guidance, weights, prediction=prediction, spatial=spatial)
    guidance = classify.guided(guidance, pipe.classifier, request.classify, pipe.device)
    if spatial != 1.0:  # No U-Net that learned hints was ever told none of them: the one without says what comes then.
        rows = {**rows, "blank": Row(rows["uncond"].phases, wanted._replace(hinted=False))}
    return Plan(index, request, sampler, schedule, passes, edit, layout, strength == 1.0, guidance, rows, noise)


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
        own = wanted if model == "" else wanted._replace(hinted=False, pictured=False)  # That knows nothing of either.
        denoiser = own._replace(perturbed=network == "perturbed", model=model)
        for name, row in told.items():
            asks = tuple((first, Ask(replace(each, chunks=chunks), model, request.exact)) for first, each in row)
            rows[worse(network, name) if network else name] = Row(asks, denoiser)
    return tuple(part.weight for part in prompts[0].parts), rows
