"""Loading a model of Stable Diffusion 1.5's size: seconds beside diffusers, and memory beside the model's own size.

    python benchmarks/loading.py [--place FOLDER] [--rounds N] [--cases NAME ...] [--json FILE]

It makes the model once, of random weights, with our own save functions: a diffusers folder in 32 bits and one in 16,
one file in 32 bits and one in 16, and that as a .ckpt; 15 GB, deleted at the end. Every measurement is a process of its
own, after the files were read, so that they stand in the page cache; the two programs take turns, so that whatever
else the machine does falls on both; the first round is not counted, for memory that the machine gives out for the first
time is slow. What is told:

load    seconds of `mezzotint.load(path, "cpu", dtype)`, or of `StableDiffusionPipeline.from_pretrained(path,
        torch_dtype=dtype)`, in a process that has loaded the small shipped model before: without imports
cpu     seconds of processor time in that load, which tell more where other work goes on
cold    the same as load in a fresh process, from its first line, with all imports
peak    how far the resident memory rose above what it was before, at most, during `load` (VmHWM, counted anew, less
        VmRSS before), over the bytes of all parameters as loaded; pages of mapped files that were touched count
inspect seconds of `mezzotint inspect FILE`, from process start to its end
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

READ_AT_ONCE = 2**24
WEIGHTS = (".safetensors", ".ckpt")
PROBE = """
import time
began = time.perf_counter()
import sys, torch
from pathlib import Path
program, path, dtype, first = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]), sys.argv[4]
if program == "mezzotint":
    import mezzotint
    load = lambda path: mezzotint.load(path, "cpu", dtype)
    networks = lambda pipe: [pipe.conditioner.text_model, pipe.denoiser, pipe.codec.autoencoder]
else:
    import diffusers
    diffusers.logging.disable_progress_bar()
    diffusers.logging.set_verbosity_error()
    load = lambda path: diffusers.StableDiffusionPipeline.from_pretrained(path, torch_dtype=dtype)
    networks = lambda pipe: [pipe.text_encoder, pipe.unet, pipe.vae]

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

if first != "":
    load(first)
    began = time.perf_counter()
worked = time.process_time()
Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here.
before = status("VmRSS")
pipe = load(path)
seconds, worked = time.perf_counter() - began, time.process_time() - worked
size = sum(parameter.nbytes for network in networks(pipe) for parameter in network.parameters())
print(seconds, worked, status("VmHWM") - before, size)
"""


@dataclass(frozen=True)
class Case:
    """A model on disk, and the dtype asked for."""

    path: str
    dtype: str

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.path} as {self.dtype}"


FOLDERS = [Case(path, dtype) for path, dtype in product(["folder-fp32", "folder-fp16"], ["float32", "float16"])]
FILES = [
    Case(path, dtype) for path, dtype in product(["fp32.safetensors", "fp16.safetensors"], ["float32", "float16"])
] + [Case("fp16.ckpt", "float32"), Case("fp16.ckpt", "float16")]


def make(place: Path) -> None:
    """Write the model in every form that is not there yet."""
    import torch

    from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
    from mezzotint.denoise.unet import UNet, UNetConfig
    from mezzotint.noise.parameterisation import Prediction
    from mezzotint.noise.schedule import NoiseSchedule
    from mezzotint.store.facts import Facts
    from mezzotint.store.folder import save_folder
    from mezzotint.store.parts import Parts
    from mezzotint.store.single_file import save_file
    from mezzotint.store.source import open_source
    from mezzotint.store.tokenizers import CLIP_SIZE, clip_tokenizer
    from mezzotint.store.weights import Unfilled
    from mezzotint.text.tokenizer import byte_alphabet
    from mezzotint.vae.autoencoder import Autoencoder
    from mezzotint.vae.config import AutoencoderConfig

    pairs = list(product(sorted(byte_alphabet()), repeat=2))  # Merges of no language, as many as CLIP has.
    with Unfilled():
        parts = Parts(
            tokenizer=clip_tokenizer(pairs[: CLIP_SIZE - 2 * 256 - 2]),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                    projection_dim=768,
                )
            ),
            unet=UNet(UNetConfig(sample_size=64, cross_attention_dim=768)),
            vae=Autoencoder(AutoencoderConfig.of_widths(128, 256, 512, 512, layers_per_block=2, sample_size=512)),
            schedule=NoiseSchedule(
                rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON, timestep_spacing="leading"
            ),
            facts=Facts(name="random weights", sizes=((512, 512),)),
        )
    for network in (parts.text_encoder, parts.unet, parts.vae):
        for parameter in network.parameters():
            parameter.data.uniform_(-0.02, 0.02)
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        save_folder(parts, place / f"folder-{name}", dtype=dtype)
        facts = place / f"folder-{name}" / "mezzotint.json"
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"sha256": {}}))  # As in files from elsewhere.
        save_file(parts, place / f"{name}.safetensors", dtype=dtype)
    source = open_source(place / "fp16.safetensors")
    tensors = {name: source.tensor(name) for name in source.entries}
    torch.save({"state_dict": tensors, **source.metadata}, place / "fp16.ckpt")


def in_page_cache(path: Path) -> None:
    """Read the weights once."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.suffix in WEIGHTS]
    for file in files:
        with file.open("rb") as opened:
            while opened.read(READ_AT_ONCE):
                pass


