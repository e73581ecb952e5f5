"""The U-Net without its coarsest self-attention: the worse network of perturbed-attention guidance.

Ahn et al. 2024 (arXiv 2403.17377, section 4) replace softmax(q k^T / sqrt(d)) by the identity: every position attends
to itself alone, and the values go straight to the output projection. Pictures keep texture and lose structure.
"""

from __future__ import annotations

from torch import Tensor, nn

from mezzotint.denoise.attention import Attention, TransformerBlock
from mezzotint.denoise.unet import UNet
from mezzotint.denoise.variants import with_modules
from mezzotint.types import UserError


class OwnValues(nn.Module):
    """Self-attention whose map is the identity: [B N C] -> [B N C].

    It holds the four projections of the attention that it stands for, the two idle ones too, so that a network has the
    same parameters with either.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.to_q, self.to_k = attention.to_q, attention.to_k
        self.to_v, self.to_out = attention.to_v, attention.to_out

    def forward(self, x: Tensor) -> Tensor:
        """Every position's own value, projected."""
        return self.to_out[0](self.to_v(x))


def perturbed(unet: UNet) -> UNet:
    """A network that shares every layer of `unet`, packed or not, but the map of its coarsest self-attentions.

    These are the mid block's, as in the paper, or where there is no mid block those of the coarsest level that has any,
    on the way down and up. Layers are the same objects, so what is done to a layer of `unet` afterwards (a LoRA,
    `repack`, a move to another device) is done here, and what `unet.project` makes of a text is good for both. Where
    `unet` is given other layers, make it anew. Raises UserError where there is no self-attention to take away.
    """
    blocks = {name: module for name, module in unet.named_modules() if isinstance(module, TransformerBlock)}
    names = coarsest(list(blocks), len(unet.down_blocks))
    changed = {f"{name}.attn1": OwnValues(blocks[name].attn1) for name in names}
    if not changed:
        raise UserError("This model's U-Net has no self-attention, so the guide pag has nothing to take away.")
    return with_modules(unet, changed)


def coarsest(names: list[str], levels: int) -> list[str]:
    """Of transformer blocks by name, the mid block's; without one, those of the coarsest resolution that has any."""
    depths = {name: depth(name, levels) for name in names}
    return [name for name in names if depths[name] == max(depths.values())]


def depth(name: str, levels: int) -> int:
    """How coarse the block of this name is: 0 the finest level, `levels` the mid block."""
    match name.split("."):
        case ["mid_block", *_]:
            return levels
        case ["up_blocks", index, *_]:
            return levels - 1 - int(index)
        case [_, index, *_]:
            return int(index)
        case _:
            raise ValueError(f"{name} is no block of a U-Net.")
