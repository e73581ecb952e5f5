"""What a classifier of noisy latents is made of, the words it knows, and what it can be asked. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from mezzotint.types import UserError

CLASS_NAME = "MezzotintClassifier"
SOLIDS = ("object", "thing", "solid")
"""What a solid of any shape is called."""
NUMBERS = (("no", "zero", "0"), ("one", "1"), ("two", "2"), ("three", "3"), ("four", "4"))
"""Words for 0, 1, 2, ... solids."""
ARTICLES = ("a", "an", "some", "any", "the")
"""Words that ask for at least one solid, as no word does."""


@dataclass(frozen=True)
class Target:
    """What a classifier is asked: are there so many solids of this shape and this colour?"""

    shape: int
    """Place among the config's shapes, from 1; 0 is any."""
    colour: int
    """Place among the config's colours, from 1; 0 is any."""
    number: int | None = None
    """Exactly how many; none is at least one."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier's shape and its words. Raises UserError for what cannot be."""

    in_channels: int = 4
    """Of the latents that it reads."""
    widths: tuple[int, ...] = (64, 128)
    """Channels at each resolution, finest first; each next one has half the height and width."""
    blocks: tuple[int, ...] = (1, 3)
    """ResNet blocks at each resolution."""
    heads: int = 4
    """Of the attention between the blocks of the coarsest resolution."""
    norm_num_groups: int = 16
    norm_eps: float = 1e-5
    most: int = 4
    """The most solids of one kind that it counts."""
    shapes: tuple[tuple[str, ...], ...]
    """The shapes it knows: of each its name, then other words for it."""
    colours: tuple[tuple[str, ...], ...]
    """The colours it knows, told as the shapes are."""

    def __post_init__(self) -> None:
        """Check what the weights' shapes, and the meaning of words, depend on."""
        if len(self.widths) == 0 or len(self.blocks) != len(self.widths) or min(self.blocks) < 1:
            raise UserError(
                f"The classifier has the widths {list(self.widths)} and the blocks {list(self.blocks)}; "
                "give equally many, and at least one block each."
            )
        if self.in_channels < 1 or self.heads < 1 or self.norm_num_groups < 1:
            raise UserError("The classifier's in_channels, heads and norm_num_groups must be at least 1.")
        for width in self.widths:
            if width < 2 or width % 2 != 0 or width % self.norm_num_groups != 0 or self.widths[-1] % self.heads != 0:
                raise UserError(
                    f"The classifier's widths are {list(self.widths)}; each must be even and divisible by "
                    f"norm_num_groups, {self.norm_num_groups}, and the last by heads, {self.heads}."
                )
        if not 1 <= self.most < len(NUMBERS):
            raise UserError(f"The classifier counts to {self.most}; it must be from 1 to {len(NUMBERS) - 1}.")
        words = [word for kinds in (self.shapes, self.colours) for kind in kinds for word in kind]
        if len(words) != len(set(words)) or not all(kind for kinds in (self.shapes, self.colours) for kind in kinds):
            raise UserError("The classifier has a shape or a colour without a word, or one word twice: get it again.")

    @property
    def time_embed_dim(self) -> int:
        """Width of the embedded noise level."""
        return 4 * self.widths[0]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassifierConfig:
        """The config that `to_dict` wrote."""
        if values.get("_class_name") != CLASS_NAME:
            raise UserError(f"The classifier is of the class {values.get('_class_name')!r}; {CLASS_NAME} is read here.")
        known = {key: value for key, value in values.items() if not key.startswith("_")}
        return cls(**{key: _tuples(value) for key, value in known.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return {"_class_name": CLASS_NAME, **asdict(self)}

    def target(self, words: str) -> Target:
        """What words such as "red sphere", "spheres", "a blue solid", "two red balls" or "no cube" ask.

        Raises UserError, with the choices, for a word that it does not know or words that say nothing.
        """
        left = words.lower().split()
        number: int | None = None
        if left and left[0] in ARTICLES:
            del left[0]
        elif left and (counted := _counted(left[0])) is not None:
            number = counted
            del left[0]
        colour, left = _taken(self.colours, left)
        shape, left = _taken(self.shapes, left)
        a_solid = len(left) == 1 and shape == 0 and _singular(left[0], SOLIDS) is not None
        left = left[1:] if a_solid else left
        if left or (shape == 0 and colour == 0 and not a_solid):
            raise UserError(
                f"The classifier cannot look for {words!r}: name a colour ({_names(self.colours)}), a shape "
                f"({_names(self.shapes)}) or both, with a number before them if you like."
            )
        if number is not None and number > self.most:
            raise UserError(f"The classifier cannot look for {words!r}: it counts to {self.most}.")
        return Target(shape, colour, number)


def _counted(word: str) -> int | None:
    """The number that a word stands for."""
    return next((number for number, words in enumerate(NUMBERS) if word in words), None)


def _taken(kinds: Sequence[Sequence[str]], words: list[str]) -> tuple[int, list[str]]:
    """The kind, from 1, that the words begin with, and the words after it; 0 and all the words where there is none."""
    for length in range(len(words), 0, -1):
        said = " ".join(words[:length])
        for place, kind in enumerate(kinds):
            if _singular(said, kind) is not None:
                return place + 1, words[length:]
    return 0, words


def _singular(word: str, known: Sequence[str]) -> str | None:
    """The known word of which this is the singular or a plural."""
    return next((one for one in known if word in _forms(one)), None)


def _forms(word: str) -> Iterator[str]:
    yield word
    yield word + "s"
    yield word + "es"
    if word.endswith("us"):
        yield word[:-2] + "i"


def _names(kinds: Sequence[Sequence[str]]) -> str:
    return ", ".join(kind[0] for kind in kinds)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(_tuples(item) for item in cast("list[Any]", value)) if isinstance(value, list) else value
