"""Text and the picture's size together, as SDXL is told them (Podell et al. 2023, arXiv:2307.01952).

Tokens of several text encoders stand side by side (section 2.1). What the last encoder says of the whole text is joined
by sinusoids of a few numbers about the picture (section 2.2): B rows, K numbers, E values for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mezzotint.conditioning.text import AnyTokenizer, TextConditioner
from mezzotint.layers import sinusoid
from mezzotint.types import Conditioning, UserError, Words

UNCROPPED = (0.0, 0.0)
"""Where the picture's top left corner was in what it was cut from: a picture shown whole."""
SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""How beautiful, of 10, the refiner is told that a picture is, and that what it is steered away from is."""


@dataclass(frozen=True, kw_only=True)
class SizeNumbers:
    """The numbers about a picture that SDXL is told, and how they are embedded."""

    count: int
    """K. 6: height and width before cropping, top and left of the crop, height and width. 5, as for the refiner: a
    score in the place of the last two.
    """
    dim: int
    """E, diffusers' addition_time_embed_dim."""
    flip_sin_to_cos: bool = True
    """Whether cosines come first."""
    freq_shift: float = 0
    """Makes the slowest wave slower or faster."""

    def __post_init__(self) -> None:
        """Raise UserError for a count that no known model has."""
        if self.count not in (5, 6):
            raise UserError(f"The U-Net reads {self.count} numbers about a picture's size; only 5 and 6 are known.")

    def of(self, words: Words) -> tuple[float, ...]:
        """The K numbers of a picture drawn whole at its size. Raises ValueError where no size is told."""
        if words.size is None:
            raise ValueError("This model is told the picture's size: give Words with a size in place of a text.")
        width, height = float(words.size[0]), float(words.size[1])
        score = NEGATIVE_SCORE if words.negative else SCORE
        return (height, width, *UNCROPPED, *((height, width) if self.count == 6 else (score,)))

    def embed(self, asked: Sequence[Words]) -> Tensor:
        """Their sinusoids [B K*E], in 32 bits on the CPU. Raises ValueError as `of`."""
        numbers = torch.tensor([self.of(words) for words in asked], dtype=torch.float32).reshape(-1, self.count)
        return sinusoid(numbers, self.dim, self.flip_sin_to_cos, self.freq_shift).flatten(1)


def projected_width(text: TextConditioner) -> int:
    """Width P of what a text encoder says of a whole text. Raises UserError where it has no projection."""
    if text.pooled_width is None:
        raise UserError("The model's last text encoder has no projection, which the U-Net reads: get it again.")
    return text.pooled_width


class SizedConditioner:
    """Text encoders side by side, and what their model is told of the picture's size."""

    def __init__(
        self, texts: Sequence[TextConditioner], numbers: SizeNumbers, *, zero_empty_negative: bool = False
    ) -> None:
        """`zero_empty_negative`: whether an empty negative is zeros and not what the encoders say of the empty text.

        Raises UserError for encoders that do not go together, or where the last has no projection.
        """
        if len({text.tokenizer.length for text in texts}) != 1:
            lengths = ", ".join(str(text.tokenizer.length) for text in texts)
            raise UserError(f"The model's tokenizers have the lengths {lengths}: they must be equal.")
        self._projected = projected_width(texts[-1])
        self.texts = tuple(texts)
        self.numbers = numbers
        self.zero_empty_negative = zero_empty_negative

    @property
    def tokenizer(self) -> AnyTokenizer:
        """The first one."""
        return self.texts[0].tokenizer

    @property
    def width(self) -> int:
        """Width D of a token, those of all encoders together."""
        return sum(text.width for text in self.texts)

    @property
    def pooled_width(self) -> int:
        """Width of `pooled`: the projected text, then the embedded numbers."""
        return self._projected + self.numbers.count * self.numbers.dim

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SizedConditioner:
        """Move every text encoder, in place."""
        for text in self.texts:
            text.to(device, dtype)
        return self

    def chunks(self, words: str | Words) -> int:
        """How many chunks a text takes, as TextConditioner.chunks: the most that one of the encoders needs."""
        return max(text.chunks(words) for text in self.texts)

    def __call__(self, asked: Sequence[str | Words]) -> Conditioning:
        """The conditioning of B texts for pictures of the sizes that are told with them, on the encoders' device.

        sequence [B n*L D], pooled [B P + K*E], n as in TextConditioner. Raises ValueError where no size is told.
        """
        words = [Words(one) if isinstance(one, str) else one for one in asked]
        count = max((self.chunks(one) for one in words), default=1)
        told = [text([replace(one, chunks=count) for one in words]) for text in self.texts]
        sequence = torch.cat([row.sequence for row in told if row.sequence is not None], dim=2)
        projected = told[-1].pooled
        assert projected is not None
        if self.zero_empty_negative:
            kept = torch.tensor([not (one.negative and one.text == "") for one in words], device=sequence.device)
            sequence, projected = sequence * kept[:, None, None], projected * kept[:, None]
        numbers = self.numbers.embed(words).to(projected.device)
        return Conditioning(sequence=sequence, pooled=torch.cat([projected.float(), numbers], dim=1))
