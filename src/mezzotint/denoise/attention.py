"""Attention and the transformer blocks that stand between the U-Net's ResNet blocks.

Legend: B rows, N queries (the h*w positions of a latent), L keys (text tokens, or N again), C channels, D width of a
text token. Module names are those of diffusers, so that its files load with nothing converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.layers import GroupNorm

Pairs = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values that an attention reads, each pair by a softmax of its own; the outputs are summed."""


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for every head (Vaswani et al. 2017, equation 1).

    q [B N C], k and v [B L C], each head taking d = C / heads neighbouring channels; gives [B N C].
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if torch.is_grad_enabled() and q.device.type == "cpu":
        # The backward pass of torch's CPU kernel is several times slower than that of plain products.
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
        out = weights.to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Projected:
    """The keys and values of every cross-attention for a batch of rows, computed once and read at every step.

    Each cross-attention reads several, one after the other, in the order in which the U-Net runs: (k, v) [B L C] of the
    text, and [B T C] of every picture beside it.
    """

    reads: tuple[Pairs, ...]

    @classmethod
    def cat(cls, parts: Sequence[Projected]) -> Projected:
        """The rows of all parts, side by side along the batch."""
        return cls(tuple(_cat(reads) for reads in zip(*(part.reads for part in parts), strict=True)))

    def at(self, index: Tensor) -> Projected:
        """The rows at these places [M], or where these [B] are true."""
        return Projected(tuple(tuple((k[index], v[index]) for k, v in pairs) for pairs in self.reads))

    def beside(self, others: Iterable[Pairs]) -> Projected:
        """The same where every cross-attention reads the others' too."""
        return Projected(tuple(own + other for own, other in zip(self.reads, others, strict=True)))


def _cat(parts: Sequence[Pairs]) -> Pairs:
    """What one cross-attention reads of several batches, side by side."""
    return tuple(
        (torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs])) for pairs in zip(*parts, strict=True)
    )


class Attention(nn.Module):
    """Multi-head attention from the latent to itself, or to text tokens `context_dim` wide."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim if context_dim is None else context_dim, dim, bias=False)
        self.to_v = nn.Linear(dim if context_dim is None else context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def project(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B L C] of the context [B L D]."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, read: Pairs | None = None) -> Tensor:
        """Attend from x [B N C] to itself, or to the keys and values that are given; gives [B N C]."""
        q = self.to_q(x)
        (k, v), *others = (self.project(x),) if read is None else read
        y = attend(q, k, v, self.heads)
        for k, v in others:  # Ye et al. 2023, IP-Adapter, arXiv 2308.06721, equation 5
            y = y + attend(q, k, v, self.heads)
        return self.to_out[0](y)


class GEGLU(nn.Module):
    """A linear layer gated by the GELU of another (Shazeer 2020): [.. C] -> [.. C']."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        """Project and gate x [.. C]."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Widen four times, gate, narrow: [B N C] -> [B N C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers; the middle one is diffusers' dropout, which we do not have."""
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention on the text, feed-forward, each normalised before and added to its input."""

    def __init__(self, dim: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, read: Pairs) -> Tensor:
        """Mix x [B N C], reading the keys and values of the text, and of what lies beside it."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), read)
        return x + self.ff(self.norm3(x))


class Pointwise(nn.Conv2d):
    """A 1x1 convolution by its parameters, a linear layer over positions by its work: [.. C] -> [.. C']."""

    def forward(self, input: Tensor) -> Tensor:
        """Mix the channels of input [.. C]."""
        return F.linear(input, self.weight.flatten(1), self.bias)


class Transformer(nn.Module):
    """Transformer blocks over the h*w positions of a latent: [B C h w] -> [B C h w]."""

    def __init__(self, dim: int, heads: int, *, context_dim: int, depth: int, groups: int, linear: bool) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim) if linear else Pointwise(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(dim, heads, context_dim) for _ in range(depth)])
        self.proj_out = nn.Linear(dim, dim) if linear else Pointwise(dim, dim, 1)

    def forward(self, x: Tensor, reads: Iterator[Pairs]) -> Tensor:
        """Each transformer block takes the next of `reads`."""
        # A channels_last latent is a [B h*w C] sequence already: nothing is copied.
        y = self.proj_in(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            y = block(y, next(reads))
        return x + self.proj_out(y).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def cross_attentions(blocks: Iterable[nn.Module]) -> list[Attention]:
    """Every cross-attention inside the blocks, in order."""
    return [m.attn2 for block in blocks for m in block.modules() if isinstance(m, TransformerBlock)]
