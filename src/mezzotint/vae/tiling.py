"""The autoencoder in bands: pictures of any size in little memory, equal to those of one piece but for rounding.

A convolution needs a few rows above and below those that it gives, and what binds all places together is only the
group norms, by a mean and a variance, and the attention of the coarsest resolution. So nothing is approximated: a layer
is worked out band after band of rows, a norm's statistics are gathered over all bands before any is normalised, and
attention takes its queries some at a time against all keys. There is no seam, because no band is an edge.

Held at once are two feature maps of the finest resolution, and what one band needs. Upsampled maps, the largest, are
never held: their rows are worked out when they are read, which is twice.

B pictures, C channels, h w height and width, [a, b) rows of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.layers import GroupNorm
from mezzotint.vae.autoencoder import (
    AttentionBlock,
    Autoencoder,
    DownBlock,
    Downsample,
    MidBlock,
    Moments,
    ResnetBlock,
    UpBlock,
    Upsample,
    single_head_attention,
)
from mezzotint.vae.tiny import BOUND, Activation, Point, TinyAutoencoder, TinyBlock
from mezzotint.vae.tiny import Enlarge as TinyEnlarge

BAND = 2**17
"""Places that a band has, about: little memory beside a large map's, and little overlap beside its own work."""
SCORES = 2**26
"""Attention's queries times keys at once."""
Act = Callable[[Tensor], Tensor]


class Map(Protocol):
    """A feature map whose rows can be asked for."""

    height: int
    width: int

    def rows(self, a: int, b: int) -> Tensor:
        """Its rows [B C b-a w]; 0 <= a < b <= height."""
        ...


class Held:
    """A map in memory."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.height, self.width = x.shape[2:]

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        return self.x[:, :, a:b]


class Mapped:
    """A function of every place of a map."""

    def __init__(self, source: Map, function: Act) -> None:
        self._source, self._function = source, function
        self.height, self.width = source.height, source.width

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        return self._function(self._source.rows(a, b))


class Convolved:
    """A convolution of a map, which is padded with zeros."""

    def __init__(self, source: Map, layer: nn.Conv2d, *, pad: tuple[int, int] | None = None) -> None:
        """`pad` is the padding above and below, and so left and right; by default half a kernel."""
        kernel, self._stride = layer.kernel_size[0], layer.stride[0]
        self._source, self._layer, self._kernel = source, layer, kernel
        self._pad = (kernel // 2, kernel // 2) if pad is None else pad
        self.height, self.width = (
            (side + sum(self._pad) - kernel) // self._stride + 1 for side in (source.height, source.width)
        )

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        first = a * self._stride - self._pad[0]
        last = (b - 1) * self._stride - self._pad[0] + self._kernel
        x = self._source.rows(max(first, 0), min(last, self._source.height))
        x = F.pad(x, (*self._pad, max(-first, 0), max(last - self._source.height, 0)))
        return F.conv2d(x, self._layer.weight, self._layer.bias, self._stride)


class Normed:
    """A map after group normalisation by the statistics of all its places, then the activation."""

    def __init__(self, source: Map, norm: GroupNorm, act: Act) -> None:
        self._source, self._act = source, act
        self.height, self.width = source.height, source.width
        mean, variance = statistics(source, norm.num_groups)  # [B G] each
        each = norm.num_channels // norm.num_groups
        rstd = (variance + norm.eps).rsqrt().repeat_interleave(each, dim=1)
        self._scale = (rstd * norm.weight.double()).float()[:, :, None, None]
        shift = norm.bias.double() - mean.repeat_interleave(each, dim=1) * rstd * norm.weight.double()
        self._shift = shift.float()[:, :, None, None]

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        x = self._source.rows(a, b)
        return self._act(torch.addcmul(self._shift, x.float(), self._scale).to(x.dtype))


class Upsampled:
    """A map so many times larger, by the nearest neighbour."""

    def __init__(self, source: Map, times: int = 2) -> None:
        self._source, self._times = source, times
        self.height, self.width = source.height * times, source.width * times

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        first, n = a // self._times, self._times
        x = F.interpolate(self._source.rows(first, -(-b // n)), scale_factor=float(n), mode="nearest")
        return x[:, :, a - first * n : b - first * n]


class Recent:
    """A map that remembers the rows it was asked for last, for whoever asks for some of them again."""

    def __init__(self, source: Map) -> None:
        self._source, self._last = source, (0, 0, torch.empty(0))
        self.height, self.width = source.height, source.width

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        first, last, x = self._last
        if not first <= a < b <= last:
            x = self._source.rows(a, b)
            first, last, _ = self._last = (a, b, x)
        return x[:, :, a - first : b - first]


class Sum:
    """Two maps added up."""

    def __init__(self, one: Map, other: Map) -> None:
        self._one, self._other = one, other
        self.height, self.width = one.height, one.width

    def rows(self, a: int, b: int) -> Tensor:
        """As Map.rows."""
        return self._one.rows(a, b) + self._other.rows(a, b)


def bands(source: Map) -> Iterator[tuple[int, int]]:
    """The rows of a map, from top to bottom, about BAND places at a time."""
    step = max(1, BAND // source.width)
    return ((a, min(a + step, source.height)) for a in range(0, source.height, step))


def statistics(source: Map, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [B G], float64, of every group of channels over all places.

    Those of the bands are joined as Chan, Golub and LeVeque (1979) do, which loses no digits.
    """
    count, mean, square = 0, torch.zeros(()), torch.zeros(())
    for a, b in bands(source):
        part = source.rows(a, b).float().unflatten(1, (groups, -1)).flatten(2)  # [B G n]
        variance, middle = (value.double() for value in torch.var_mean(part, dim=2, correction=0))
        size = part.shape[2]
        if count == 0:
            mean, square = middle, variance * size
        else:
            away = middle - mean
            mean = mean + away * (size / (count + size))
            square = square + variance * size + away.square() * (count * size / (count + size))
        count += size
    return mean, square / count


