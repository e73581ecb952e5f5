"""A U-Net with its weights laid out once as the CPU's kernels want them, for drawing at one size.

oneDNN multiplies by weights in blocks. Given plain weights, torch rearranges them at every call, which costs about as
much as the product itself where the latent is small. Which blocks are best depends on the latent's size, hardly on the
batch, and the wrong ones are hundreds of times slower; so at any other size a layer works from its plain weights.

Blocks are a second copy of the weights. A layer makes its own when it first draws at that size, so a model that is only
loaded takes no more memory than its weights do.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.attention import Pointwise
from mezzotint.denoise.unet import UNet

Module = TypeVar("Module", bound=nn.Module)

ROWS = 2  # the batch that the layout is chosen for: one guided step


def packed(unet: UNet, size: tuple[int, int]) -> UNet:
    """A network that draws latents [B C *size] as `unet` does, faster on a CPU; its last bits may differ.

    At another size, with gradients, on another device or in another dtype it is merely as fast as `unet`. It shares
    the parameters of `unet`, which stays as it was, and so has its state_dict; where one of them changes, `repack` the
    layer that has it. Where nothing can be packed it is `unet` itself.
    """
    if not can_pack(unet.conv_in.weight):
        return unet
    clone = sharing(unet)
    sizes = [size]
    for _ in unet.down_blocks[1:]:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    for name, layer in list(clone.named_modules()):
        h, w = sizes[level(name, len(sizes))]
        parent, _, leaf = name.rpartition(".")
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, Pointwise):
            setattr(clone.get_submodule(parent), leaf, PackedConv(layer, (h, w)))
        elif isinstance(layer, (nn.Linear, Pointwise)) and reads_positions(name):
            setattr(clone.get_submodule(parent), leaf, PackedLinear(layer, ROWS * h * w))
    return clone


def sharing(module: Module) -> Module:
    """The same modules anew, all with the very parameters of the old ones."""
    clone = copy.copy(module)
    own = vars(clone)
    own |= {name: dict(own[name]) for name in ("_parameters", "_buffers", "_modules")}
    for name, child in module.named_children():
        own["_modules"][name] = sharing(child)
    return clone


def repack(layer: nn.Module) -> None:
    """Let a packed layer lay out its weight anew, after it has changed; any other layer has nothing to do."""
    if isinstance(layer, PackedLinear | PackedConv):
        layer.blocks = None


def can_pack(weight: Tensor) -> bool:
    """Whether a weight is on a CPU, in a dtype that this build of torch multiplies with oneDNN."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def level(name: str, levels: int) -> int:
    """The resolution, 0 the finest, of what the module of this name reads."""
    match name.split("."):
        case ["down_blocks", index, *_]:
            return int(index)
        case ["mid_block", *_]:
            return levels - 1
        case ["up_blocks", index, "upsamplers", *_]:
            return levels - 2 - int(index)
        case ["up_blocks", index, *_]:
            return levels - 1 - int(index)
        case _:
            return 0


def reads_positions(name: str) -> bool:
    """Whether the layer of this name reads the latent's positions at every step, and not the time or the text."""
    return ".attentions." in name and not name.endswith((".attn2.to_k", ".attn2.to_v"))


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether x can be multiplied by this weight in blocks, which keep no gradient; otherwise plain weights serve."""
    return x.dtype == weight.dtype and not torch.is_grad_enabled() and can_pack(weight)


class PackedLinear(nn.Module):
    """A linear layer with its weight in blocks beside it: [.. C] -> [.. C']."""

    def __init__(self, layer: nn.Linear | Pointwise, positions: int) -> None:
        super().__init__()
        self.weight, self.bias, self.positions = layer.weight, layer.bias, positions
        self.blocks: Tensor | None = None

    def pack(self) -> Tensor:
        """The weight as it is now, in blocks."""
        plain = self.weight.detach().flatten(1).contiguous()
        return torch.ops.mkldnn._reorder_linear_weight(plain, self.positions)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [.. C]."""
        if not fits(x, self.weight):
            return F.linear(x, self.weight.flatten(1), self.bias)
        if self.blocks is None or self.blocks.dtype != x.dtype:
            self.blocks = self.pack()
        return torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")


class PackedConv(nn.Module):
    """A convolution with its weight in blocks beside it: [B C h w] -> [B C' h' w'], channels_last."""

    def __init__(self, layer: nn.Conv2d, size: tuple[int, int]) -> None:
        super().__init__()
        self.weight, self.bias, self.size = layer.weight, layer.bias, size
        self.padding, self.stride = [int(n) for n in layer.padding], list(layer.stride)
        self.blocks: Tensor | None = None

    def pack(self) -> Tensor:
        """As PackedLinear.pack."""
        shape = [ROWS, self.weight.shape[1], *self.size]
        return torch.ops.aten.mkldnn_reorder_conv2d_weight(
            self.weight.detach().to_mkldnn(), self.padding, self.stride, [1, 1], 1, shape
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x [B C h w]."""
        x = x.contiguous(memory_format=torch.channels_last)
        if x.shape[2:] != self.size or not fits(x, self.weight):
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if self.blocks is None or self.blocks.dtype != x.dtype:
            self.blocks = self.pack()
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.blocks, self.bias, self.padding, self.stride, [1, 1], 1, "none", [], ""
        )
