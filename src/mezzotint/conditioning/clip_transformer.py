"""The transformer that both of CLIP's towers are: tokens [B L D] to tokens [B L D], norms before branches.

B rows, L tokens, D their width, N heads. Parameters carry transformers' names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.clip_config import TowerConfig
from mezzotint.types import UserError


def quick_gelu(x: Tensor) -> Tensor:
    """The sigmoid approximation of GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2)."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (arXiv:1606.08415, section 2)."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_new": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
}


def attend(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, unseen: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v for q, k, v [B N L d]; causal hides from each token those after it.

    `unseen` [B L] is true for tokens that are hidden from all; the first must not be where causal. With gradients on a
    CPU the products are written out: the fused kernel's backward pass is several times slower.
    """
    written_out = torch.is_grad_enabled() and q.requires_grad and q.device.type == "cpu"
    if unseen is None and not written_out:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    hidden = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=q.device)
    if causal:
        hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    if unseen is not None:
        hidden = hidden | unseen[:, None, None, :]
    if not written_out:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if causal or unseen is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class Attention(nn.Module):
    """Self-attention with N heads."""

    def __init__(self, config: TowerConfig, *, causal: bool) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.causal = causal
        width = config.hidden_size
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, unseen: Tensor | None = None) -> Tensor:
        """[B L D] -> [B L D]; `unseen` as in `attend`."""
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B N L d]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(q, k, v, causal=self.causal, unseen=unseen).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Out to a wider layer and back."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B L D] -> [B L D]."""
        return self.fc2(self.act(self.fc1(x)))


class Layer(nn.Module):
    """One transformer block."""

    def __init__(self, config: TowerConfig, *, causal: bool) -> None:
        super().__init__()
        self.self_attn = Attention(config, causal=causal)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, unseen: Tensor | None = None) -> Tensor:
        """[B L D] -> [B L D]; `unseen` as in `attend`."""
        x = x + self.self_attn(self.layer_norm1(x), unseen)
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The blocks in a row."""

    def __init__(self, config: TowerConfig, *, causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, causal=causal) for _ in range(config.num_hidden_layers))
        self.initialise(config)

    def initialise(self, config: TowerConfig) -> None:
        """Draw the weights as OpenAI's CLIP does: what is added to the stream is smaller the more blocks add to it."""
        attention_std = config.hidden_size**-0.5
        branch_std = attention_std * (2 * config.num_hidden_layers) ** -0.5
        widening_std = (2 * config.hidden_size) ** -0.5
        for layer in cast("list[Layer]", list(self.layers)):
            attention, mlp = layer.self_attn, layer.mlp
            for linear, std in (
                (attention.q_proj, attention_std),
                (attention.k_proj, attention_std),
                (attention.v_proj, attention_std),
                (attention.out_proj, branch_std),
                (mlp.fc1, widening_std),
                (mlp.fc2, branch_std),
            ):
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, unseen: Tensor | None = None) -> tuple[Tensor, ...]:
        """The input and the output of every block, each [B L D]: one more than there are blocks.

        `unseen` as in `attend`.
        """
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], unseen))
        return tuple(states)


def chosen(states: Sequence[Tensor], norm: nn.Module, *, layer: int, final_norm: bool) -> Tensor:
    """The tokens [B L D] that leave one block of a text encoder, with or without its final layer norm.

    `states` are the embeddings and every block's output. Layer -1 is the last block, -2 the one before it. Raises
    UserError for a layer that is not there.
    """
    if not -len(states) <= layer <= -1:
        raise UserError(f"The text encoder has no layer {layer}; choose from -1, the last, to {-len(states)}.")
    return norm(states[layer]) if final_norm else states[layer]
