"""The autoencoder: pixels to the moments of a latent Gaussian, and a latent back to pixels.

B pictures, H W their height and width in pixels, h w those of the latent, z the latent's channels, C channels inside.
Kingma and Welling 2014 (arXiv:1312.6114); the network is that of Rombach et al. 2022 (arXiv:2112.10752, appendix G).
Parameters carry the names of diffusers' AutoencoderKL, so its files load and ours load there, with nothing converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.layers import GroupNorm
from mezzotint.vae.config import AutoencoderConfig

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "relu": F.relu,
}
EPSILON = 1e-6


@dataclass(frozen=True)
class Moments:
    """A Gaussian with a diagonal covariance for every picture: mean and log-variance, each [B z h w]."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation [B z h w]."""
        return torch.exp(0.5 * self.logvar)

    def sample(self, noise: Tensor) -> Tensor:
        """Sample mean + std * noise for unit-variance noise [B z h w] (arXiv:1312.6114, section 2.4)."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) of each picture in nats, [B], summed over the latent (arXiv:1312.6114, appendix B)."""
        mean, logvar = self.mean.float(), self.logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(1)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions, each after group norm and activation, around a shortcut: [B C h w] -> [B C' h w]."""

    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.act_fn]
        self.norm1 = GroupNorm(config.norm_num_groups, in_channels, eps=EPSILON)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(config.norm_num_groups, out_channels, eps=EPSILON)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C' h w]."""
        h: Tensor = self.conv1(self.act(self.norm1(x)))
        h = self.conv2(self.act(self.norm2(h)))
        return self.conv_shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention with one head over all places of the latent, added to its input: [B C h w] -> [B C h w]."""

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(config.norm_num_groups, channels, eps=EPSILON)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]."""
        tokens: Tensor = self.group_norm(x).flatten(2).transpose(1, 2)  # [B hw C]
        q, k, v = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        mixed: Tensor = self.to_out[0](single_head_attention(q, k, v))
        return x + mixed.transpose(1, 2).reshape(x.shape)


def single_head_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k' / sqrt(C)) v for q, k, v [B L C].

    With gradients on a CPU the products are written out: the fused kernel's backward pass is several times slower.
    """
    if torch.is_grad_enabled() and q.requires_grad and q.device.type == "cpu":
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(1, 2)).softmax(-1)
        return weights @ v
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]


class Downsample(nn.Module):
    """Halve height and width with a strided convolution, padded right and below as the LDM authors did."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h/2 w/2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C 2h 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownBlock(nn.Module):
    """The residual blocks of one resolution, then half that resolution unless it is the coarsest."""

    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.layers_per_block
        self.resnets = resnet_chain(config, widths)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C' h/2 w/2], or [B C' h w] if it is the coarsest."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpBlock(nn.Module):
    """The residual blocks of one resolution (one more than going down), then twice it unless it is the finest."""

    def __init__(self, config: AutoencoderConfig, in_channels: int, out_channels: int, *, last: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.layers_per_block + 1)
        self.resnets = resnet_chain(config, widths)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C' 2h 2w], or [B C' h w] if it is the finest."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class MidBlock(nn.Module):
    """At the coarsest resolution: residual block, attention (if the config has it), residual block."""

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.resnets = resnet_chain(config, [channels] * 3)
        self.attentions = nn.ModuleList([AttentionBlock(config, channels)] if config.mid_block_add_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]."""
        for layer in (self.resnets[0], *self.attentions, self.resnets[1]):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Pixels [B in H W] to the two halves of the moments, [B 2z h w], before quant_conv."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        pairs = pairs_of([widths[0], *widths])
        self.down_blocks = nn.ModuleList(
            DownBlock(config, before, after, last=index == len(pairs) - 1)
            for index, (before, after) in enumerate(pairs)
        )
        self.mid_block = MidBlock(config, widths[-1])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B in H W] -> [B 2z h w]."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        # The last activation is SiLU whatever act_fn says: so it is in diffusers.
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """A latent [B z h w], after post_quant_conv, to pixels [B out H W]."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(config, widths[0])
        pairs = pairs_of([widths[0], *widths])
        self.up_blocks = nn.ModuleList(
            UpBlock(config, before, after, last=index == len(pairs) - 1) for index, (before, after) in enumerate(pairs)
        )
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[-1], eps=EPSILON)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[B z h w] -> [B out H W]."""
        x: Tensor = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """A variational autoencoder with the network, parameter names and shapes of diffusers' AutoencoderKL."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        z = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(z, z, 1) if config.use_post_quant_conv else nn.Identity()

    def encode(self, pixels: Tensor) -> Moments:
        """The latent Gaussian of pixels [B in H W] in [-1, 1]; h = H / config.factor, unscaled (Codec scales)."""
        return self.moments(self.encoder(pixels))

    def moments(self, encoded: Tensor) -> Moments:
        """The latent Gaussian of what the encoder gives, [B 2z h w]."""
        mean, logvar = self.quant_conv(encoded).chunk(2, dim=1)
        return Moments(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Pixels [B out H W], about [-1, 1] and not clamped, of an unscaled latent [B z h w]."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, pixels: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Moments]:
        """Reconstruction [B out H W] and moments of pixels [B in H W]; noise [B z h w] decodes a sample."""
        moments = self.encode(pixels)
        return self.decode(moments.mean if noise is None else moments.sample(noise)), moments


def resnet_chain(config: AutoencoderConfig, widths: Sequence[int]) -> nn.ModuleList:
    """Residual blocks in a row: widths [C0 C1 .. Cn] makes n of them."""
    return nn.ModuleList(ResnetBlock(config, before, after) for before, after in pairs_of(widths))


def pairs_of(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Each width with the one after it."""
    return list(pairwise(widths))
