"""Sight against the truth, on scenes kept out of training.

    python benchmarks/sight.py [--n N] [--seed N]

Prints, as means over the scenes, the rank correlation of disparities over all pixels and the intersection over union
of what solids cover.
"""

from __future__ import annotations

import argparse

from mezzotint.evaluate.maps import overlap, rank_correlation
from mezzotint.store.sight import load_sight
from mezzotint.world.render import render
from mezzotint.world.scene import random_scenes


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=990_002)
    options = parser.parse_args()
    drawn = render(random_scenes(options.n, options.seed, held_out=True), 128)
    seen = load_sight().see(drawn.pixels)
    near = [rank_correlation(a, b) for a, b in zip(seen.disparity, 1 / drawn.depth, strict=True)]
    covered = [overlap(a, b) for a, b in zip(seen.solid[:, 0] > 0.5, drawn.masks.sum(dim=1) > 0.5, strict=True)]
    mean, solids = sum(near) / options.n, sum(covered) / options.n
    print(f"rank correlation {mean:.4f} (least {min(near):.4f}), IoU {solids:.4f} (n {options.n})")


if __name__ == "__main__":
    main()
