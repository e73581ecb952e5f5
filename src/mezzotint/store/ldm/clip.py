"""CLIP's text tower in its two layouts: transformers' names, with or without `text_model.`, and OpenCLIP's.

OpenCLIP keeps query, key and value in one tensor, and its projection with rows and columns exchanged.
"""

from __future__ import annotations

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.store.keymap import KeyMap, Piece
from mezzotint.store.ldm.names import Shapes, layer, length, shape

TRANSFORMERS = "transformers names"
BARE = "transformers names without text_model."
OPEN_CLIP = "OpenCLIP names"

VIT_H_WIDTH = 1024
"""Width of OpenCLIP's ViT-H, whose activation is gelu in whatever names it is written; no text tower of OpenAI's in a
checkpoint is as wide."""
HEAD_WIDTH = 64
"""Width of an attention head in every published CLIP; no shape tells of it."""
TELLS = {
    TRANSFORMERS: "text_model.embeddings.token_embedding.weight",
    BARE: "embeddings.token_embedding.weight",
    OPEN_CLIP: "transformer.resblocks.0.attn.in_proj_weight",
}
"""The tensor by which each layout is known."""
OPEN_CLIP_LAYERS = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def find(shapes: Shapes, prefix: str) -> str | None:
    """The layout of the text tower whose names begin with `prefix`, or none where there is none."""
    return next((names for names, tell in TELLS.items() if prefix + tell in shapes), None)


def places(config: CLIPTextConfig, names: str) -> KeyMap:
    """Where each tensor of our text tower lies in a layout, without prefix."""
    pieces = _open_clip(config) if names == OPEN_CLIP else _transformers(config, "" if names == BARE else "text_model.")
    if config.with_projection:
        transposed = names == OPEN_CLIP
        theirs = "text_projection" if transposed else "text_projection.weight"
        pieces["text_projection.weight"] = Piece(theirs, transposed=transposed)
    return pieces


def _transformers(config: CLIPTextConfig, prefix: str) -> dict[str, Piece]:
    names = [f"embeddings.{kind}_embedding.weight" for kind in ("token", "position")]
    layers = [f"self_attn.{role}_proj" for role in ("q", "k", "v", "out")]
    layers += ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    modules = [f"encoder.layers.{index}.{name}" for index in range(config.num_hidden_layers) for name in layers]
    names += [f"{module}.{kind}" for module in (*modules, "final_layer_norm") for kind in ("weight", "bias")]
    return {f"text_model.{name}": Piece(prefix + name) for name in names}


def _open_clip(config: CLIPTextConfig) -> dict[str, Piece]:
    pieces = {
        "text_model.embeddings.token_embedding.weight": Piece("token_embedding.weight"),
        "text_model.embeddings.position_embedding.weight": Piece("positional_embedding"),
    }
    for index in range(config.num_hidden_layers):
        ours, theirs = f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}"
        for own, foreign in OPEN_CLIP_LAYERS.items():
            pieces |= layer(f"{ours}.{own}", f"{theirs}.{foreign}")
        for part, role in enumerate("qkv"):
            for kind in ("weight", "bias"):
                name = f"{ours}.self_attn.{role}_proj.{kind}"
                pieces[name] = Piece(f"{theirs}.attn.in_proj_{kind}", part=part, parts=3)
    return pieces | layer("text_model.final_layer_norm", "ln_final")


def config(shapes: Shapes, names: str, *, projection: bool = True) -> CLIPTextConfig:
    """What the text tower of these tensors, named without prefix in that layout, is made of.

    The shapes do not tell the number of heads (HEAD_WIDTH), the activation (OpenAI's published towers have quick_gelu,
    OpenCLIP's gelu) and the special tokens (CLIP's vocabulary ends with begin and end). `projection` false leaves a
    projection in the file unread. Raises UserError where a tensor is missing.
    """
    open_clip = names == OPEN_CLIP
    if open_clip:
        tokens, positions = shape(shapes, "token_embedding.weight", 2), shape(shapes, "positional_embedding", 2)
        widened = shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
        blocks = length(shapes, "transformer.resblocks.{}.attn.in_proj_weight")
        projected = shape(shapes, "text_projection", 2)[1] if "text_projection" in shapes else 0
    else:
        prefix = "" if names == BARE else "text_model."
        tokens = shape(shapes, f"{prefix}embeddings.token_embedding.weight", 2)
        positions = shape(shapes, f"{prefix}embeddings.position_embedding.weight", 2)
        widened = shape(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0]
        blocks = length(shapes, f"{prefix}encoder.layers.{{}}.mlp.fc1.weight")
        projected = shape(shapes, "text_projection.weight", 2)[0] if "text_projection.weight" in shapes else 0
    vocabulary, width = tokens
    projected = projected if projection else 0
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=widened,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // HEAD_WIDTH),
        projection_dim=projected if projected > 0 else width,
        hidden_act="gelu" if open_clip or width == VIT_H_WIDTH else "quick_gelu",
        with_projection=projected > 0,
        vocab_size=vocabulary,
        max_position_embeddings=positions[0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
