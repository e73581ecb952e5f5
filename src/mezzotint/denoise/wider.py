"""A wider U-Net that begins with what a narrower one knows (Chen et al. 2015, Net2Net, arXiv 1511.05641, section 3.1).

Every channel of a widened resolution becomes several copies of itself, side by side. Whatever reads it reads the copies
in shares that add up to one and are drawn by chance for every weight, so that the copies learn to differ. Every layer
then answers as before, with two exceptions that a few hundred steps of training mend. Where the way up joins channels
that were copied to channels that were not, the groups of a normalisation hold other channels than they did; and a
ResNet block that comes to read as many channels as it answers has the identity in place of its 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mezzotint.denoise.blocks import ResNetBlock
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.types import UserError

WAVES = "time_embedding.linear_1"
"""The layer that reads the sinusoids of the noise level: a wider U-Net has more of them, the old ones among them."""


class Part(NamedTuple):
    """Channels side by side that have equally many copies each."""

    width: int
    copies: int


class Layer(NamedTuple):
    """The widths of what a layer answers and of what it reads, each of what lies side by side."""

    answers: Sequence[int]
    reads: Sequence[int]


class Widening:
    """What becomes of the layers of a U-Net in a wider one."""

    def __init__(self, config: UNetConfig, widths: Sequence[int]) -> None:
        """`config` is that of the U-Net there is, `widths` are those of the wider one's resolutions, finest first.

        Raises UserError unless each is the old one or, at a resolution without attention, a multiple of it.
        """
        _check(config, widths)
        self.config = replace(config, block_out_channels=tuple(widths))
        """That of the wider one."""
        with torch.device("meta"):
            old, new = dict(_layers(UNet(config))), dict(_layers(UNet(self.config)))
        self._identities = {name: old[_beside(name)].answers[0] for name in new if name not in old}
        """Widths of what was the identity and is a 1x1 convolution now."""
        self._answers: dict[str, list[Part]] = {}
        self._reads: dict[str, list[Part]] = {}
        for name, wide in new.items():
            was = old[_beside(name) if name in self._identities else name]
            self._answers[name] = _parts(was.answers, wide.answers)
            self._reads[name] = _parts(was.reads, wide.reads)

    def unet(self, unet: UNet, generator: torch.Generator) -> UNet:
        """The wider one, which shares nothing with `unet`; the generator draws the shares."""
        values = dict(unet.state_dict())
        for name, width in self._identities.items():
            values |= {f"{name}.weight": torch.eye(width)[:, :, None, None], f"{name}.bias": torch.zeros(width)}
        wide = UNet(self.config)
        for name, own in wide.state_dict().items():
            layer, value = name.rpartition(".")[0], values[name]
            if layer in self._answers:
                value = _copied(value, self._answers[layer])
                if value.dim() > 1:
                    value = self._columns(layer, value, generator)
            own.copy_(value)
        return wide

    def learned(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What an adapted U-Net has learned (`denoise.adapter.learned`), for the wider one adapted."""
        wide: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            layer, _, factor = name.rpartition(".")
            if layer not in self._answers:
                continue  # A convolution whose place the identity takes.
            if factor == "down":
                channels = sum(part.width for part in self._reads[layer])
                wide[name] = self._columns(layer, tensor.unflatten(1, (channels, -1)), None).flatten(1)
            else:  # Its rows are what the layer answers.
                wide[name] = _copied(tensor, self._answers[layer])
        for name in self._identities:  # Nothing is learned of it yet.
            beside = wide[f"{_beside(name)}.up"]
            wide[f"{name}.down"] = torch.eye(
                beside.shape[1], sum(part.width * part.copies for part in self._reads[name])
            )
            wide[f"{name}.up"] = torch.zeros_like(beside)
        return wide

    def _columns(self, layer: str, weight: Tensor, generator: torch.Generator | None) -> Tensor:
        """A layer's weight [R C ..] for the copies of what it reads; without a generator their shares are equal."""
        parts = self._reads[layer]
        if layer == WAVES:
            waves = weight.unflatten(1, (2, -1))  # Cosines and sines, each from the quickest to the slowest.
            more = waves.new_zeros(*waves.shape, parts[0].copies)
            more[..., 0] = waves
            return more.flatten(1)
        read = weight.split([part.width for part in parts], dim=1)
        return torch.cat([_shared(one, part.copies, generator) for one, part in zip(read, parts, strict=True)], dim=1)


def _copied(values: Tensor, parts: Sequence[Part]) -> Tensor:
    """[R ..] with the copies of every row side by side."""
    rows = values.split([part.width for part in parts])
    return torch.cat([one.repeat_interleave(part.copies, 0) for one, part in zip(rows, parts, strict=True)])


def _shared(weight: Tensor, copies: int, generator: torch.Generator | None) -> Tensor:
    """A weight [R C ..] that reads the copies of every channel, [R C*copies ..], in shares of what it was."""
    if copies == 1:
        return weight
    shape = (*weight.shape[:2], copies, *weight.shape[2:])
    drawn = torch.ones(shape) if generator is None else torch.rand(shape, generator=generator)
    return (weight.unsqueeze(2) * (drawn / drawn.sum(dim=2, keepdim=True)).to(weight)).flatten(1, 2)


def _parts(before: Sequence[int], after: Sequence[int]) -> list[Part]:
    return [Part(width, wider // width) for width, wider in zip(before, after, strict=True)]


def _layers(unet: UNet) -> Iterator[tuple[str, Layer]]:
    """The layers of a U-Net that have channels, by name."""
    ways_up = dict(_ways_up(unet))
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.GroupNorm):
            answers, read = [len(layer.weight)], layer.weight.shape[min(1, layer.weight.dim() - 1)]
            block, _, own = name.rpartition(".")
            joined = block in ways_up and own in ("norm1", "conv1", "conv_shortcut")
            reads = [ways_up[block], read - ways_up[block]] if joined else [read]
            yield name, Layer(reads if isinstance(layer, nn.GroupNorm) else answers, reads)


def _ways_up(unet: UNet) -> Iterator[tuple[str, int]]:
    """The ResNet blocks of the way up, by name, each with the width of what comes to it beside a skip."""
    width = unet.config.block_out_channels[-1]
    for name, block in unet.named_modules():
        if name.startswith("up_blocks.") and isinstance(block, ResNetBlock):
            yield name, width
            width = block.conv2.out_channels


def _beside(shortcut: str) -> str:
    """What reads the same as a 1x1 convolution beside a ResNet block, and answers as many channels."""
    return f"{shortcut.rpartition('.')[0]}.conv1"


def _check(config: UNetConfig, widths: Sequence[int]) -> None:
    old = config.block_out_channels
    if len(widths) != len(old):
        raise UserError(f"{len(widths)} widths were given for a U-Net of {len(old)} resolutions: give one for each.")
    down, up = config.down_block_types, reversed(config.up_block_types)
    attends = ["CrossAttn" in here + there for here, there in zip(down, up, strict=True)]
    attends[-1] |= config.mid_block_type is not None
    for was, width, fixed in zip(old, widths, attends, strict=True):
        if width != was and (fixed or width < was or width % was != 0):
            must = f"a resolution with attention keeps its {was}" if fixed else f"it must be a multiple of {was}"
            raise UserError(f"A U-Net's width of {was} cannot become {width}: {must}.")
