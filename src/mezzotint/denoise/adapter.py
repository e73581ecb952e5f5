"""A U-Net that reads more channels beside the latent: new columns in its first layer, low-rank changes in the others.

The U-Net itself stays as it is, so it draws from words alone as before (Hu et al. 2021, LoRA, arXiv 2106.09685,
equation 3, said of every layer that has a matrix). New columns and the second factor begin at zero: before it has
learned anything an adapted U-Net is the U-Net, whatever lies on the new channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.attention import Pointwise
from mezzotint.denoise.unet import UNet
from mezzotint.denoise.variants import with_modules

FIRST = "conv_in"
COLUMNS = f"{FIRST}.columns"
"""The name of what its new channels are read by."""


class Wider(nn.Module):
    """A convolution that reads more channels than another did: [B C+S h w] -> [B C' h w]."""

    def __init__(self, base: nn.Conv2d, channels: int) -> None:
        """`channels` is S."""
        super().__init__()
        self.base = base
        self.columns = nn.Parameter(base.weight.new_zeros(base.out_channels, channels, *base.kernel_size))

    def merged(self) -> Tensor:
        """The weight of the convolution that does the same."""
        return torch.cat([self.base.weight, self.columns], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """As above."""
        return F.conv2d(x, self.merged(), self.base.bias, padding=1)


class LowRank(nn.Module):
    """A layer whose weight is W + up @ down, W another's and fixed."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base
        rows, columns = base.weight.shape[0], base.weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns, device=base.weight.device) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(rows, rank, device=base.weight.device))

    def merged(self) -> Tensor:
        """The weight."""
        return self.base.weight + (self.up @ self.down).view_as(self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer does."""
        if isinstance(self.base, nn.Linear):
            return F.linear(x, self.merged(), self.base.bias)
        return F.conv2d(x, self.merged(), self.base.bias, self.base.stride, self.base.padding)


def adapted(unet: UNet, channels: int, rank: int) -> UNet:
    """A network to train that reads `channels` more, its layers those of `unet`, fixed, with changes of a rank.

    `unet` is frozen. Raises ValueError where it reads channels beside the latent's already.
    """
    if unet.config.spatial_channels != 0:
        raise ValueError("The U-Net reads channels beside the latent's already.")
    unet.requires_grad_(False)
    first = unet.get_submodule(FIRST)
    assert isinstance(first, nn.Conv2d)
    changed: dict[str, nn.Module] = {FIRST: Wider(first, channels)}
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and not isinstance(layer, Pointwise) and name != FIRST:
            changed[name] = LowRank(layer, min(rank, layer.weight.shape[0], layer.weight[0].numel()))
    wide = with_modules(unet, changed)
    wide.config = replace(unet.config, in_channels=unet.config.in_channels + channels)
    return wide


def learned(wide: UNet) -> dict[str, Tensor]:
    """What an adapted network has learned, by the names of its layers: NAME.down and NAME.up, and conv_in.columns."""
    found: dict[str, Tensor] = {}
    for name, module in wide.named_modules():
        if isinstance(module, Wider | LowRank):
            own = module.named_parameters(recurse=False)
            found |= {f"{name}.{part}": value.detach() for part, value in own}
    return found


def go_on(wide: UNet, tensors: Mapping[str, Tensor]) -> None:
    """Let an adapted network begin with what another has learned, as `learned` gives it, in place.

    Raises ValueError where that is of another U-Net, other channels or another rank.
    """
    own = learned(wide)
    if {name: tensor.shape for name, tensor in own.items()} != {name: each.shape for name, each in tensors.items()}:
        raise ValueError("What was learned is of another network or another rank.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def with_learned(unet: UNet, tensors: Mapping[str, Tensor], reads: slice = slice(None)) -> UNet:
    """A U-Net of its own with what an adapted one has learned, as `learned` gives it, in its weights.

    It reads those of the new channels that `reads` says; the others are as if zero lay on them. Raises KeyError or
    RuntimeError where the tensors are of another U-Net.
    """
    weights = dict(unet.state_dict())
    columns = tensors[COLUMNS][:, reads].to(weights[f"{FIRST}.weight"])
    weights[f"{FIRST}.weight"] = torch.cat([weights[f"{FIRST}.weight"], columns], dim=1)
    for name in sorted({name.rpartition(".")[0] for name in tensors} - {FIRST}):
        weight = weights[f"{name}.weight"]
        change = tensors[f"{name}.up"].float() @ tensors[f"{name}.down"].float()
        weights[f"{name}.weight"] = (weight.float() + change.view_as(weight)).to(weight)
    with torch.device("meta"):
        made = UNet(replace(unet.config, in_channels=unet.config.in_channels + columns.shape[1]))
    made.load_state_dict(weights, assign=True)
    return made.eval().requires_grad_(False)
