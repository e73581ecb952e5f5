"""Learned words in the pixels of a picture, where AUTOMATIC1111 keeps them for formats without text, such as WebP.

The picture in the middle stands between two black columns. To the left of them are the low four bits of every byte, to
the right the high four, in the low four bits of the pixels; the rest of these shows a pattern. The bytes, row by row
and three to a pixel, are zlib's; behind its end they begin again. The bits are masked by a fixed sequence of numbers.
Source: AUTOMATIC1111/stable-diffusion-webui, modules/textual_inversion/image_embedding.py. Imports numpy late.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

FACTOR, STEP, MODULUS = 1664525, 1013904223, 255
"""x' = FACTOR x + STEP in 32 bits, from 0; the sequence is x modulo MODULUS."""
MOST_BYTES = 2**26
"""Bytes of JSON beyond which a picture is taken for something else."""


def hidden_text(pixels: NDArray[Any]) -> bytes | None:
    """What is hidden in RGB pixels [H W 3] of 8 bits, or none where nothing is. Raises ValueError for damage."""
    import numpy as np

    lit = (pixels > 0).all(axis=2)
    columns, rows = (np.flatnonzero(np.any(lit, axis=axis)) for axis in (0, 1))
    if len(columns) == 0:
        return None
    nibbles = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 15
    black = np.flatnonzero(~nibbles.any(axis=(0, 2)))
    if len(black) < 2:
        return None
    low, high = nibbles[:, : black[0]], nibbles[:, black[-1] + 1 :]
    if low.shape != high.shape or low.size == 0:
        return None
    mask = masks(low.size).reshape(low.shape)
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(((high ^ mask) << 4 | (low ^ mask)).tobytes(), MOST_BYTES)
    except zlib.error:
        return None  # Any picture may have two black columns.
    if not unpacking.eof:
        raise ValueError
    return text


def masks(count: int) -> NDArray[Any]:
    """The first so many masks, of four bits each."""
    return (sequence(count) & 15).astype("uint8")


def sequence(count: int) -> NDArray[Any]:
    """The first so many numbers of the sequence: x_n = STEP (1 + FACTOR + ... + FACTOR^(n - 1))."""
    import numpy as np

    powers = np.full(count, FACTOR, dtype=np.uint32)
    powers[:1] = 1
    powers = np.multiply.accumulate(powers, dtype=np.uint32)
    return np.uint32(STEP) * np.add.accumulate(powers, dtype=np.uint32) % np.uint32(MODULUS)
