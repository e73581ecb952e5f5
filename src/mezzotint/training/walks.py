"""Where a U-Net's own walks lead, and where they should have led.

A U-Net learns from scenes with noise on them. Drawing, it meets what it made itself, which is a little off any scene,
and nobody ever told it to set that right ("exposure bias": Ning et al. 2023, arXiv:2301.11706). So known scenes are
noised and walked down again, guided, as the model is drawn. The truth of every state on the way is the scene nearest to
where the walk ends: the same solids, moved, turned and lit until they look most like it (learning from one's own
states: Ross et al. 2011, arXiv:1011.0686). That has straight edges where the walk bent them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.noise.spacing import Spacing
from mezzotint.sampling.guides import guided, needs
from mezzotint.sampling.samplers import sampler_named
from mezzotint.store.beside import make_folder
from mezzotint.store.weights import write_tensors
from mezzotint.training import workers
from mezzotint.training.data import StillLife
from mezzotint.training.digest import digest
from mezzotint.training.fit import Progress, computes_bf16
from mezzotint.types import Request, UserError
from mezzotint.vae.codec import Codec
from mezzotint.world.nearest import nearest
from mezzotint.world.render import render
from mezzotint.world.scene import Scenes

CHUNK = 64
"""Scenes that walk side by side, from one sigma."""
LEAST, MOST = 1.4, 5.0
"""Between these sigmas, evenly in their logarithm, scenes are noised: from where edges are lost to where the solids are
still about where they were."""
LAST, FIRST = 0.25, 2.5
"""States between these sigmas are learned from, and the estimate of the last is where a walk ends."""
SEEN = 64
"""At most so many pixels a side are looked at to find the nearest scene."""
ASTRAY = 0.04
"""A walk whose end is further than this, squared, from the nearest scene around its solids shows something else."""
LEAST_END, STILL, MOST_END = 0.3, 0.7, 6.0
"""Between the outer two, evenly in their logarithm, scenes are noised of whose ends a decoder learns; up to the middle
one they are still the nearest to what becomes of them."""
Chunk = dict[str, Tensor]


@dataclass(frozen=True)
class Walks:
    """States of walks, N of them, and their truth."""

    state: Tensor
    """x [N z h w] in half precision."""
    sigma: Tensor
    """[N]."""
    truth: Tensor
    """The latents [N z h w] that they should lead to, in half precision."""
    place: Tensor
    """The scenes [N] that they began at, by their places among the pictures: captions of these are the truth's too, but
    for its light and, where solids moved far, for how they stand to each other."""

    def __len__(self) -> int:
        return len(self.place)


@dataclass(frozen=True)
class Ends:
    """Where N walks end, and what they should show."""

    end: Tensor
    """Latents [N z h w] in half precision, without noise."""
    pixels: Tensor
    """The nearest scenes, pictures [N 3 H W] uint8."""

    def __len__(self) -> int:
        return len(self.end)


Found = TypeVar("Found", Walks, Ends)


class Walker:
    """Walks of a model that is drawn as `request` says, back to scenes of a still life."""

    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: TextConditioner,
        codec: Codec,
        pictures: StillLife,
        request: Request,
        *,
        seed: int = 0,
        bf16: bool = False,
    ) -> None:
        """`seed` chooses scenes and noise; `bf16`: whether the denoiser is computed in bfloat16 where the device does.

        Raises UserError where the request is guided by what is not this network and words, or is drawn by another table
        of noise than the model's.
        """
        self._denoiser, self._conditioner, self._codec, self._pictures = denoiser, conditioner, codec, pictures
        self._sampler, self._request, self._seed = sampler_named(request.sampler), request, seed
        self._bf16 = bf16 and computes_bf16(next(denoiser.parameters()).device)
        spacing = Spacing.parse(request.schedule)
        other = spacing.table(denoiser.schedule) != denoiser.schedule
        needed = needs(request.guide)
        if other or needed.perturbed or needed.weak or request.classify or request.negative:
            raise UserError(
                "Walks are for guidance by words and the model's own noise: leave the guides pag and auto, classify, "
                "negative and tables of noise out of the recipe's defaults."
            )
        self._sigmas = spacing.walk(denoiser.schedule, request.steps)
        tinted = pictures.scenes.tint.abs().amax(dim=(1, 2)) > 0
        kinds = [kind.nonzero()[:, 0] for kind in (~tinted, tinted)]
        self._places = [places for places in kinds if len(places) > 0]
        """Where scenes of named colours are and, if there are any, tinted ones: of both as many are walked back to, so
        that no colour is learned to go with a shape."""

    def all(self, count: int, folder: Path, report: Callable[[Progress], None] = lambda _: None) -> Walks:
        """Walks of `count` scenes at least, in chunks; each is a file in the folder, so what is there is not walked
        again, and every process walks some.

        Raises UserError where the request's steps leave nothing to learn from, all of the walks go astray, or a file is
        damaged or cannot be written.
        """
        if not any(LAST < sigma < LEAST for sigma in self._sigmas):
            raise UserError(
                f"Of the model's {self._request.steps} steps none is between sigma {LAST} and {LEAST}, where walks are "
                "learned from: give the recipe's defaults more."
            )
        return self._found(Walks, self.chunk, count, folder, report)

    def ends(self, count: int, folder: Path, report: Callable[[Progress], None] = lambda _: None) -> Ends:
        """Where walks of `count` scenes at least end, but for those that go astray. Files and refusals as for `all`."""
        return self._found(Ends, self._end_chunk, count, folder, report)

    def _found(
        self,
        kind: type[Found],
        made: Callable[[torch.Generator], Chunk],
        count: int,
        folder: Path,
        report: Callable[[Progress], None],
    ) -> Found:
        began = time.monotonic()
        files = [folder / f"{number:04d}.safetensors" for number in range(math.ceil(count / CHUNK))]
        with workers.agreed():
            make_folder(folder)
            for number in range(workers.rank(), len(files), workers.count()):
                if not files[number].exists():
                    chunk = made(torch.Generator().manual_seed(self._seed * 1_000_003 + number))
                    write_tensors({name: value.contiguous() for name, value in chunk.items()}, files[number])
                if workers.leads():
                    done = CHUNK * min(number + workers.count(), len(files))
                    report(Progress(done, CHUNK * len(files), time.monotonic() - began, {}))
        names = [entry.name for entry in fields(kind)]
        with workers.agreed():
            chunks = [_read(file, names) for file in files]
        found = kind(*(torch.cat([chunk[name] for chunk in chunks]) for name in names))
        if len(found) == 0:
            raise UserError(
                "None of the walks ends near a scene of its solids: they are for a model that draws this size and "
                "only bends what it draws."
            )
        return found

    def chunk(self, generator: torch.Generator) -> Chunk:
        """The fields of `Walks`, of CHUNK scenes, without those that went astray."""
        place, top = self._begun(LEAST, MOST, generator)
        states, end = self.walk(place, top, generator)
        scenes, off = self.nearest(place, end, generator)
        truth = self._latents(render(scenes, self._pictures.size).pixels)
        rows = (off < ASTRAY).nonzero()[:, 0]
        count = len(states)
        return {
            "state": torch.cat([state.cpu()[rows] for _, state in states]).half(),
            "sigma": torch.tensor([sigma for sigma, _ in states]).repeat_interleave(len(rows)),
            "truth": truth.cpu()[rows].repeat(count, 1, 1, 1).half(),
            "place": place[rows].repeat(count),
        }

    def _end_chunk(self, generator: torch.Generator) -> Chunk:
        """The fields of `Ends`, as `chunk`."""
        place, top = self._begun(LEAST_END, MOST_END, generator)
        _, end = self.walk(place, top, generator, last=0.0)
        pixels = self._pictures.pixels(place)
        if top > STILL:
            scenes, off = self.nearest(place, end, generator)
            rows = (off < ASTRAY).nonzero()[:, 0]
            pixels, end = render(scenes, self._pictures.size).pixels[rows], end[rows.to(end.device)]
        return {"end": end.cpu().half(), "pixels": pixels.add(1).mul(127.5).round().to(torch.uint8)}

    def _begun(self, least: float, most: float, generator: torch.Generator) -> tuple[Tensor, float]:
        """Where CHUNK scenes are among the pictures, and between these sigmas the one that they are noised to."""
        some = [places[torch.randint(len(places), (CHUNK,), generator=generator)] for places in self._places]
        return torch.cat(some)[:: len(some)], least * (most / least) ** float(torch.rand(1, generator=generator))

    @torch.no_grad()
    def nearest(self, place: Tensor, end: Tensor, generator: torch.Generator) -> tuple[Scenes, Tensor]:
        """The scenes [B] of the solids at these places [B] that look most like latents [B z h w], and how they differ,
        as `world.nearest`.
        """
        pixels = self._codec.decode(end).float().cpu()
        side = min(pixels.shape[-1], SEEN)
        scenes = self._pictures.unmirrored(place)
        return nearest(scenes, F.interpolate(pixels, size=(side, side), mode="area"), generator)

    @torch.no_grad()
    def _latents(self, pixels: Tensor) -> Tensor:
        return self._codec.encode(pixels.to(next(self._denoiser.parameters()).device)).float()

    @torch.no_grad()
    def walk(
        self, place: Tensor, top: float, generator: torch.Generator, *, last: float = LAST
    ) -> tuple[list[tuple[float, Tensor]], Tensor]:
        """From scenes [B] noised to `top`: the states on the way down, with their sigmas, and the end [B z h w].

        The estimate of the lowest state above the sigma `last` is the end; at 0 every step is taken, as in drawing.
        """
        x0 = self._latents(self._pictures.pixels(place))
        captions = self._pictures.outright(place)
        told = {"uncond": self._conditioner([""] * len(captions)), "cond": self._conditioner(captions)}
        projected = {row: self._denoiser.project(what) for row, what in told.items()}
        request, prediction = self._request, self._denoiser.schedule.prediction_type
        guidance = guided(request.guide, request.guidance, prediction=prediction)

        def noise() -> Tensor:
            return torch.randn(x0.shape, generator=generator).to(x0)

        sigmas = [top, *(sigma for sigma in self._sigmas if last < sigma < top), 0.0]
        walk = self._sampler.begin(x0 + top * noise(), sigmas, noise, request.eta, self._denoiser.schedule)
        states: list[tuple[float, Tensor]] = []
        try:
            query = next(walk)
            while True:
                if query.sigma < min(FIRST, top):
                    states.append((query.sigma, query.x))
                sigma = torch.full((len(x0),), query.sigma, device=x0.device)
                with torch.autocast(x0.device.type, torch.bfloat16, enabled=self._bf16):
                    estimates = {
                        row: self._denoiser(query.x, sigma, told[row], projected[row])
                        for row in guidance.rows(query.sigma)
                    }
                query = walk.send(guidance.combine(estimates, query))
        except StopIteration as stop:
            return states, stop.value


def walks_name(told: str, *networks: nn.Module) -> str:
    """A short name for walks of these networks, and of what else is told of them."""
    weights = (pair for network in networks for pair in network.state_dict().items())
    return digest(f"{told}\n{LEAST} {MOST} {LAST} {FIRST} {ASTRAY}", weights)


def _read(file: Path, names: Iterable[str]) -> Chunk:
    """Raises UserError where the file is damaged, or not on a disk that all processes share."""
    try:
        chunk = load_file(file)
        return {name: chunk[name] for name in names}
    except FileNotFoundError as error:
        raise UserError(f"{file} was made on another machine: put the run on a disk that all of them share.") from error
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{file} is damaged: remove it, and it is made anew.") from error
