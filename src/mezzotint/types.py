"""Values that cross folders, and the legend of shapes.

B rows of a batch, L tokens, D width of a token, C channels of a latent, h w its height and width,
H W height and width of the picture in pixels. This file imports no torch, so that the command line starts quickly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


KINDS: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "int | None": (int, type(None))}
"""What the fields of a request may be."""


class UserError(ValueError):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do."""


class PromptWarning(UserWarning):
    """A picture is drawn, but not from all of its words; the message is one sentence that names those left out."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that one picture depends on, beside the weights of the model that it names."""

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
    sampler: str = "dpmpp-2m"
    """The walk from noise to latent, by name."""
    width: int | None = None
    """Pixels, a multiple of 8; none means the size the model was trained at."""
    height: int | None = None
    """Pixels, a multiple of 8; none means the size the model was trained at."""
    model: str = "still-life"
    """A shipped model's name, a diffusers folder, one file (.safetensors, .ckpt), or OWNER/NAME on the hub."""

    MAX_PROMPT: ClassVar[int] = 4000
    MAX_SIDE: ClassVar[int] = 4096

    def __post_init__(self) -> None:
        """Raise UserError for a value that no model could draw."""
        for entry in fields(self):
            value = getattr(self, entry.name)
            kind = KINDS[str(entry.type)]
            if isinstance(value, bool) or not isinstance(value, kind):
                raise UserError(f"The {entry.name} is {value!r}; it must be of the type {entry.type}.")
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
        for name in ("width", "height"):
            side = getattr(self, name)
            if side is not None and (side % 8 != 0 or not 8 <= side <= self.MAX_SIDE):
                raise UserError(f"The {name} is {side}; it must be a multiple of 8 from 8 to {self.MAX_SIDE} pixels.")

    def to_dict(self) -> dict[str, Any]:
        """The request as plain values, for JSON and for a picture's metadata."""
        return asdict(self)

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


@dataclass(frozen=True)
class Conditioning:
    """tau(y): what the U-Net is told, in three slots that any conditioner may fill.

    sequence [B L D] is read by cross-attention, pooled [B P] is added to the time embedding,
    spatial [B C h w] is joined to the latent's channels.
    """

    sequence: Tensor | None = None
    pooled: Tensor | None = None
    spatial: Tensor | None = None
