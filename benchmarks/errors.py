"""How far a model's clean estimates are from the truth, sigma by sigma, on scenes that it was not trained on.

    python benchmarks/errors.py [--models NAME|FOLDER ...] [--sigmas X ...] [--n N] [--seed N]

Prints the mean of (D(x0 + sigma n, sigma, tau(y)) - x0)^2 over the latents of N scenes with captions: new ones of the
kinds that training sees, the cells of cubes and pyramids among them alone, and scenes of the kinds that are kept out.
Scenes, captions and noise are the same for every model. A lower error at one sigma is a better network there, whatever
sampler and guidance it is drawn with.
"""

from __future__ import annotations

import argparse
import random

import torch
import torch.nn.functional as F
from torch import Tensor

import mezzotint
from mezzotint.pipeline import Pipeline
from mezzotint.world.captions import tell
from mezzotint.world.render import render
from mezzotint.world.scene import SHAPES, random_scenes

EDGED = torch.tensor([SHAPES.index("cube"), SHAPES.index("pyramid")])
BATCH = 64


@torch.no_grad()
def errors(pipe: Pipeline, sigmas: Tensor, n: int, seed: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """The mean error at every sigma, and that of the cells of straight edges."""
    scenes = random_scenes(n, seed, held_out=held_out)
    chooser = random.Random(seed)
    captions = [tell(scene, chooser).text for scene in scenes.describe()]
    edged = torch.isin(scenes.shape, EDGED) & scenes.present
    width, height = pipe.size
    whole, edges, cells = torch.zeros(len(sigmas)), torch.zeros(len(sigmas)), 0.0
    for start in range(0, n, BATCH):
        rows = slice(start, start + BATCH)
        drawn = render(scenes.take(rows), height, width)
        told, x0 = pipe.conditioner(captions[rows]), pipe.codec.encode(drawn.pixels)
        share = F.adaptive_avg_pool2d((drawn.masks * edged[rows, :, None, None]).sum(dim=1), x0.shape[2:])
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + start))
        for k, sigma in enumerate(sigmas):
            error = (pipe.denoiser(x0 + sigma * noise, sigma.expand(len(x0)), told) - x0).square().mean(dim=1)
            whole[k] += error.mean(dim=(1, 2)).sum()
            edges[k] += (error * share).sum()
        cells += float(share.sum())
    return whole / n, edges / cells


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["still-life"])
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.3, 0.6, 1.0, 2.0, 4.0, 10.0])
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--seed", type=int, default=990_003)
    options = parser.parse_args()
    sigmas = torch.tensor(options.sigmas)
    for model in options.models:
        pipe = mezzotint.load(model)
        seen, edges = errors(pipe, sigmas, options.n, options.seed, held_out=False)
        unseen, _ = errors(pipe, sigmas, options.n, options.seed, held_out=True)
        print(f"{model}, n {options.n}\n  sigma   seen   edges   kept out")
        for row in zip(options.sigmas, seen.tolist(), edges.tolist(), unseen.tolist(), strict=True):
            print("  {:<5g} {:.4f}  {:.4f}  {:.4f}".format(*row), flush=True)


if __name__ == "__main__":
    main()
