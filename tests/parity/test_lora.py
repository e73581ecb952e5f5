"""peft and diffusers draw with our LoRA files what we draw, and we with theirs."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.denoise.unet import UNet, UNetConfig
from mezzotint.store.header import read_header
from mezzotint.store.lora.apply import Adapters
from mezzotint.store.lora.delta import Adapter, Delta
from mezzotint.store.lora.read import layers_of, peft_metadata, read_adapter
from mezzotint.store.lora.write import write_kohya, write_peft

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

UNET = {
    "sample_size": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
TEXT = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 48,
    "eos_token_id": 49,
    "pad_token_id": 1,
}
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "conv_shortcut", "time_emb_proj", "ff.net.2"]
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]
# fp32 in another order: peft adds the product of the factors to a layer's result, we add it to its weight.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def theirs() -> SimpleNamespace:
    """diffusers' U-Net and transformers' text encoder, of random weights."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(**UNET).eval()
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)).eval()
    return SimpleNamespace(unet=unet, text_encoder=text)


@pytest.fixture
def ours(theirs: SimpleNamespace) -> dict[str, nn.Module]:
    """Our networks with the same weights."""
    unet = UNet(UNetConfig(**UNET)).eval()
    unet.load_state_dict(theirs.unet.state_dict())
    text = CLIPTextModel(CLIPTextConfig(**TEXT)).eval()
    state = theirs.text_encoder.state_dict()
    if not any(name.startswith("text_model.") for name in state):
        state = {f"text_model.{name}": value for name, value in state.items()}
    text.load_state_dict(state)
    return {"unet": unet, "text_encoder": text}


def randomise(module: nn.Module) -> None:
    """Give peft's factors, the second of which begins at zero, and its magnitudes random values."""
    for name, parameter in module.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
        elif "lora_magnitude_vector" in name:
            with torch.no_grad():
                parameter.mul_(torch.rand_like(parameter) + 0.5)


INPUTS = {
    "sample": torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1)),
    "t": torch.tensor([10.0, 700.0]),
    "text": torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2)),
    "ids": torch.tensor([[48, 3, 4, 49, 1, 1], [48, 7, 8, 9, 49, 1]]),
}


@torch.no_grad()
def draw_theirs(unet: Any, text: Any) -> tuple[torch.Tensor, torch.Tensor]:
    states = text(INPUTS["ids"]).last_hidden_state
    return unet(INPUTS["sample"], INPUTS["t"], INPUTS["text"]).sample, states


@torch.no_grad()
def draw_ours(model: dict[str, nn.Module]) -> tuple[torch.Tensor, torch.Tensor]:
    states = model["text_encoder"](INPUTS["ids"]).last_hidden_state
    return model["unet"](INPUTS["sample"], INPUTS["t"], INPUTS["text"]), states


def assert_drawn_alike(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], plain: Any) -> None:
    for mine, their, before in zip(actual, expected, plain, strict=True):
        torch.testing.assert_close(mine, their, **TOLERANCE)
        assert (mine - before).abs().max() > 0.05  # the adapter does something


@pytest.mark.parametrize("dora", [False, True])
def test_we_draw_with_what_diffusers_saves(dora: bool, theirs: SimpleNamespace, ours: Any, tmp_path: Path) -> None:
    plain = draw_ours(ours)
    for module, targets in ((theirs.unet, UNET_TARGETS), (theirs.text_encoder, TEXT_TARGETS)):
        torch.manual_seed(3)
        module.add_adapter(
            peft.LoraConfig(
                r=4,
                lora_alpha=8,
                use_dora=dora,
                target_modules=targets,
                rank_pattern={"to_q": 2, "q_proj": 2},
                alpha_pattern={"to_q": 1},
            )
        )
        randomise(module)
    expected = draw_theirs(theirs.unet, theirs.text_encoder)
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=peft.get_peft_model_state_dict(theirs.unet),
        text_encoder_lora_layers=peft.get_peft_model_state_dict(theirs.text_encoder),
        unet_lora_adapter_metadata=theirs.unet.peft_config["default"].to_dict(),
        text_encoder_lora_adapter_metadata=theirs.text_encoder.peft_config["default"].to_dict(),
    )
    path = tmp_path / "pytorch_lora_weights.safetensors"
    adapter = read_adapter(load_file(path), layers_of(ours), read_header(path).metadata)
    Adapters(ours).set({adapter: 1.0})
    assert_drawn_alike(draw_ours(ours), expected, plain)


