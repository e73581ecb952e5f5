"""What a request may ask for to steer by: the table of guides, how they are written, and what is made of them.

A request names guides from the inside out around plain classifier-free guidance, each as NAME or NAME:VALUE:VALUE, such
as ("apg", "interval:0.3:5"). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mezzotint.sampling.around import AwayFrom, Interval, Rescale, Threshold, TowardsSpatial
from mezzotint.sampling.guidance import ClassifierFree, Guidance, PlusPlus, Projected
from mezzotint.types import UserError


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A number that a guide takes."""

    name: str
    default: float
    low: float
    high: float
    """The largest that it may be; `low` and `high` themselves are allowed."""
    about: str


class Place(NamedTuple):
    """Where a guide is put."""

    inner: Guidance
    base: ClassifierFree
    prediction: str


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A row of the table of guides."""

    parameters: tuple[Parameter, ...]
    """In the order in which they are written."""
    about: str
    """One line for a person choosing."""
    paper: str
    make: Callable[[Place, Sequence[float]], Guidance]
    """The guidance, new for every picture, with a value for each parameter."""
    model: bool = False
    """Whether the name of a model is written before the parameters."""
    innermost: bool = False
    """Whether it takes the place of plain guidance, so that it must come first."""
    without: tuple[str, ...] = ()
    """The guides that it makes no sense with."""
    ascending: bool = False
    """Whether its first value must be less than its second."""


def _parameter(name: str, default: float, low: float, high: float, about: str) -> Parameter:
    return Parameter(name=name, default=default, low=low, high=high, about=about)


GUIDES: dict[str, Guide] = {
    "plain": Guide(
        parameters=(),
        about="guidance at one scale all the way; for a model that is drawn with a guide by default",
        paper="Ho and Salimans 2022, arXiv 2207.12598",
        make=lambda at, values: at.inner,
        without=("apg", "cfg++", "interval", "rescale", "threshold", "pag", "auto"),
    ),
    "apg": Guide(
        parameters=(
            _parameter("eta", 0.0, 0.0, 1.0, "how much is kept of what is parallel to the prompt's own estimate"),
            _parameter("threshold", 15.0, 0.0, 10_000.0, "the longest that a difference of estimates may be; 0 is any"),
            _parameter("momentum", -0.5, -1.0, 1.0, "how much of the difference before is added; negative is reverse"),
        ),
        about="high scales without too much colour: guidance without its parallel part",
        paper="Sadat et al. 2024, arXiv 2410.02416",
        make=lambda at, values: Projected(at.base, *values),
        innermost=True,
    ),
    "cfg++": Guide(
        parameters=(_parameter("strength", 0.6, 0.0, 1.0, "the paper's lambda, in the place of the guidance scale"),),
        about="guide the estimate, renoise without guidance; exact with euler and ddim",
        paper="Chung et al. 2024, arXiv 2406.08070",
        make=lambda at, values: PlusPlus(at.base, *values),
        innermost=True,
        without=("rescale", "threshold"),
    ),
    "interval": Guide(
        parameters=(
            _parameter("low", 0.28, 0.0, 1e6, "no guidance at this sigma and below"),
            _parameter("high", 5.42, 0.0, 1e6, "no guidance above this sigma"),
        ),
        about="guidance in the middle of the walk alone; one row elsewhere",
        paper="Kynkäänniemi et al. 2024, arXiv 2404.07724",
        make=lambda at, values: Interval(at.inner, at.base.unguided, *values),
        ascending=True,
    ),
    "rescale": Guide(
        parameters=(_parameter("share", 0.7, 0.0, 1.0, "the paper's phi; 0 is off"),),
        about="what the network says at the contrast that it has without guidance",
        paper="Lin et al. 2023, arXiv 2305.08891, section 3.4",
        make=lambda at, values: Rescale(at.inner, at.base.unguided, values[0], at.prediction),
    ),
    "threshold": Guide(
        parameters=(_parameter("share", 0.995, 0.5, 1.0, "of a picture's values that stay as they are"),),
        about="no value larger than without guidance: Imagen's dynamic thresholding, for latents",
        paper="Saharia et al. 2022, arXiv 2205.11487, section 2.3",
        make=lambda at, values: Threshold(at.inner, at.base.unguided, *values),
    ),
    "pag": Guide(
        parameters=(_parameter("scale", 3.0, 0.0, 100.0, "the paper's s; 0 is off"),),
        about="away from the model without its self-attention; one row more, and helps without a prompt too",
        paper="Ahn et al. 2024, arXiv 2403.17377",
        make=lambda at, values: AwayFrom(at.inner, at.base.unguided, "perturbed", *values),
    ),
    "auto": Guide(
        parameters=(_parameter("scale", 2.0, 0.0, 100.0, "the paper's w; 1 is off"),),
        about="away from a worse model (autoguidance); one row more",
        paper="Karras et al. 2024, arXiv 2406.02507",
        make=lambda at, values: AwayFrom(at.inner, at.base.unguided, "weak", values[0] - 1.0),
        model=True,
    ),
}
"""Every guide by the name that a request carries."""


@dataclass(frozen=True)
class Choice:
    """A guide that a request asks for. Raises UserError for values that it cannot have."""

    name: str
    values: tuple[float, ...] = ()
    """One for each parameter; those left out at the end take their defaults."""
    model: str = ""

    def __post_init__(self) -> None:
        """Check, and fill in the defaults."""
        guide = GUIDES.get(self.name)
        if guide is None:
            raise UserError(f'There is no guide "{self.name}": choose one of {", ".join(GUIDES)}.')
        if guide.model and self.model == "":
            raise UserError(f"The guide {self.name} names no model: write {written(self.name)}.")
        if len(self.values) > len(guide.parameters):
            has = f"{len(self.values)} value{'' if len(self.values) == 1 else 's'}"
            raise UserError(f"The guide {self.name} has {has}: write {written(self.name)}.")
        defaults = (parameter.default for parameter in guide.parameters[len(self.values) :])
        object.__setattr__(self, "values", (*self.values, *defaults))
        for value, parameter in zip(self.values, guide.parameters, strict=True):
            if not parameter.low <= value <= parameter.high:
                reach = f"from {parameter.low:g} to {parameter.high:g}"
                raise UserError(f"The {parameter.name} of the guide {self.name} is {value:g}; it must be {reach}.")
        if guide.ascending and self.values[0] >= self.values[1]:
            low, high = (parameter.name for parameter in guide.parameters)
            told = f"{self.values[0]:g} and {self.values[1]:g}"
            raise UserError(
                f"The {low} and {high} of the guide {self.name} are {told}; {low} must be less than {high}."
            )

    @classmethod
    def parse(cls, text: str) -> Choice:
        """What NAME, NAME:VALUE:VALUE or NAME:MODEL:VALUE asks for; a model's name may hold colons and slashes.

        Raises UserError as the class does, and for a value that is no number.
        """
        name, colon, rest = text.strip().partition(":")
        if name not in GUIDES:
            return cls(name)
        if GUIDES[name].model:
            model, _, last = rest.rpartition(":")
            scale = _number(last)
            # What is a number alone is a scale whose model was forgotten.
            return cls(name, (), rest.strip()) if scale is None else cls(name, (scale,), model.strip())
        values: list[float] = []
        for part in rest.split(":") if colon else ():
            value = _number(part)
            if value is None:
                raise UserError(f'The guide {name} has "{part}" for a number: write {written(name)}.')
            values.append(value)
        return cls(name, tuple(values))

    def __str__(self) -> str:
        """What `parse` reads as this, with every value."""
        return ":".join(
            filter(None, (self.name, self.model, *(repr(value).removesuffix(".0") for value in self.values)))
        )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def written(name: str) -> str:
    """How a guide is written: "plain", or "interval:LOW:HIGH with low from 0 to 1e+06 and ..."."""
    guide = GUIDES[name]
    places = [name, *(["MODEL"] if guide.model else []), *(parameter.name.upper() for parameter in guide.parameters)]
    ranges = [f"{one.name} from {one.low:g} to {one.high:g}" for one in guide.parameters]
    told = " and ".join(filter(None, (", ".join(ranges[:-1]), *ranges[-1:])))
    return ":".join(places) + (f" with {told}" if told else "")


def chosen(texts: Sequence[str]) -> tuple[Choice, ...]:
    """The guides that a request asks for.

    Raises UserError for a guide that there is not or with wrong values, one that is named twice, and ones that make no
    sense together or in this order.
    """
    choices = tuple(Choice.parse(text) for text in texts)
    names = [choice.name for choice in choices]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UserError(f"The guide {name} is named twice: leave one of them out.")
    first = [name for name in names if GUIDES[name].innermost]
    if len(first) > 1:
        raise UserError(
            f"The guides {' and '.join(first)} both take the place of plain guidance: leave one of them out."
        )
    for name in names:
        against = [other for other in GUIDES[name].without if other in names]
        if against:
            raise UserError(f"The guide {name} makes no sense with {' and '.join(against)}: leave one of them out.")
    if first and names[0] != first[0]:
        raise UserError(f"The guide {first[0]} takes the place of plain guidance: name it before {names[0]}.")
    return choices


class Needs(NamedTuple):
    """What guides need beside the model itself."""

    perturbed: bool
    """The U-Net of `denoise.perturbed`, for the rows whose `guidance.source` has the network "perturbed"."""
    weak: str | None
    """The name of another model, for the rows whose `guidance.source` has the network "weak"."""


def needs(texts: Sequence[str]) -> Needs:
    """What a request's guides need beside the model; nothing where their scale is off. Raises UserError as `chosen`."""
    using = {choice.name: choice for choice in chosen(texts)}
    pag, auto = using.get("pag"), using.get("auto")
    return Needs(
        perturbed=pag is not None and pag.values[0] != 0.0,
        weak=auto.model if auto is not None and auto.values[0] != 1.0 else None,
    )


def guided(
    texts: Sequence[str], scale: float, weights: Sequence[float] = (1.0,), *, prediction: str, spatial: float = 1.0
) -> Guidance:
    """The guidance of one picture, new, because some guides remember.

    `texts` are a request's guides, `scale` its guidance, `weights` those of its prompts, `prediction` what the network
    predicts (`noise.parameterisation.Prediction`), which rescale depends on, and `spatial` the scale of what lies
    beside the latent, which goes with that of the words: guides are around both. Raises UserError as `chosen`.
    """
    base = ClassifierFree(scale, tuple(weights))
    guidance: Guidance = base
    choices = chosen(texts)
    inner = [choice for choice in choices if GUIDES[choice.name].innermost]
    for choice in inner:
        guidance = GUIDES[choice.name].make(Place(guidance, base, prediction), choice.values)
    if spatial != 1.0:
        guidance = TowardsSpatial(guidance, spatial)
    for choice in choices[len(inner) :]:
        guidance = GUIDES[choice.name].make(Place(guidance, base, prediction), choice.values)
    return guidance
