"""What a header tells of a LoRA file, without its weights and without torch."""

from __future__ import annotations

import subprocess
import sys
from math import prod
from typing import Any

import pytest

from mezzotint.store.header import TensorEntry
from mezzotint.store.lora.facts import is_lora, lora_facts

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
LDM = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def entries(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorEntry]:
    return {name: TensorEntry("float32", shape, 0, 4 * prod(shape)) for name, shape in shapes.items()}


def pair(layer: str, rank: int, inputs: int, outputs: int = 320) -> dict[str, tuple[int, ...]]:
    return {
        f"{layer}.lora_down.weight": (rank, inputs),
        f"{layer}.lora_up.weight": (outputs, rank),
        f"{layer}.alpha": (),
    }


def facts(shapes: dict[str, tuple[int, ...]], **metadata: str) -> dict[str, Any]:
    return lora_facts(entries(shapes), metadata)


def test_a_file_of_kohyas() -> None:
    told = facts(pair(KOHYA, 8, 768) | pair(TEXT, 4, 768, 768), ss_network_alpha="4.0")
    assert told == {
        "naming": "kohya, blocks named as in diffusers",
        "layers": {"unet": 1, "text_encoder": 1},
        "algorithms": {"LoRA": 2},
        "ranks": [4, 8],
        "alphas": [4.0],
        "text_width": 768,
        "attention_width": 320,
    }


def test_alphas_are_read_where_they_can_be() -> None:
    shapes = pair(KOHYA, 8, 768) | pair(TEXT, 4, 768, 768)
    numbers = {f"{KOHYA}.alpha": 8.0, f"{TEXT}.alpha": 1.0}
    assert lora_facts(entries(shapes), {}, numbers.__getitem__)["alphas"] == [1.0, 8.0]
    assert facts(shapes)["alphas"] == []
    assert facts(shapes, ss_network_alpha="None")["alphas"] == []


@pytest.mark.parametrize(
    ("shapes", "naming"),
    [
        (pair(LDM, 4, 2048), "kohya, blocks named as in latent diffusion"),
        (pair("lora_unet_out_2", 4, 320), "kohya, blocks named as in latent diffusion"),
        (pair("unet.input_blocks.4.1.proj_in", 4, 320), "kohya, blocks named as in latent diffusion"),
        (pair(TEXT, 4, 768), "kohya"),
        (
            {"unet.conv_in.lora_A.weight": (2, 4, 3, 3), "unet.conv_in.lora_B.weight": (8, 2, 1, 1)},
            "peft, blocks named as in diffusers",
        ),
        (
            {
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight": (4, 320),
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight": (320, 4),
            },
            "diffusers, blocks named as in diffusers",
        ),
    ],
)
def test_who_named_it_so(shapes: dict[str, tuple[int, ...]], naming: str) -> None:
    assert facts(shapes)["naming"] == naming
    assert is_lora(shapes)


@pytest.mark.parametrize(
    ("factors", "algorithm", "rank", "width"),
    [
        (
            {"lora_down.weight": (4, 768), "lora_up.weight": (320, 4), "dora_scale": (320, 1)},
            "LoRA with DoRA",
            [4],
            768,
        ),
        (
            {"hada_w1_a": (320, 4), "hada_w1_b": (4, 768), "hada_w2_a": (320, 4), "hada_w2_b": (4, 768)},
            "LoHa",
            [4],
            768,
        ),
        ({"lokr_w1": (4, 8), "lokr_w2_a": (80, 2), "lokr_w2_b": (2, 128)}, "LoKr", [2], 1024),
        ({"lokr_w1": (4, 8), "lokr_w2": (80, 128)}, "LoKr", [], 1024),
        ({"diff": (320, 768)}, "full", [], 768),
    ],
)
def test_other_algorithms(factors: dict[str, tuple[int, ...]], algorithm: str, rank: list[int], width: int) -> None:
    told = facts({f"{KOHYA}.{role}": shape for role, shape in factors.items()})
    assert (told["algorithms"], told["ranks"], told["text_width"]) == ({algorithm: 1}, rank, width)


def test_what_is_wrong_is_listed() -> None:
    shapes = pair(KOHYA, 8, 768) | {f"x{number}.oft_blocks": (1,) for number in range(10)}
    shapes |= {f"{TEXT}.lora_up.weight": (4, 4), "lora_unet_conv_in.diff_b": (8,), "bundle_emb.cat.clip_l": (1, 768)}
    told = facts(shapes)
    assert told["unknown_keys"][-1] == "and 2 more"
    assert len(told["unknown_keys"]) == 9
    assert told["broken_layers"] == [TEXT]
    assert told["bundled_words"] == ["cat"]
    assert told["layers"] == {"unet": 2, "text_encoder": 1}


def test_what_is_no_lora() -> None:
    assert not is_lora(["conv_in.weight", "emb_params", "x.alpha"])
    assert not is_lora([])


def test_no_torch_is_imported() -> None:
    code = "import sys, mezzotint.store.lora.facts\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