def probe(program: str, path: Path, dtype: str, first: str) -> tuple[float, float, float, float]:
    """Seconds, those of processor time, bytes by which the memory rose, bytes of the model; in a process of its own."""
    in_page_cache(path)
    command = [sys.executable, "-c", PROBE, program, str(path), dtype, first]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr)
    seconds, worked, peak, size = map(float, run.stdout.split())
    return seconds, worked, peak, size


def measured(place: Path, case: Case, rounds: int, small: str) -> dict[str, Any]:
    """All numbers of one case, and a line of them."""
    path = place / case.path
    programs = ["mezzotint", "diffusers"] if path.is_dir() else ["mezzotint"]
    runs: dict[str, dict[str, list[Any]]] = {
        program: {"load": [], "cpu": [], "cold": [], "peak": []} for program in programs
    }
    for number in range(rounds + 1):
        for program in programs:
            seconds, worked, peak, size = probe(program, path, case.dtype, small)
            if number == 0:
                continue
            runs[program]["load"].append(seconds)
            runs[program]["cpu"].append(worked)
            runs[program]["peak"].append(peak / size)
            runs[program]["cold"].append(probe(program, path, case.dtype, "")[0])
    told: dict[str, Any] = {"case": case.name, "bytes": size}
    line = f"{case.name:<28}"
    for program in programs:
        median = {name: statistics.median(values) for name, values in runs[program].items()}
        told[program] = median | {"runs": runs[program]}
        line += f"   {program}: load {median['load']:5.2f} s, cpu {median['cpu']:5.2f} s, "
        line += f"cold {median['cold']:6.2f} s, peak {median['peak']:4.2f}"
    print(line, flush=True)
    return told


def inspected(file: Path, rounds: int) -> dict[str, Any]:
    """Seconds of `mezzotint inspect` on a file."""
    in_page_cache(file)
    command = [sys.executable, "-m", "mezzotint", "inspect", str(file)]
    seconds: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    median, size = statistics.median(seconds[1:]), file.stat().st_size
    print(f"mezzotint inspect {file.name}, {size / 1e9:.2f} GB: {median:.2f} s", flush=True)
    return {"seconds": median, "bytes": size, "runs": seconds[1:]}


def main() -> None:
    """Make the model, measure, print, and delete it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path, default=None, metavar="FOLDER", help="where the model is made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--cases", nargs="*", default=None, metavar="NAME", help="only those whose name has one of these"
    )
    parser.add_argument("--keep", action="store_true", help="leave the model there, and use it if it is")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    from mezzotint.store.models import resolve

    place = Path(tempfile.mkdtemp(dir=options.place)) if not options.keep else options.place or Path("loading-models")
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "fp16.ckpt").exists():
            make(place)
        cores, small = os.cpu_count(), str(resolve("still-life"))
        print(f"Stable Diffusion 1.5's size, {options.rounds} rounds, {cores} cores, {platform.machine()}", flush=True)
        wanted = [
            case
            for case in [*FOLDERS, *FILES]
            if options.cases is None or any(word in case.name for word in options.cases)
        ]
        result = {
            "loading": [measured(place, case, options.rounds, small) for case in wanted],
            "inspect": inspected(place / "fp32.safetensors", options.rounds),
        }
    finally:
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
