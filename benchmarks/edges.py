"""How far the solids that a model draws are from true ones, shape by shape.

    python benchmarks/edges.py [--models NAME|FOLDER ...] [--n N] [--sigma X] [--guidance G] [--seed N]

N new scenes of kinds that training sees are noised to a sigma, from which solids stay about where they are and their
edges have to be drawn anew, and walked down with all that words can say of them, as the model is drawn. Then the scene
of the same solids is sought that looks most like the picture. Prints decibels between the two around the middle one of
the solids of every shape, so that what is composed wrongly does not count, and of the scenes themselves, which only the
autoencoder and the search change. Scenes and noise are the same for every model.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import mezzotint
from mezzotint.pipeline import Pipeline
from mezzotint.training.data import StillLife
from mezzotint.training.walks import Walker
from mezzotint.world.render import render
from mezzotint.world.scene import SHAPES

BATCH = 64
AROUND = 9
"""Side of the square, in pixels, by which what is around a solid is wider than it."""


def decibels(error: Tensor, shape: Tensor, present: Tensor) -> list[float]:
    """Of the median of squared errors [N 4] of the solids, shape by shape and of all."""
    kinds = [shape == number for number in range(len(SHAPES))]
    return [float(10 * torch.log10(4 / error[present & kind].median())) for kind in (*kinds, present)]


def errors(walker: Walker, pipe: Pipeline, pictures: StillLife, sigma: float, seed: int) -> Tensor:
    """The squared errors around the solids of every scene; a sigma of 0 walks nowhere."""
    found: list[Tensor] = []
    for start in range(0, pictures.count, BATCH):
        place = torch.arange(start, min(start + BATCH, pictures.count))
        chance = torch.Generator().manual_seed(seed + start)
        end = pipe.codec.encode(pictures.pixels(place)).float()
        if sigma > 0:
            _, end = walker.walk(place, sigma, chance, last=0.0)
        scenes, _ = walker.nearest(place, end, chance)
        drawn = render(scenes, pictures.size)
        error = (pipe.codec.decode(end).float().cpu() - drawn.pixels).square().mean(dim=1)
        around = F.max_pool2d(drawn.masks, AROUND, stride=1, padding=AROUND // 2)
        found.append(torch.einsum("bhw,bshw->bs", error, around) / around.sum(dim=(2, 3)).clamp(min=1))
    return torch.cat(found)


@torch.no_grad()
def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["still-life"])
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--sigma", type=float, default=4.0)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--seed", type=int, default=991)
    options = parser.parse_args()
    print(f"n {options.n}, from sigma {options.sigma:g}: dB of", ", ".join(SHAPES), "and all")
    for place, model in enumerate(options.models):
        pipe = mezzotint.load(model)
        request = pipe.request("") if options.guidance is None else pipe.request("", guidance=options.guidance)
        with tempfile.TemporaryDirectory() as folder:
            pictures = StillLife(Path(folder), options.n, pipe.size[0], seed=options.seed)
        walker = Walker(pipe.denoiser, pipe.conditioner, pipe.codec, pictures, request)
        scenes = pictures.scenes
        for name, sigma in ((model, options.sigma), *([("the scenes", 0.0)] if place == 0 else [])):
            error = errors(walker, pipe, pictures, sigma, options.seed)
            figures = decibels(error, scenes.shape, scenes.present)
            print(" ".join(f"{figure:5.1f}" for figure in figures), name, flush=True)


if __name__ == "__main__":
    main()
