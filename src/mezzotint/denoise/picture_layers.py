"""Keys and values of pictures for every cross-attention of a U-Net, which stays as it is: decoupled cross-attention.

Ye et al. 2023, IP-Adapter, arXiv 2308.06721, equation 5: softmax(Q K^T / sqrt(d)) V + w softmax(Q K'^T / sqrt(d)) V',
K and V from the text, K' and V' from a picture. Several pictures have a term each.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mezzotint.denoise.attention import Attention, Pairs, TransformerBlock


class _Layer(nn.Module):
    """What one cross-attention reads of a picture."""

    def __init__(self, context_dim: int, dim: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context_dim, dim, bias=False)
        self.to_v_ip = nn.Linear(context_dim, dim, bias=False)


class PictureLayers(nn.Module):
    """The layers by the names in files of IP-Adapter, 1.to_k_ip.weight and on.

    Numbers count self-attentions and cross-attentions, first on the way down, then up, then in the middle.
    """

    def __init__(self, unet: nn.Module) -> None:
        """Those for a U-Net, which begin by reading pictures as it reads text."""
        super().__init__()
        blocks = {name: module for name, module in unet.named_modules() if isinstance(module, TransformerBlock)}
        middle = [name for name in blocks if name.startswith("mid_block")]
        numbered = [name for name in blocks if name not in middle] + middle
        self._order = [str(2 * numbered.index(name) + 1) for name in blocks]
        for number, name in zip(self._order, blocks, strict=True):
            attention = blocks[name].attn2
            assert isinstance(attention, Attention)
            dim, context_dim = attention.to_k.weight.shape
            layer = _Layer(context_dim, dim)
            if not layer.to_k_ip.weight.is_meta:
                with torch.no_grad():
                    layer.to_k_ip.weight.copy_(attention.to_k.weight)
                    layer.to_v_ip.weight.copy_(attention.to_v.weight)
            self.add_module(number, layer)

    def forward(self, pictures: Tensor, weights: Tensor) -> Iterator[Pairs]:
        """What every cross-attention reads of the tokens [B N T D] of N pictures, each as much as its weight [B N].

        In the order in which the U-Net runs.
        """
        for number in self._order:
            layer = self.get_submodule(number)
            assert isinstance(layer, _Layer)
            k, v = layer.to_k_ip(pictures), layer.to_v_ip(pictures) * weights[..., None, None]
            yield tuple(zip(k.unbind(1), v.unbind(1), strict=True))