def test_we_draw_with_what_peft_saves(theirs: SimpleNamespace, ours: Any, tmp_path: Path) -> None:
    plain = draw_ours(ours)[0]
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=UNET_TARGETS)
    wrapped = peft.get_peft_model(theirs.unet, config)
    randomise(wrapped)
    expected = draw_theirs(theirs.unet, theirs.text_encoder)[0]
    wrapped.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    adapter = read_adapter(load_file(path), layers_of(ours), read_header(path).metadata | peft_metadata(path))
    Adapters(ours).set({adapter: 1.0})
    assert_drawn_alike((draw_ours(ours)[0],), (expected,), (plain,))


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_we_draw_with_pefts_other_algorithms(kind: str, theirs: SimpleNamespace, ours: Any, tmp_path: Path) -> None:
    """peft writes LyCORIS' names, and leaves alpha to its configuration."""
    plain = draw_ours(ours)[0]
    make = {"LoHa": peft.LoHaConfig, "LoKr": peft.LoKrConfig}[kind]
    torch.manual_seed(3)
    wrapped = peft.get_peft_model(
        theirs.unet,
        make(
            r=2,
            alpha={"LoHa": 3, "LoKr": 2}[kind],
            target_modules=["to_q", "conv1", "proj_in"],
            use_effective_conv2d=True,
            init_weights=False,
        ),
    )
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "hada_" in name or "lokr_" in name:
                parameter.mul_(2)
    expected = draw_theirs(theirs.unet, theirs.text_encoder)[0]
    wrapped.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    adapter = read_adapter(load_file(path), layers_of(ours), peft_metadata(path))
    Adapters(ours).set({adapter: 1.0})
    assert_drawn_alike((draw_ours(ours)[0],), (expected,), (plain,))


def our_adapter(model: dict[str, nn.Module], *, dora: bool, even: bool) -> Adapter:
    """Low ranks on attention, convolutions and text, with alphas that are the ranks where `even`."""
    torch.manual_seed(4)
    changes: dict[tuple[str, str], Delta] = {}
    for part, ends in (("unet", UNET_TARGETS), ("text_encoder", TEXT_TARGETS)):
        for name, weight in model[part].named_parameters():
            if name.removesuffix(".weight").endswith(tuple(ends)):
                o, i, *kernel = weight.shape
                ones, rank = [1] * len(kernel), 2 if "to_q" in name else 3
                magnitude = torch.rand(o, 1, *ones) + 0.5 if dora else None
                changes[part, name] = Delta.low_rank(
                    0.3 * torch.randn(rank, i, *kernel),
                    0.3 * torch.randn(o, rank, *ones),
                    alpha=float(rank) if even else 1.5 if "conv" in name else 6.0,
                    magnitude=magnitude,
                )
    return Adapter(changes)


@pytest.mark.parametrize(
    ("kind", "dora", "even"), [("kohya", False, False), ("peft", False, False), ("peft", True, True)]
)
def test_diffusers_draws_with_what_we_write(
    kind: str, dora: bool, even: bool, theirs: SimpleNamespace, ours: Any, tmp_path: Path
) -> None:
    plain = draw_ours(ours)
    adapter = our_adapter(ours, dora=dora, even=even)
    path = tmp_path / "lora.safetensors"
    if kind == "kohya":
        write_kohya(adapter, path)
    else:
        write_peft(adapter, path)
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
        text_encoder=theirs.text_encoder,
        tokenizer=None,
        unet=theirs.unet,
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    expected = draw_theirs(pipe.unet, pipe.text_encoder)
    Adapters(ours).set({adapter: 1.0})
    assert_drawn_alike(draw_ours(ours), expected, plain)


def test_peft_and_we_agree_on_two_adapters_at_once(theirs: SimpleNamespace, ours: Any, tmp_path: Path) -> None:
    plain = draw_ours(ours)[0]
    adapters = []
    for number, targets in enumerate((["to_q", "conv1"], ["to_q", "to_v"])):
        torch.manual_seed(number)
        name = f"number{number}"
        theirs.unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets), adapter_name=name)
        randomise(theirs.unet) if number == 0 else [
            nn.init.normal_(parameter, std=0.3) for key, parameter in theirs.unet.named_parameters() if name in key
        ]
        state = peft.get_peft_model_state_dict(theirs.unet, adapter_name=name)
        save_file({key: copy.deepcopy(value) for key, value in state.items()}, tmp_path / name)
        adapters.append(read_adapter(load_file(tmp_path / name), layers_of(ours)))
    theirs.unet.set_adapters(["number0", "number1"], [0.8, -0.5])
    expected = draw_theirs(theirs.unet, theirs.text_encoder)[0]
    Adapters(ours).set(dict(zip(adapters, (0.8, -0.5), strict=True)))
    assert_drawn_alike((draw_ours(ours)[0],), (expected,), (plain,))
