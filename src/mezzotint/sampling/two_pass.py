"""A walk in passes: draw at the size the model knows, enlarge what is finished, add noise again, and finish larger.

Beyond its trained size a U-Net repeats the scene, because what it settles at high noise, where things are, it settles
by receptive fields that no longer see the whole. So this is settled at the trained size. The enlarged latent z is
taken back to x = z + sigma * n, as picture to picture does (Meng et al. 2021, SDEdit, arXiv 2108.01073), and the same
sampler walks from that sigma on, which is where details are drawn. What a smaller latent can tell, the coarse part, is
kept from z in every estimate, as Choi et al. 2021 (ILVR, arXiv 2108.02938, equation 8) keep that of a picture to draw
like: only what the smaller size has no room for is new.

All passes are one coroutine of a sampler's kind, whose queries change their shape between passes, and every pass draws
from the picture's one stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from mezzotint.sampling.samplers import Noise, Walk

Shape = tuple[int, ...]
Begin = Callable[[Tensor, Sequence[float], Noise], Walk]
"""What begins a walk: `Sampler.walk`, or it with its options filled in."""
Enlarge = Callable[[Tensor, tuple[int, int]], Tensor]
"""A clean latent [1 C h w] and a size (H, W) -> a clean latent [1 C H W]."""


@dataclass(frozen=True)
class Pass:
    """One walk among several."""

    size: tuple[int, int]
    """Height and width of its latents."""
    sigmas: tuple[float, ...]
    """Where it steps."""

    @property
    def steps(self) -> int:
        """Its steps."""
        return len(self.sigmas) - 1


def tail(sigmas: Sequence[float], start: float) -> tuple[float, ...]:
    """The walk that begins at the sigma `start` and goes on where `sigmas` does below it.

    A step of less than a tenth of its sigma is left out. It has one step at least, and all of `sigmas` where `start`
    is above them. Raises ValueError where `start` is not above the last of them.
    """
    if start <= sigmas[-1]:
        raise ValueError(f"a walk cannot begin at {start} and end at {sigmas[-1]}")
    if start >= sigmas[0]:
        return tuple(sigmas)
    return (start, *(sigma for sigma in sigmas[1:-1] if sigma < 0.9 * start), sigmas[-1])


def plan(native: tuple[int, int], size: tuple[int, int], sigmas: Sequence[float], start: float) -> list[Pass]:
    """The passes from latents of the size `native` to those of `size`, both (h, w); the second begins at `start`."""
    first = Pass(native, tuple(sigmas))
    return [first] if size == native else [first, Pass(size, tail(sigmas, start))]


def steps(passes: Sequence[Pass]) -> int:
    """Steps in all."""
    return sum(each.steps for each in passes)


def walk(
    begin: Begin,
    x: Tensor,
    passes: Sequence[Pass],
    noise: Callable[[Shape], Tensor],
    *,
    enlarge: Enlarge,
) -> Walk:
    """Walk through the passes, from x [1 C h w] of the first one's size and noise, to a latent of the last one's size.

    `noise(shape)` gives fresh noise of unit variance where x is; steps count on from pass to pass.
    """
    latent = yield from _part(begin(x, passes[0].sigmas, _of(noise, x)), 0)
    done = 0
    for before, after in pairwise(passes):
        done += before.steps
        # A walk that ends above sigma 0 ends with x0 + sigma * n, whose variance is more than 1.
        known = enlarge(latent / math.hypot(1.0, before.sigmas[-1]), after.size)
        x = known + after.sigmas[0] * noise(tuple(known.shape))
        mend = partial(keep, known=known, size=before.size)
        latent = yield from _part(begin(x, after.sigmas, _of(noise, x)), done, mend)
    return latent


def keep(x0: Tensor, known: Tensor, size: tuple[int, int]) -> Tensor:
    """The estimate x0 [1 C H W] with the coarse part of `known` [1 C H W]: what latents of `size` (h, w) can tell."""
    missing = F.interpolate(known.to(x0) - x0, size=size, mode="area")
    return x0 + F.interpolate(missing, size=x0.shape[2:], mode="bicubic")


def _of(noise: Callable[[Shape], Tensor], x: Tensor) -> Noise:
    """Noise as a sampler asks for it, of the shape of x."""
    shape = tuple(x.shape)
    return lambda: noise(shape)


def _part(walk: Walk, done: int, mend: Callable[[Tensor], Tensor] = lambda x0: x0) -> Walk:
    """The walk, its steps counted from `done` on, with every estimate mended before it is sent."""
    try:
        query = next(walk)
        while True:
            query = walk.send(mend((yield query._replace(step=done + query.step))))
    except StopIteration as end:
        return end.value
