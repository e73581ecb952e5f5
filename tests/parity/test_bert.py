"""Latent diffusion's text encoder against diffusers' LDMBertModel: names, shapes, every layer."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig as TheirConfig
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel as TheirModel

from mezzotint.conditioning import LDMBertConfig, LDMBertModel

TINY = {
    "vocab_size": 30,
    "encoder_layers": 3,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "head_dim": 6,
    "d_model": 16,
}


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@torch.no_grad()
def test_every_layer_agrees(activation: str) -> None:
    torch.manual_seed(0)
    theirs = TheirModel(TheirConfig(**TINY, activation_function=activation)).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    ours = LDMBertModel(LDMBertConfig.from_dict(theirs.config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())  # strict
    ids = torch.randint(0, 30, (3, 77))
    expected = theirs(ids, output_hidden_states=True)
    # The same float32 operations up to fused attention.
    torch.testing.assert_close(ours(ids), expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    for layer in (-2, -3, -4):
        state, pooled = ours.read(ids, layer=layer, final_norm=False)
        assert pooled is None
        # Theirs lists what enters each block, and last what leaves the norm.
        torch.testing.assert_close(state, expected.hidden_states[layer], rtol=1e-5, atol=1e-5)


def test_full_size_shapes() -> None:
    """The released model's 32 layers of 1280, which are the defaults of both."""
    with torch.device("meta"):
        theirs = TheirModel(TheirConfig()).state_dict()
        ours = LDMBertModel(LDMBertConfig()).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert LDMBertConfig.from_dict(TheirConfig().to_dict()) == LDMBertConfig()
