"""Samplers on data whose exact denoiser is known, and on a model.

    python benchmarks/samplers.py order
    python benchmarks/samplers.py variance
    python benchmarks/samplers.py obedience [--model NAME] [-n N] [--steps N ...] [--samplers NAME ...]
                                            [--schedules TEXT ...]

order      how the error falls with the number of steps, without noise: log-log slopes between 32, 64, 128 and 256 steps
variance   mean and variance of what comes out with noise, less the truth, in 80 Karras steps
obedience  the share of pictures that show what was asked for, by sampler, schedule and steps, as lines of JSON
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise

import torch
from torch import Tensor

from mezzotint.noise import NoiseSchedule, Prediction, Spacing, draw_noise
from mezzotint.sampling import SAMPLERS, sample

SHARES, CENTRES = (0.3, 0.7), (-1.0, 0.8)
STEPS = (32, 64, 128, 256)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """The mean of x0 given x [B N] at sigma [B], where x0 is N(0.3, 0.25)."""
    noise = sigma[:, None].double() ** 2
    return ((0.25 * x + noise * 0.3) / (0.25 + noise)).to(x)


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """The same where x0 is one of two Gaussians of variance 0.16."""
    noise = sigma[:, None].double() ** 2
    pairs = list(zip(SHARES, CENTRES, strict=True))
    likely = torch.stack([math.log(share) - (x - centre) ** 2 / (2 * (0.16 + noise)) for share, centre in pairs])
    estimates = torch.stack([(0.16 * x + noise * centre) / (0.16 + noise) for _, centre in pairs])
    return (likely.softmax(0) * estimates).sum(0).to(x)


DATA = {"gaussian": (gaussian, 0.3, 0.25), "mixture": (mixture, 0.26, 0.16 + 0.748 - 0.26**2)}


def levels(kind: str, first: float, last: float, steps: int) -> list[float]:
    """Sigmas from the first to the last, even in the logarithm or in Karras's power."""
    ramp = [step / steps for step in range(steps + 1)]
    if kind == "exponential":
        return [first * (last / first) ** place for place in ramp]
    start, end = first ** (1 / 7), last ** (1 / 7)
    return [(start + place * (end - start)) ** 7 for place in ramp]


def order() -> None:
    """Print a line a sampler and case."""
    noise = draw_noise([0], (300,)).double()
    for name, (denoise, _, _) in DATA.items():
        for first, last in ((10.0, 0.05), (80.0, 0.002), (14.6, 0.03), (3.0, 0.1)):
            finest = sample(denoise, first * noise, levels("exponential", first, last, 4000), sampler="unipc")
            for kind in ("exponential", "karras"):
                for sampler, row in SAMPLERS.items():
                    still = None if row.eta is None else 0.0
                    walks = [levels(kind, first, last, steps) for steps in STEPS]
                    ends = [sample(denoise, first * noise, walk, sampler=sampler, eta=still) for walk in walks]
                    errors = [float((end - finest).abs().mean()) for end in ends]
                    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
                    told = " ".join(f"{slope:5.2f}" for slope in slopes)
                    print(f"{name:<9}{first:>5}{last:>6} {kind:<12}{sampler:<20}{row.order:>2} {told}", flush=True)


def variance() -> None:
    """Print a line a sampler and case."""
    table = NoiseSchedule(rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON)
    walk = Spacing.parse("karras").walk(table, 80)
    for name, (denoise, mean, spread) in DATA.items():
        for sampler, row in SAMPLERS.items():
            if row.stochastic:
                start = math.hypot(1, walk[0]) * draw_noise([1], (100_000,))
                end = sample(denoise, start, walk, sampler=sampler, seed=1).double()
                print(f"{name:<9}{sampler:<20}{float(end.mean()) - mean:8.4f}{float(end.var()) / spread - 1:8.1%}")


def obedience(options: argparse.Namespace) -> None:
    """Print a line of JSON a case."""
    import mezzotint
    from mezzotint.evaluate.judge import load_judge
    from mezzotint.evaluate.obedience import judge_pictures, overall
    from mezzotint.evaluate.prompts import CATEGORIES
    from mezzotint.evaluate.scores import share

    judge, _ = load_judge()
    pipe, n = mezzotint.load(options.model), options.n
    for sampler in options.samplers:
        for schedule in options.schedules:
            for steps in options.steps:
                changes = {"sampler": sampler, "schedule": schedule, "steps": steps}
                scores = {
                    name: share(
                        sum(v.obeyed for v in judge_pictures(pipe, judge, name, n=n, seed=0, changes=changes)), n
                    )
                    for name in CATEGORIES
                }
                print(json.dumps({**changes, "overall": overall(scores), "categories": scores}), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["order", "variance", "obedience"])
    parser.add_argument("--model", default="still-life")
    parser.add_argument("-n", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 20])
    parser.add_argument("--samplers", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--schedules", nargs="*", default=["", "karras", "ays", "sgm-uniform"])
    options = parser.parse_args()
    if options.what == "obedience":
        obedience(options)
    else:
        {"order": order, "variance": variance}[options.what]()


if __name__ == "__main__":
    main()
