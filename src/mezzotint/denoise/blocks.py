"""The U-Net's stages: ResNet blocks, transformers, and the steps between resolutions.

Legend: x [B C h w], emb [B E] (the time embedding after its SiLU), reads the iterator of what the cross-attentions
read. Module names are those of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.attention import Pairs, Transformer
from mezzotint.denoise.config import UNetConfig
from mezzotint.layers import GroupNorm

Reads = Iterator[Pairs]


class BlockConfig(Protocol):
    """What a ResNet block needs to know of the network around it."""

    @property
    def norm_num_groups(self) -> int:
        """Groups of every normalisation."""
        ...

    @property
    def norm_eps(self) -> float:
        """What keeps a normalisation from dividing by zero."""
        ...

    @property
    def time_embed_dim(self) -> int:
        """E, the width of the embedded noise level."""
        ...


class Embedding(nn.Module):
    """Two linear layers with a SiLU between: [B P] -> [B E]."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """Embed x [B P]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class ResNetBlock(nn.Module):
    """Two convolutions with the time embedding added between them, beside the identity (or a 1x1 convolution)."""

    def __init__(self, dim: int, out: int, config: BlockConfig) -> None:
        super().__init__()
        self.norm1 = GroupNorm(config.norm_num_groups, dim, eps=config.norm_eps)
        self.conv1 = nn.Conv2d(dim, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_embed_dim, out)
        self.norm2 = GroupNorm(config.norm_num_groups, out, eps=config.norm_eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(dim, out, 1) if dim != out else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Refine x [B C h w] to [B C' h w]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(emb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Downsample(nn.Module):
    """A convolution of stride two: [B C h w] -> [B C ceil(h/2) ceil(w/2)]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve x, rounding up."""
        return self.conv(x)


class Upsample(nn.Module):
    """The nearest neighbour, then a convolution: [B C h w] -> [B C *size]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Enlarge x to the size [h w] of the skips that it will meet."""
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


def transformer(config: UNetConfig, level: int) -> Transformer:
    """The transformer of one resolution, 0 the finest."""
    return Transformer(
        config.block_out_channels[level],
        config.heads[level],
        context_dim=config.cross_attention_dim,
        depth=config.depths[level],
        groups=config.norm_num_groups,
        linear=config.use_linear_projection,
    )


class Stage(nn.Module):
    """ResNet blocks of the given input widths, each followed by a transformer where the stage has attention."""

    def __init__(self, inputs: Sequence[int], level: int, attention: bool, config: UNetConfig) -> None:
        super().__init__()
        out = config.block_out_channels[level]
        self.resnets = nn.ModuleList([ResNetBlock(dim, out, config) for dim in inputs])
        self.attentions = nn.ModuleList([transformer(config, level) for _ in inputs]) if attention else None

    def layer(self, index: int, x: Tensor, emb: Tensor, reads: Reads) -> Tensor:
        """ResNet block number `index` and its transformer."""
        x = self.resnets[index](x, emb)
        return x if self.attentions is None else self.attentions[index](x, reads)


class DownBlock(Stage):
    """One resolution on the way down."""

    def __init__(self, level: int, config: UNetConfig) -> None:
        widths = config.block_out_channels
        inputs = [widths[max(level - 1, 0)]] + [widths[level]] * (config.layers_per_block - 1)
        super().__init__(inputs, level, config.down_block_types[level].startswith("CrossAttn"), config)
        self.downsamplers = nn.ModuleList([Downsample(widths[level])]) if level < len(widths) - 1 else None

    def forward(self, x: Tensor, emb: Tensor, reads: Reads, skips: list[Tensor]) -> Tensor:
        """Append to `skips` what the way up will join."""
        for index in range(len(self.resnets)):
            x = self.layer(index, x, emb, reads)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """The coarsest resolution: ResNet block, transformer, ResNet block."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        dim = config.block_out_channels[-1]
        self.attentions = nn.ModuleList([transformer(config, len(config.block_out_channels) - 1)])
        self.resnets = nn.ModuleList([ResNetBlock(dim, dim, config) for _ in range(2)])

    def forward(self, x: Tensor, emb: Tensor, reads: Reads) -> Tensor:
        """Refine x [B C h w]."""
        x = self.resnets[0](x, emb)
        x = self.attentions[0](x, reads)
        return self.resnets[1](x, emb)


class UpBlock(Stage):
    """One resolution on the way up; its ResNet blocks read the skips of the way down beside x."""

    def __init__(self, level: int, config: UNetConfig) -> None:
        widths = config.block_out_channels
        below = widths[min(level + 1, len(widths) - 1)]
        here = [below] + [widths[level]] * config.layers_per_block
        skips = [widths[level]] * config.layers_per_block + [widths[max(level - 1, 0)]]
        index = len(widths) - 1 - level
        inputs = [dim + skip for dim, skip in zip(here, skips, strict=True)]
        super().__init__(inputs, level, config.up_block_types[index].startswith("CrossAttn"), config)
        self.upsamplers = nn.ModuleList([Upsample(widths[level])]) if level > 0 else None

    def forward(self, x: Tensor, emb: Tensor, reads: Reads, skips: list[Tensor]) -> Tensor:
        """Take from `skips` what the way down left, last first."""
        for index in range(len(self.resnets)):
            x = self.layer(index, torch.cat([x, skips.pop()], dim=1), emb, reads)
        return x if self.upsamplers is None else self.upsamplers[0](x, skips[-1].shape[2:])
