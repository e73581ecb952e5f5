"""Names and shapes of tiny checkpoints of every kind, as published files have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Shapes = dict[str, tuple[int, ...]]
SD_UNET = "model.diffusion_model."
POOLED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}


class Checkpoints(dict[str, Shapes]):
    """Shapes by name, by the kind of checkpoint."""

    def __repr__(self) -> str:  # Else every failure prints thousands of names.
        return "checkpoints"


def tiny_checkpoints() -> dict[str, Shapes]:
    """One of each kind. Widths of 64 and more make the number of heads tell."""
    import torch

    from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
    from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
    from mezzotint.denoise.unet import UNet, UNetConfig
    from mezzotint.store.keymap import KeyMap, Piece
    from mezzotint.store.ldm import clip, unet, vae
    from mezzotint.store.ldm.bert import places as bert_places
    from mezzotint.store.weights import Unfilled
    from mezzotint.vae import Autoencoder, AutoencoderConfig

    def shapes(make: Callable[[], torch.nn.Module], places: KeyMap, prefix: str) -> Shapes:
        with torch.device("meta"), Unfilled():
            tensors = make().state_dict()
        return {prefix + places[name].source: foreign(places[name], tuple(own.shape)) for name, own in tensors.items()}

    def foreign(piece: Piece, own: tuple[int, ...]) -> tuple[int, ...]:  # `given` would do, but bring the compiler.
        own = own[::-1] if piece.transposed else own
        own = (*own, 1, 1) if piece.convolution and len(own) == 2 else own
        return (own[0] * piece.parts, *own[1:])

    def denoiser(**changes: Any) -> Shapes:
        config = UNetConfig(
            **{
                "block_out_channels": (32, 128),
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                "layers_per_block": 1,
                "cross_attention_dim": 64,
                "attention_head_dim": 1,
                **changes,
            }
        )
        return shapes(lambda: UNet(config), unet.places(config), SD_UNET)

    def text(prefix: str, names: str, width: int = 64, blocks: int = 3, **changes: Any) -> Shapes:
        config = CLIPTextConfig(
            vocab_size=40,
            hidden_size=width,
            intermediate_size=96,
            num_hidden_layers=blocks,
            num_attention_heads=1,
            **changes,
        )
        return shapes(lambda: CLIPTextModel(config), clip.places(config, names), prefix)

    coder = AutoencoderConfig.of_widths(32, 32, 64, 64)
    autoencoder = shapes(lambda: Autoencoder(coder), vae.places(coder), "first_stage_model.")
    linear: dict[str, Any] = {"use_linear_projection": True}
    xl: dict[str, Any] = {
        **linear,
        **POOLED,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 2,
    }
    projected: dict[str, Any] = {"with_projection": True, "projection_dim": 48}
    vit_h = text("", clip.OPEN_CLIP, **projected)

    def at(prefix: str, part: Shapes) -> Shapes:
        return {prefix + name: shape for name, shape in part.items()}

    bert = LDMBertConfig(
        vocab_size=30, max_position_embeddings=7, encoder_layers=2, encoder_ffn_dim=32, head_dim=4, d_model=64
    )
    words = {"token_emb.weight": (30, 64), "pos_emb.emb.weight": (7, 64), "norm.weight": (64,), "norm.bias": (64,)}
    words |= {"to_logits.weight": (30, 64), "to_logits.bias": (30,)}
    for index in range(2):
        attention, widening = f"attn_layers.layers.{2 * index}", f"attn_layers.layers.{2 * index + 1}"
        words |= {f"{branch}.0.{kind}": (64,) for branch in (attention, widening) for kind in ("weight", "bias")}
        words |= {f"{attention}.1.to_{role}.weight": (32, 64) for role in "qkv"}
        words |= {f"{attention}.1.to_out.weight": (64, 32), f"{attention}.1.to_out.bias": (64,)}
        words |= {f"{widening}.1.net.0.0.weight": (32, 64), f"{widening}.1.net.0.0.bias": (32,)}
        words |= {f"{widening}.1.net.2.weight": (64, 32), f"{widening}.1.net.2.bias": (64,)}
    assert {piece.source for piece in bert_places(bert).values()} == words.keys()

    sd_1 = denoiser() | autoencoder
    sd_2 = denoiser(**linear) | autoencoder
    return {
        "ldm": sd_1 | at("cond_stage_model.transformer.", words),
        "sd1": sd_1 | text("cond_stage_model.transformer.", clip.TRANSFORMERS),
        "sd1 old": sd_1 | text("cond_stage_model.transformer.", clip.BARE),
        "sd2": sd_2 | at("cond_stage_model.model.", vit_h),
        "sd2 turbo": sd_2 | at("conditioner.embedders.0.model.", vit_h),
        "sdxl": denoiser(**xl, projection_class_embeddings_input_dim=48 + 6 * 8, cross_attention_dim=128)
        | autoencoder
        | text("conditioner.embedders.0.transformer.", clip.TRANSFORMERS)
        | at("conditioner.embedders.1.model.", vit_h),
        "refiner": denoiser(**xl, projection_class_embeddings_input_dim=48 + 5 * 8)
        | autoencoder
        | at("conditioner.embedders.0.model.", vit_h),
        "unclip": denoiser(
            **linear,
            cross_attention_dim=1024,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2048,
        )
        | autoencoder
        | at("cond_stage_model.model.", vit_h),
    }


@pytest.fixture(scope="session")
def _checkpoints() -> dict[str, Shapes]:
    return tiny_checkpoints()


@pytest.fixture
def checkpoints(_checkpoints: dict[str, Shapes]) -> Checkpoints:
    """Shapes by name, for each kind of checkpoint; a copy that may be changed."""
    return Checkpoints({kind: dict(shapes) for kind, shapes in _checkpoints.items()})
