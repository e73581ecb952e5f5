"""Values that cross folders, and the legend of shapes.

B rows of a batch, L tokens, D width of a token, C channels of a latent, h w its height and width,
H W height and width of the picture in pixels. This file imports no torch, so that the command line starts quickly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

if TYPE_CHECKING:
    from torch import Tensor


KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
    "tuple[str, ...]": tuple,
}
"""What the fields of a request may be."""

UPSCALES = ("auto", "none", "two-pass", "tiles", "dilated")
WEIGHTINGS = ("a1111", "compel", "none")
RESIZES = ("crop", "pad", "stretch")
FILLS = ("original", "colours", "noise")
DEPTHS = ("disparity", "metric")
PICTURES = ("image", "mask", "depth", "silhouette")
"""The fields of a request that name one picture each."""
IN_MEMORY = "memory:"
"""How the name of a picture begins that has no file."""


class UserError(ValueError):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do."""


@dataclass(frozen=True)
class Lora:
    """A LoRA file, and how much of it is put on a model; 0 is nothing and 1 what it was trained for."""

    file: str
    unet: float = 1.0
    """Its weight on the U-Net."""
    text: float = 1.0
    """Its weight on the text encoders."""

    @classmethod
    def parse(cls, text: str) -> Lora:
        """What FILE, FILE:WEIGHT or FILE:UNET:TEXT tells of; numbers at the end are weights and all else is the file.

        Raises UserError where no file is named, and for a weight that is no finite number.
        """
        file, numbers = _without_numbers(text)
        if file.strip() == "":
            raise UserError(f"The LoRA {text!r} names no file: give FILE or FILE:WEIGHT.")
        for weight in numbers:
            if not math.isfinite(weight):
                raise UserError(f"The weight of the LoRA {file} is {weight}; it must be a finite number such as 0.8.")
        return cls(file, *(numbers * 2)[:2]) if numbers else cls(file)

    def __str__(self) -> str:
        """What `parse` reads as this."""
        unet, text = (repr(weight).removesuffix(".0") for weight in (float(self.unet), float(self.text)))
        short = f"{self.file}:{unet}"
        one_is_enough = self.unet == self.text and _without_numbers(short)[0] == self.file
        return short if one_is_enough else f"{short}:{text}"


@dataclass(frozen=True)
class ImagePrompt:
    """A picture to draw after, and how much it counts: 0 is nothing, and 1 as much as it was learned with."""

    MOST_WEIGHT: ClassVar[int] = 100
    """Far beyond any that is of use, and no slip of the keyboard."""
    name: str
    """Its file, or its name in memory."""
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> ImagePrompt:
        """What FILE or FILE:WEIGHT tells of.

        Raises UserError where no file is named, and for a weight below 0 or above MOST_WEIGHT.
        """
        name, numbers = _without_numbers(text, most=1)
        if text.startswith(IN_MEMORY):  # The name holds the picture, and its weight; one number is what it is called.
            name, numbers = text, numbers if text.count(":") > 1 else []
        if name.strip() == "":
            raise UserError(f"The image prompt {text!r} names no file: give FILE or FILE:WEIGHT.")
        weight = numbers[0] if numbers else 1.0
        if not 0 <= weight <= cls.MOST_WEIGHT:
            raise UserError(
                f"The weight of the image prompt {name} is {weight}; it must be from 0 to {cls.MOST_WEIGHT}."
            )
        return cls(name, weight)

    def __str__(self) -> str:
        """What `parse` reads as this."""
        if self.name.startswith(IN_MEMORY):
            return self.name
        plain = self.weight == 1.0 and _without_numbers(self.name, most=1)[1] == []
        return self.name if plain else f"{self.name}:{repr(float(self.weight)).removesuffix('.0')}"


def _without_numbers(text: str, most: int = 2) -> tuple[str, list[float]]:
    """A text without the numbers, so many at most, that end it after colons; and these."""
    numbers: list[float] = []
    while len(numbers) < most:
        head, colon, tail = text.rpartition(":")
        try:
            number = float(tail)
        except ValueError:
            break
        if colon == "":
            break
        text, numbers = head, [number, *numbers]
    return text, numbers


