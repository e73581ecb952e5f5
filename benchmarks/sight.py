"""Sight against the truth, on scenes kept out of training.

    python benchmarks/sight.py [--n N] [--seed N]

Prints, as means over the scenes, the rank correlation of disparities over all pixels and the intersection over union
of what solids cover.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from mezzotint.store.sight import load_sight
from mezzotint.world.render import render
from mezzotint.world.scene import random_scenes


def ranks(values: Tensor) -> Tensor:
    """Ranks of every row's values [B N], centred and of unit length."""
    order = values.argsort(dim=1).argsort(dim=1).double()
    return torch.nn.functional.normalize(order - order.mean(dim=1, keepdim=True), dim=1)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=990_002)
    options = parser.parse_args()
    drawn = render(random_scenes(options.n, options.seed, held_out=True), 128)
    seen = load_sight().see(drawn.pixels)
    near = (ranks(seen.disparity.flatten(1)) * ranks(1 / drawn.depth.flatten(1))).sum(dim=1)
    found, there = seen.solid[:, 0] > 0.5, drawn.masks.sum(dim=1) > 0.5
    overlap = (found & there).flatten(1).sum(dim=1) / (found | there).flatten(1).sum(dim=1)
    print(f"rank correlation {near.mean():.4f} (least {near.min():.4f}), IoU {overlap.mean():.4f} (n {options.n})")


if __name__ == "__main__":
    main()
