"""How the weights of words change what a text encoder says of them. N chunks, L tokens, D their width.

a1111 (AUTOMATIC1111's web UI, `EmphasisOriginal`): the tokens z of a chunk times their weights w, then all of them
times one number that gives back the mean of the chunk,

    z' = w z mean(z) / mean(w z).

compel (its EmbeddingsProvider, with the default DownweightMode.MASK): tokens move from those of the empty text e,

    b = e + w (z - e),

and the more a run of words with one weight w_f below 1 is to go, the more of the same from an encoding in which no
other token sees those words, y_f = e + w (z_f - e), is mixed in,

    z' = (b + sum_f t_f y_f) / (1 + sum_f t_f),   t_f = tan((1 - max(w_f, 1e-5)) pi / 2).

Both leave every bit where all weights are 1. What stands for a whole text (`pooled`) is not weighed, in either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NO_MEAN = 1e-4
"""A mean that is this much of the mean size, or less, is rounding, as where a layer norm without bias comes last."""
LEAST = 1e-5
"""The least weight that t is computed of; at 0 it is infinite."""

Read = Callable[[Tensor, Tensor | None], Tensor]
"""The tokens [N L D] of ids [N L], where what is true in [N L] is unseen by the other tokens."""


def scaled(tokens: Tensor, weights: Tensor) -> Tensor:
    """Tokens [N L D] weighed with weights [N L] as a1111 does; where there is no mean, none is given back."""
    exact = tokens.float()
    product = exact * weights[..., None]
    before, after = exact.mean((1, 2)), product.mean((1, 2))
    least = NO_MEAN * exact.abs().mean((1, 2))
    ratio = torch.where((before.abs() > least) & (after.abs() > least), before / after, 1.0)
    return (product * ratio[:, None, None]).to(tokens.dtype)


def interpolated(read: Read, ids: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """The tokens [1 L D] of one chunk's ids [1 L] weighed with weights [L] as compel does.

    `empty` [1 L] are the ids of the empty text.
    """
    runs = lessened(weights.tolist())
    unseen = torch.zeros(len(runs), ids.shape[1], dtype=torch.bool, device=ids.device)
    for row, (start, end, _) in enumerate(runs):
        unseen[row, start:end] = True
    plain = read(torch.cat([ids, empty]), None)
    told = torch.cat([plain[:1], read(ids.expand(len(runs), -1), unseen)]) if runs else plain[:1]
    exact, nothing = told.float(), plain[1:].float()
    kept = (weights == 1)[:, None]
    moved = torch.where(kept, exact, nothing + weights[:, None] * (exact - nothing))
    shares = torch.tensor([1.0, *(lost(weight) for _, _, weight in runs)], dtype=torch.float64)
    shares = (shares / shares.sum()).to(moved)
    return (moved * shares[:, None, None]).sum(0, keepdim=True).to(told.dtype)


def lost(weight: float) -> float:
    """t: how much of the text without words of this weight is mixed in, for each of the text with them."""
    return math.tan((1 - max(LEAST, weight)) * math.pi / 2)


def lessened(weights: Sequence[float]) -> list[tuple[int, int, float]]:
    """The runs of one weight below 1: begin, end and weight."""
    runs: list[tuple[int, int, float]] = []
    for place, weight in enumerate(weights):
        if runs and runs[-1][1:] == (place, weight):
            runs[-1] = (runs[-1][0], place + 1, weight)
        elif weight < 1:
            runs.append((place, place + 1, weight))
    return runs
