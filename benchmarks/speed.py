"""Speed beside diffusers, on the same weights and steps: cold from process start to PNG, and warm in one process.

    python benchmarks/speed.py [--model NAME|FOLDER] [--rounds N] [--steps N] [--json FILE]

The two take turns, so that whatever else the machine does falls on both; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROMPT = "a red sphere to the left of a blue cube"
THEIR_SCRIPT = """
import sys
from diffusers import StableDiffusionPipeline
model, prompt, steps, out = sys.argv[1:]
StableDiffusionPipeline.from_pretrained(model)(prompt, num_inference_steps=int(steps)).images[0].save(out)
"""
Run = Callable[[], None]


def timed(run: Run) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def in_turns(name: str, ours: Run, theirs: Run, rounds: int) -> dict[str, Any]:
    """Medians of both, after one round that is not counted."""
    ours(), theirs()
    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    mine, its = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{name:<6} mezzotint {mine:6.2f} s   diffusers {its:6.2f} s   ratio {mine / its:.2f}", flush=True)
    return {"mezzotint": mine, "diffusers": its, "ratio": mine / its, "pairs": pairs}


def cold(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """From process start to a PNG on disk: our command against the shortest script of theirs."""
    program = Path(sys.executable).with_name("mezzotint")
    with tempfile.TemporaryDirectory() as place:
        script, out = Path(place) / "theirs.py", Path(place) / "out.png"
        script.write_text(THEIR_SCRIPT, encoding="utf-8")
        mine = [program, "generate", PROMPT, "-o", out, "--model", folder, "--steps", str(steps), "--device", "cpu"]
        its = [sys.executable, script, folder, PROMPT, str(steps), out]
        return in_turns("cold", lambda: run_quietly(mine), lambda: run_quietly(its), rounds)


def run_quietly(command: Sequence[str | Path]) -> None:
    """Run a program to its end; what it says is heard only if it fails."""
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)


def warm(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """One picture in a process that has drawn before."""
    import diffusers

    import mezzotint

    diffusers.logging.set_verbosity_error()
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    ours = mezzotint.load(folder, device="cpu")
    guidance = ours.request(PROMPT).guidance
    width, height = ours.size

    def mine() -> None:
        ours(PROMPT, seed=0, steps=steps, sampler="ddim")

    def its() -> None:
        theirs(PROMPT, num_inference_steps=steps, guidance_scale=guidance, width=width, height=height)

    return in_turns("warm", mine, its, rounds)


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="still-life")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"The number of rounds is {options.rounds}; it must be 1 or more.")
    if importlib.util.find_spec("diffusers") is None:
        parser.error("diffusers, which this is measured beside, is not here: make test installs it.")
    from mezzotint.store.models import resolve

    folder = resolve(options.model)
    print(f"{folder.name}, {options.steps} steps, {os.cpu_count()} cores, {platform.machine()}", flush=True)
    result = {
        "cold": cold(folder, options.steps, options.rounds),
        "warm": warm(folder, options.steps, options.rounds),
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
