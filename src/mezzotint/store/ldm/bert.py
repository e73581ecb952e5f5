"""The text encoder of latent diffusion's text-to-image model, in the names of x-transformers; ours are diffusers'.

In x-transformers attention and feed-forward are layers in turn, each a list of a norm (0) and its branch (1).
Source of the names: CompVis/latent-diffusion, x_transformer.py.
"""

from __future__ import annotations

from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.store.keymap import KeyMap, Piece
from mezzotint.store.ldm.names import Shapes, layer, length, shape

NAMES = "x-transformers names"
TELL = "token_emb.weight"
"""The tensor by which it is known."""
HEADS = 8
"""Attention heads, the default of x-transformers; no shape tells of them."""


def find(shapes: Shapes, prefix: str) -> bool:
    """Whether there is such an encoder whose names begin with `prefix`."""
    return prefix + TELL in shapes


def places(config: LDMBertConfig) -> KeyMap:
    """Where each tensor lies, without prefix. The words' scores (to_logits), which no picture needs, are among them."""
    pieces = {
        "model.embed_tokens.weight": Piece("token_emb.weight"),
        "model.embed_positions.weight": Piece("pos_emb.emb.weight"),
        **layer("model.layer_norm", "norm"),
        **layer("to_logits", "to_logits"),
    }
    for index in range(config.encoder_layers):
        ours = f"model.layers.{index}"
        attention, widening = (f"attn_layers.layers.{2 * index + branch}" for branch in range(2))
        pieces |= {f"{ours}.self_attn.{role}_proj.weight": Piece(f"{attention}.1.to_{role}.weight") for role in "qkv"}
        pieces |= layer(f"{ours}.self_attn.out_proj", f"{attention}.1.to_out")
        pieces |= layer(f"{ours}.self_attn_layer_norm", f"{attention}.0")
        pieces |= layer(f"{ours}.fc1", f"{widening}.1.net.0.0") | layer(f"{ours}.fc2", f"{widening}.1.net.2")
        pieces |= layer(f"{ours}.final_layer_norm", f"{widening}.0")
    return pieces


def config(shapes: Shapes) -> LDMBertConfig:
    """What the encoder of these tensors, named without prefix, is made of.

    Raises UserError where a tensor is missing.
    """
    vocabulary, width = shape(shapes, "token_emb.weight", 2)
    return LDMBertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=shape(shapes, "pos_emb.emb.weight", 2)[0],
        encoder_layers=length(shapes, "attn_layers.layers.{}.0.weight") // 2,
        encoder_ffn_dim=shape(shapes, "attn_layers.layers.1.1.net.0.0.weight", 2)[0],
        encoder_attention_heads=HEADS,
        head_dim=shape(shapes, "attn_layers.layers.0.1.to_q.weight", 2)[0] // HEADS,
        d_model=width,
    )
