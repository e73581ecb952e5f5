"""UNetConfig: round trips, and one clear sentence for what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from mezzotint.denoise.config import UNetConfig
from mezzotint.types import UserError


def test_round_trip_through_json() -> None:
    config = UNetConfig(sample_size=(8, 16), attention_head_dim=(5, 10, 20, 20), transformer_layers_per_block=2)
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_defaults_are_stable_diffusion_1() -> None:
    assert UNetConfig().heads == (8, 8, 8, 8)
    assert UNetConfig().pooled_dim is None


def test_num_attention_heads_overrules_the_misnomer() -> None:
    assert UNetConfig.from_dict({"attention_head_dim": 8, "num_attention_heads": [5, 10, 20, 20]}).heads == (
        5,
        10,
        20,
        20,
    )


def test_notes_and_unset_keys_are_ignored() -> None:
    values = {"_name_or_path": "x", "time_cond_proj_dim": None, "some_new_flag": False, "dropout": 0.0}
    assert UNetConfig.from_dict(values) == UNetConfig()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim"),
        ({"dropout": 0.1}, "dropout"),
        ({"act_fn": "gelu"}, "act_fn"),
        ({"num_class_embeds": 1000}, "num_class_embeds"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "AttnDownBlock2D"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"block_out_channels": [320, 640]}, "block_out_channels"),
        ({"block_out_channels": [320, 640, 1280, 1281]}, "1281"),
        ({"attention_head_dim": 7}, "7 attention heads"),
        ({"attention_head_dim": [8, 8]}, "attention_head_dim"),
        ({"attention_head_dim": 0}, "0 attention heads"),
        ({"transformer_layers_per_block": 0}, "transformer_layers_per_block"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"layers_per_block": [1, 2, 2, 1]}, "layers_per_block"),
        ({"cross_attention_dim": "768"}, "cross_attention_dim"),
        ({"addition_embed_type": "text_time"}, "projection_class_embeddings_input_dim"),
    ],
)
def test_what_we_do_not_know_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        UNetConfig.from_dict(values)


def test_the_config_needs_no_torch() -> None:
    code = "import sys, mezzotint.denoise.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
