"""Layers that several stages are made of: sinusoids of numbers, and group normalisation with a quick gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def sinusoid(t: Tensor, dim: int, flip_sin_to_cos: bool = True, freq_shift: float = 0) -> Tensor:
    """Sines and cosines of t at geometrically falling frequencies (Vaswani et al. 2017, section 3.5): [..] -> [.. dim].

    t is in timesteps (SDXL also embeds sizes in pixels); dim is even. fp32.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float().unsqueeze(-1) * torch.exp(steps * (-math.log(10000.0) / (half - freq_shift)))
    waves = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
    return torch.cat(waves, dim=-1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018): torch's, but for a gradient that is quick on a CPU in channels_last.

    torch's own backward pass walks channels_last memory group by group, which takes a third of a training step of a
    small autoencoder; here it is two sums and one fused update over whole rows of channels. Parameters and values are
    torch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B C h w] -> [B C h w]."""
        if torch.is_grad_enabled() and input.device.type == "cpu" and input.dim() == 4:
            return _GroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)  # pyright: ignore[reportReturnType, reportUnknownMemberType, reportUnknownVariableType]
        return super().forward(input)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(
            x, weight.to(x.dtype), bias.to(x.dtype), batch, channels, height * width, groups, eps
        )
        ctx.save_for_backward(x, weight, mean.float(), rstd.float())
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable  # The gradient is computed past autograd, so its own gradient would come out wrong in silence.
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, rstd = ctx.saved_tensors
        dy: Tensor = gradients[0]
        batch, channels, height, width = x.shape
        groups = ctx.groups

        def per_channel(group_value: Tensor) -> Tensor:  # [B G] -> [B C]
            return group_value.repeat_interleave(channels // groups, dim=1)

        def per_group(channel_value: Tensor) -> Tensor:  # [B C] -> [B G], the mean over the group's values
            return channel_value.view(batch, groups, -1).sum(dim=2) / (channels // groups * height * width)

        # y = weight (x - mean) rstd + bias; with g = weight dy: dx = rstd (g - <g> - xhat <g xhat>).
        # torch adds up bfloat16 in float32 and rounds once, while asking for a float32 sum would copy everything first.
        sum_dy = dy.sum(dim=(2, 3)).float()
        sum_dy_xhat = ((dy * x).sum(dim=(2, 3)).float() - per_channel(mean) * sum_dy) * per_channel(rstd)
        scale = weight.float() * per_channel(rstd)
        slope = -per_group(weight * sum_dy_xhat) * rstd * rstd
        shift = -per_group(weight * sum_dy) * rstd - slope * mean

        def spread(value: Tensor) -> Tensor:  # [B C] -> [B C 1 1]
            return value.to(x.dtype)[:, :, None, None]

        dx = torch.addcmul(torch.addcmul(spread(per_channel(shift)), x, spread(per_channel(slope))), dy, spread(scale))
        return dx, sum_dy_xhat.sum(dim=0).to(weight.dtype), sum_dy.sum(dim=0).to(weight.dtype), None, None
