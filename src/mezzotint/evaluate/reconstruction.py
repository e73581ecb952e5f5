"""How much of a picture comes back out of the latent space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from mezzotint.vae.codec import Codec, from_uint8, to_uint8
from mezzotint.world.render import render
from mezzotint.world.scene import random_scenes


@torch.inference_mode()
def reconstruction(
    codec: Codec, size: int, *, n: int = 200, seed: int = 0, watch: Callable[[int], object] = lambda _: None
) -> dict[str, Any]:
    """{"psnr", "low", "high", "n"}: decibels between scenes kept out of training and what becomes of them.

    Both are 8-bit pictures of `size` x `size` pixels; the mean over n scenes, with its 95% interval. `watch` is told
    how many scenes are done.
    """
    scenes = random_scenes(n, 770_000 + seed, held_out=True)
    ratios: list[float] = []
    for start in range(0, n, 32):
        pixels = render(scenes.take(slice(start, start + 32)), size).pixels
        truth = from_uint8(to_uint8(pixels))
        drawn = from_uint8(to_uint8(codec.decode(codec.encode(truth)).float()))
        error = (truth - drawn).square().flatten(1).mean(dim=1).clamp(min=1e-10)
        ratios += (10 * torch.log10(4 / error)).tolist()
        watch(len(ratios))
    mean = sum(ratios) / n
    reach = 1.96 * math.sqrt(sum((ratio - mean) ** 2 for ratio in ratios) / max(n - 1, 1) / n)
    return {"psnr": round(mean, 2), "low": round(mean - reach, 2), "high": round(mean + reach, 2), "n": n}
