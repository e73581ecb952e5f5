"""tau(y) of a picture: the image tower's tokens brought to those that a U-Net's cross-attention reads.

Ye et al. 2023, IP-Adapter, arXiv 2308.06721, section 3.2. Parameter names are those of its published files.
N pictures, n tokens of the image tower each, E their width; T tokens for the U-Net, D their width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from mezzotint.conditioning.canvas import to_pixels
from mezzotint.conditioning.clip_transformer import attend
from mezzotint.conditioning.clip_vision import CLIPVisionModel, normalise, without_colours, without_shapes
from mezzotint.types import UserError

HEAD = 64
"""Width of a head of the resampler's attention, which its files do not tell."""


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """What a resampler is made of."""

    embed_dim: int
    """Width E of the image tower's tokens."""
    width: int
    """Width inside."""
    output_dim: int
    """Width D."""
    tokens: int = 16
    """T."""
    layers: int = 4
    heads: int = 12
    """Of 64 channels each."""

    @classmethod
    def of(cls, shapes: Mapping[str, Sequence[int]]) -> ResamplerConfig:
        """That of a file's tensors, by name. Raises KeyError where one is missing."""
        return cls(
            embed_dim=shapes["proj_in.weight"][1],
            width=shapes["proj_in.weight"][0],
            output_dim=shapes["proj_out.weight"][0],
            tokens=shapes["latents"][1],
            layers=sum(name.endswith("0.to_q.weight") for name in shapes),
            heads=shapes["layers.0.0.to_q.weight"][0] // HEAD,
        )


class _Looks(nn.Module):
    """Attention from the resampler's own tokens to those of the image tower and to themselves."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        inner = config.heads * HEAD
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_kv = nn.Linear(config.width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, own: Tensor) -> Tensor:
        """[N T width] of x [N n width] and own [N T width]."""
        x, own = self.norm1(x), self.norm2(own)
        k, v = self.to_kv(torch.cat([x, own], dim=1)).chunk(2, dim=-1)
        q, k, v = (part.unflatten(2, (self.heads, HEAD)).transpose(1, 2) for part in (self.to_q(own), k, v))
        return self.to_out(attend(q, k, v, causal=False).transpose(1, 2).flatten(2))


def _feed_forward(config: ResamplerConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(config.width),
        nn.Linear(config.width, 4 * config.width, bias=False),
        nn.GELU(),
        nn.Linear(4 * config.width, config.width, bias=False),
    )


class Resampler(nn.Module):
    """Every token of a picture to a few (Alayrac et al. 2022, Flamingo, arXiv 2204.14198, section 3.1.1): "plus"."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config, self.embed_dim = config, config.embed_dim
        self.latents = nn.Parameter(torch.randn(1, config.tokens, config.width) / config.width**0.5)
        self.proj_in = nn.Linear(config.embed_dim, config.width)
        self.layers = nn.ModuleList(
            [nn.ModuleList([_Looks(config), _feed_forward(config)]) for _ in range(config.layers)]
        )
        self.proj_out = nn.Linear(config.width, config.output_dim)
        self.norm_out = nn.LayerNorm(config.output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[N n E] -> [N T D]."""
        x = self.proj_in(x)
        own = self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            looks, feeds = layer.children()
            own = own + looks(x, own)
            own = own + feeds(own)
        return self.norm_out(self.proj_out(own))


class Projection(nn.Module):
    """What stands for the whole picture in the space shared with texts, [N E], to a few tokens [N T D]."""

    def __init__(self, embed_dim: int, output_dim: int, tokens: int = 4) -> None:
        super().__init__()
        self.embed_dim, self.tokens = embed_dim, tokens
        self.proj = nn.Linear(embed_dim, tokens * output_dim)
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """As above."""
        return self.norm(self.proj(x).unflatten(1, (self.tokens, -1)))


class PerToken(nn.Module):
    """Every token of a picture to one for the U-Net, [N n E] -> [N n D]: "full", so T is n."""

    def __init__(self, embed_dim: int, output_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.proj = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, output_dim), nn.LayerNorm(output_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """As above."""
        return self.proj(x)


WHOLE = "whole"
APART = ("colours", "greys")
"""Looks that know nothing of each other, so that a shape is not doubted for a colour in which it never came."""
LOOKS: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    WHOLE: lambda pixels, _: pixels,
    "colours": without_shapes,
    "greys": lambda pixels, _: without_colours(pixels),
}
"""What is seen of pixels [N 3 S S] by an image tower whose patches are so wide."""


class PictureConditioner(nn.Module):
    """An image tower and what is made of its tokens."""

    def __init__(
        self,
        tower: CLIPVisionModel,
        projection: Resampler | Projection | PerToken,
        *,
        looks: Sequence[str] = (WHOLE,),
    ) -> None:
        """`looks`: in which of the `LOOKS` a picture is seen; what is told is the mean of their tokens, place by place.

        Raises UserError where the two do not fit each other, and for a look that there is not.
        """
        super().__init__()
        if not looks or not set(looks) <= set(LOOKS):
            raise UserError(
                f"Pictures are to be seen as {', '.join(looks) or 'nothing'}; known are {', '.join(LOOKS)}."
            )
        self.tower, self.projection, self.looks = tower, projection, tuple(looks)
        config, wanted = tower.config, projection.embed_dim
        whole = isinstance(projection, Projection)
        have = (config.projection_dim if config.with_projection else 0) if whole else config.hidden_size
        if have != wanted:
            raise UserError(
                f"The image encoder tells of a picture by {have} numbers, and {wanted} are read: take its own."
            )

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens [N T D] of pictures [N 3 S S] in [-1, 1], S the image tower's size."""
        patch = self.tower.config.patch_size
        looks = torch.cat([LOOKS[look](pixels, patch) for look in self.looks])
        return self.projection(self._seen(normalise(looks))).unflatten(0, (len(self.looks), -1)).mean(dim=0)

    def nothing(self) -> Tensor:
        """The tokens [1 T D] that stand for no picture: those of grey, or of an empty projection."""
        side, weight = self.tower.config.image_size, next(self.parameters())
        if isinstance(self.projection, Projection):
            seen = weight.new_zeros(1, self.projection.embed_dim)
        else:
            seen = self._seen(weight.new_zeros(1, 3, side, side))
        return self.projection(seen)

    def _seen(self, pixels: Tensor) -> Tensor:
        """What is read of normalised pictures: every token before the last block, or the whole's projection."""
        if isinstance(self.projection, Projection):
            projected = self.tower(pixels).projected
            assert projected is not None
            return projected
        states = self.tower(pixels, hidden_states=True).hidden_states
        assert states is not None
        return states[-2]

    def prepared(self, picture: Image.Image) -> Tensor:
        """[1 3 S S] in [-1, 1] of a picture in RGB: its middle, as CLIP's own preprocessing cuts it."""
        side = self.tower.config.image_size
        scale = side / min(picture.size)
        size = tuple(max(side, int(length * scale)) for length in picture.size)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)  # pyright: ignore[reportArgumentType]
        left, top = ((length - side) // 2 for length in size)
        return to_pixels(picture.crop((left, top, left + side, top + side)))
