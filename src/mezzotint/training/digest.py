"""Short names for what is made once and kept: another name wherever it would be something else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from torch import Tensor


def digest(told: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """A name for what depends on these weights, by their names, and on what is told; 16 hexadecimal digits."""
    known = hashlib.sha256(f"{told}\n".encode())
    for name, tensor in weights:
        known.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
    return known.hexdigest()[:16]