def sides(text: str) -> tuple[int, int, int, int]:
    """Pixels left, top, right and bottom of what "left=64,top=32" tells; sides that are not named have none.

    Raises UserError for another thing.
    """
    names = ("left", "top", "right", "bottom")
    pixels = dict.fromkeys(names, 0)
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in names or not number.isdecimal() or not int(number) <= Request.MAX_SIDE:
            raise UserError(f'The extend is "{text}"; it must be pixels by side, such as left=64,top=32.')
        pixels[name] = int(number)
    return pixels["left"], pixels["top"], pixels["right"], pixels["bottom"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that one picture depends on, beside the weights of the files that it names."""

    prompt: str = ""
    """What to draw."""
    negative: str = ""
    """What to steer away from; the empty text is plain classifier-free guidance."""
    seed: int = 0
    """The picture's own random stream, 0 to 2^63 - 1."""
    steps: int = 20
    """Evaluations of the schedule, 1 to 1000."""
    guidance: float = 5.0
    """Scale of classifier-free guidance; 1 is off, 0 ignores the prompt."""
    guide: tuple[str, ...] = ()
    """What else steers, as NAME or NAME:VALUE, from the inside out (see `mezzotint guides`); may be given several
    times."""
    classify: tuple[str, ...] = ()
    """What the model's classifier shall see, as WORDS:SCALE such as "red sphere:30.0"; may be given several times."""
    sampler: str = "dpmpp-2m"
    """The walk from noise to latent, by name."""
    schedule: str = ""
    """Where the walk's steps are and what noise the model is taken to know, as names joined by + (see `mezzotint
    samplers`); by default the model's own where its sampler is used, else what it was trained for."""
    eta: float | None = None
    """How much fresh noise the walk adds, 0 none and 1 as its paper has it; by default the sampler's own."""
    width: int | None = None
    """Pixels; none means the size the model was trained at."""
    height: int | None = None
    """Pixels; none means the size the model was trained at."""
    image: str = ""
    """A picture to begin from, or to change."""
    strength: float | None = None
    """How much of the picture is drawn anew, 0 none and 1 all of it; by default 0.75, and 1 where there is a mask."""
    mask: str = ""
    """A picture that says where to draw anew: white there, black where all stays to the last bit, grey between."""
    fill: str = "original"
    """What a masked part begins as, at a strength below 1: original, colours (those around it) or noise."""
    only_masked: int | None = None
    """Draw the mask and so many pixels around it alone, as large as the model knows, and put it back."""
    extend: str = ""
    """Draw on beyond the picture's edges, pixels by side: left=64,right=64,top=32,bottom=32."""
    resize: str = "crop"
    """How a picture of another shape is brought to the size: crop, pad or stretch."""
    keep_colours: bool = True
    """Take back what the autoencoder does to the mean colour of the picture, which adds up where one is drawn often."""
    depth: str = ""
    """A depth map to draw on: a picture of 8 or 16 bits, an .exr or a .npy; or auto, or auto:MODEL, to take it from the
    image, by our own estimator or one of transformers."""
    depth_kind: str = "disparity"
    """What large values of the depth map mean: disparity, near (bright in a picture), or metric, far."""
    silhouette: str = ""
    """Where things shall stand: white on black, or one grey for each of them."""
    hint: tuple[str, ...] = ()
    """What else lies on the picture, for models that learned it, as NAME:FILE; may be given several times."""
    image_prompt: tuple[str, ...] = ()
    """A picture to draw after, beside the prompt or in its place, as FILE or FILE:WEIGHT; may be given several
    times."""
    image_adapter: str = ""
    """What reads image prompts: a file of IP-Adapter, with its folder image_encoder beside it; by default the model's
    own."""
    image_guidance: float = 1.5
    """How closely models that change a picture by words keep to it; 1 is off."""
    hint_guidance: float | None = None
    """How closely models that learned hints keep to the mask and the other hints; 1 is off; by default 3 where there is
    a mask, and else 1."""
    upscale: str = "auto"
    """How to keep one scene beyond the size the model was trained at: auto, none, two-pass, tiles or dilated."""
    weighting: str = "a1111"
    """How a prompt's (word:1.3) weighs: a1111, compel, or none, which reads brackets as they stand."""
    exact: bool = False
    """Share no batch with other pictures, so that company changes not a bit of this one."""
    model: str = "still-life"
    """A shipped model's name, a diffusers folder, one file (.safetensors, .ckpt), or OWNER/NAME on the hub."""
    vae: str = ""
    """A file or a folder of another autoencoder to decode with; by default the model's own."""
    loras: tuple[str, ...] = ()
    """A LoRA file, as FILE, FILE:WEIGHT or FILE:UNET:TEXT with one weight for the U-Net and one for the text encoders;
    may be given several times."""
    embeddings: tuple[str, ...] = ()
    """A file of learned words (textual inversion), to use in the prompt; may be given several times."""

    MAX_PROMPT: ClassVar[int] = 4000
    MAX_SIDE: ClassVar[int] = 4096

    def __post_init__(self) -> None:
        """Raise UserError for a value that no model could draw."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            kind = KINDS[str(entry.type)]
            if kind is tuple and isinstance(value, list):  # as in JSON
                value = tuple(cast("list[Any]", value))
                object.__setattr__(self, entry.name, value)
            if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
                raise UserError(f"The {entry.name} is {value!r}; it must be of the type {entry.type}.")
            if kind is tuple and not all(isinstance(item, str) and item.strip() != "" for item in value):
                raise UserError(f"The {entry.name} are {list(value)}; every one must be a text, not an empty one.")
        for name in ("prompt", "negative"):
            if len(getattr(self, name)) > self.MAX_PROMPT:
                length = len(getattr(self, name))
                raise UserError(f"The {name} has {length} characters; the most is {self.MAX_PROMPT}: shorten it.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"The seed is {self.seed}; it must be from 0 to 2^63 - 1.")
        if not 1 <= self.steps <= 1000:
            raise UserError(f"The number of steps is {self.steps}; it must be from 1 to 1000.")
        if not 0.0 <= self.guidance <= 100.0:
            raise UserError(f"The guidance is {self.guidance}; it must be from 0 to 100.")
        if self.eta is not None and not 0.0 <= self.eta <= 10.0:
            raise UserError(f"The eta is {self.eta}; it must be from 0 to 10.")
        choices_of = {
            "upscale": UPSCALES,
            "weighting": WEIGHTINGS,
            "resize": RESIZES,
            "fill": FILLS,
            "depth_kind": DEPTHS,
        }
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise UserError(f'The {name} is "{getattr(self, name)}"; it must be one of {", ".join(choices)}.')
        if self.strength is not None and not 0.0 <= self.strength <= 1.0:
            raise UserError(f"The strength is {self.strength}; it must be from 0 to 1.")
        for name in ("image_guidance", "hint_guidance"):
            scale = getattr(self, name)
            if scale is not None and not 0.0 <= scale <= 100.0:
                raise UserError(f"The {name} is {scale}; it must be from 0 to 100.")
        if self.only_masked is not None and not 0 <= self.only_masked <= self.MAX_SIDE:
            raise UserError(f"The only_masked is {self.only_masked}; it must be from 0 to {self.MAX_SIDE} pixels.")
        self._check_pictures()
        for name in ("width", "height"):
            side = getattr(self, name)
            if side is not None and not 8 <= side <= self.MAX_SIDE:
                raise UserError(f"The {name} is {side}; it must be from 8 to {self.MAX_SIDE} pixels.")
        for lora in self.loras:
            Lora.parse(lora)

    def _check_pictures(self) -> None:
        """Raise UserError for what says something of a picture that is not given."""
        if self.image == "":
            for name in ("mask", "extend", "strength"):
                if getattr(self, name) not in ("", None):
                    raise UserError(f"There is a {name} and no image that it is of: give image too.")
        if self.mask == "" and self.extend == "" and self.only_masked is not None:
            raise UserError("There is an only_masked and no mask: give mask too.")
        sides(self.extend)
        self.hints()
        for text in self.image_prompt:
            ImagePrompt.parse(text)

    def hints(self) -> dict[str, str]:
        """The files of what lies on the picture, by the names of hints. Raises UserError for one named twice."""
        given = [("depth", self.depth), ("silhouette", self.silhouette)]
        for text in self.hint:
            name, colon, file = text.partition(":")
            if colon == "" or name == "" or file == "":
                raise UserError(f'The hint "{text}" names no file: write NAME:FILE.')
            given.append((name, text if file.startswith(IN_MEMORY) else file))  # The name holds the picture.
        files = [(name, file) for name, file in given if file != ""]
        if len(dict(files)) < len(files):
            raise UserError("A hint is given twice: leave one of the files out.")
        return dict(files)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain values, for JSON and for a picture's metadata."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Request:
        """The request that `to_dict` wrote. Raises UserError naming a field that no request has."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"The request has unknown fields: {', '.join(unknown)}.")
        return cls(**values)

    def but(self, **changes: Any) -> Request:
        """The same request with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Words:
    """A text to condition on, and what else of a picture's request some models are told with it."""

    text: str
    """What to draw, or what to steer away from."""
    size: tuple[int, int] | None = None
    """Width and height of the picture in pixels."""
    negative: bool = False
    """Whether it is what to steer away from."""
    weighting: str = "a1111"
    """How brackets in the text weigh: one of WEIGHTINGS."""
    chunks: int | None = None
    """How many times the text encoder's length the tokens are to be, filled up; none means as many as it needs."""


@dataclass(frozen=True)
class Conditioning:
    """tau(y): what the U-Net is told, in slots that any conditioner may fill.

    sequence [B L D] is read by cross-attention, pooled [B P] is added to the time embedding, spatial [B C h w] is
    joined to the latent's channels. pictures [B N T D], the T tokens of each of N pictures, are read by cross-attention
    beside the sequence, as much as their weights [B N] say.
    """

    sequence: Tensor | None = None
    pooled: Tensor | None = None
    spatial: Tensor | None = None
    pictures: Tensor | None = None
    weights: Tensor | None = None

    @property
    def slots(self) -> tuple[Tensor | None, ...]:
        """All of them, in order."""
        return self.sequence, self.pooled, self.spatial, self.pictures, self.weights

    def rows(self) -> list[Conditioning]:
        """Its rows, one by one."""
        count = next(len(slot) for slot in self.slots if slot is not None)
        split = [[None] * count if slot is None else slot.split(1) for slot in self.slots]
        return [Conditioning(*row) for row in zip(*split, strict=True)]

    def at(self, index: Tensor) -> Conditioning:
        """The rows at these places [M], or where these [B] are true."""
        return Conditioning(*(None if slot is None else slot[index.to(slot.device)] for slot in self.slots))

    @classmethod
    def cat(cls, parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of several, side by side; all fill a slot, or none does."""
        import torch

        slots = zip(*(part.slots for part in parts), strict=True)
        filled = ([tensor for tensor in slot if tensor is not None] for slot in slots)
        return cls(*(torch.cat(tensors) if tensors else None for tensors in filled))