def hold(source: Map, over: Held | None = None) -> Held:
    """Work a map out, in new memory or in that of the map `over`, of its shape.

    `source` may read `over` where it is at most one row away: a band is written when the next one has been read.
    """
    if isinstance(source, Held):
        return source
    target = None if over is None else over.x
    waiting: tuple[int, int, Tensor] | None = None
    for a, b in bands(source):
        rows = source.rows(a, b)
        if target is None:
            target = rows.new_empty(rows.shape[0], rows.shape[1], source.height, source.width)
        if waiting is not None:
            target[:, :, waiting[0] : waiting[1]] = waiting[2]
        waiting = (a, b, rows)
    assert target is not None
    assert waiting is not None
    target[:, :, waiting[0] : waiting[1]] = waiting[2]
    return Held(target)


def hold_both(one: Map, other: Map) -> tuple[Held, Held]:
    """Two maps of one size worked out side by side, so that what both read can be read once (`Recent`)."""
    held: list[Tensor] = []
    for a, b in bands(one):
        for index, source in enumerate((one, other)):
            rows = source.rows(a, b)
            if a == 0:
                held.append(rows.new_empty(*rows.shape[:2], source.height, source.width))
            held[index][:, :, a:b] = rows
    return Held(held[0]), Held(held[1])


def residual(block: ResnetBlock, x: Map) -> Held:
    """What a residual block makes of a map, which is worked out twice if it is not held: for its statistics, and then.

    The block's output takes the place of its inner map, so three maps are never held at once.
    """
    x = x if isinstance(x, Held) else Recent(x)
    inner = Convolved(Normed(x, block.norm1, block.act), block.conv1)
    shortcut = Convolved(x, block.conv_shortcut) if isinstance(block.conv_shortcut, nn.Conv2d) else x
    if isinstance(x, Held):
        inner = hold(inner)
    else:
        inner, shortcut = hold_both(inner, shortcut)
    return hold(Sum(shortcut, Convolved(Normed(inner, block.norm2, block.act), block.conv2)), over=inner)


def attention(block: AttentionBlock, x: Held) -> Held:
    """What the attention makes of a map: every query meets every key, but not all queries at once."""
    tokens = hold(Normed(x, block.group_norm, _same)).x.flatten(2).transpose(1, 2)  # [B hw C]
    k, v = block.to_k(tokens), block.to_v(tokens)
    some = max(1, SCORES // tokens.shape[1])
    out = x.x.flatten(2).clone()
    for first in range(0, tokens.shape[1], some):
        q = block.to_q(tokens[:, first : first + some])
        out[:, :, first : first + some] += block.to_out[0](single_head_attention(q, k, v)).transpose(1, 2)
    return Held(out.reshape(x.x.shape))


def through(layers: Iterable[Any], x: Map) -> Map:
    """What these layers of an autoencoder make of a map, one after another."""
    for layer in layers:
        match layer:
            case ResnetBlock():
                x = residual(layer, x)
            case AttentionBlock():
                x = attention(layer, hold(x))
            case Downsample():
                x = hold(Convolved(x, layer.conv, pad=(0, 1)))
            case Upsample():
                x = Convolved(Upsampled(x), layer.conv)
            case MidBlock():
                x = through((layer.resnets[0], *layer.attentions, layer.resnets[1]), x)
            case DownBlock():
                x = through((*layer.resnets, *layer.downsamplers), x)
            case UpBlock():
                x = through((*layer.resnets, *layer.upsamplers), x)
            case nn.Conv2d():
                x = Convolved(x, layer)
            case Activation():
                x = Mapped(x, layer)
            case TinyEnlarge():
                x = Upsampled(x, round(layer.times))
            case TinyBlock():
                x = hold(x)
                x = hold(Mapped(Sum(through(layer.conv, x), x), F.relu))
            case _:
                raise TypeError(f"no way to work out a {type(layer).__name__} in bands")
    return x


def decode(autoencoder: Autoencoder | TinyAutoencoder, z: Tensor) -> Tensor:
    """What `autoencoder.decode` gives. Raises what it raises."""
    if isinstance(autoencoder, TinyAutoencoder):
        tiny = autoencoder.decoder
        if tiny is None or any(isinstance(m, TinyEnlarge) and m.mode != "nearest" for m in tiny.modules()):
            return autoencoder.decode(z)
        return hold(Mapped(through(tiny.layers, Held(torch.tanh(z / BOUND) * BOUND)), _from_unit)).x
    decoder = autoencoder.decoder
    x = through((decoder.conv_in, decoder.mid_block, *decoder.up_blocks), Held(autoencoder.post_quant_conv(z)))
    return hold(Convolved(Normed(x, decoder.conv_norm_out, F.silu), decoder.conv_out)).x


def encode(autoencoder: Autoencoder | TinyAutoencoder, pixels: Tensor) -> Moments | Point:
    """What `autoencoder.encode` gives. Raises what it raises."""
    if isinstance(autoencoder, TinyAutoencoder):
        tiny = autoencoder.encoder
        if tiny is None:
            return autoencoder.encode(pixels)
        return Point(hold(through(tiny.layers, Held((pixels + 1) / 2))).x)
    encoder = autoencoder.encoder
    x = through((encoder.conv_in, *encoder.down_blocks, encoder.mid_block), Held(pixels))
    return autoencoder.moments(hold(Convolved(Normed(x, encoder.conv_norm_out, F.silu), encoder.conv_out)).x)


def _same(x: Tensor) -> Tensor:
    return x


def _from_unit(x: Tensor) -> Tensor:
    return x * 2 - 1
