"""CLIP's towers against transformers': names, shapes, files and numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mezzotint.conditioning import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    TextConditioner,
    normalise,
)
from mezzotint.text import train_tokenizer
from mezzotint.vae import Autoencoder, AutoencoderConfig

# The same float32 operations up to fused attention: a few units in the last place, grown by depth.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

TEXT = CLIPTextConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    projection_dim=24,
    bos_token_id=58,
    eos_token_id=59,
)
VISION = CLIPVisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=32,
    patch_size=8,
    projection_dim=24,
)


def their_text(config: CLIPTextConfig) -> Any:
    kind = transformers.CLIPTextModelWithProjection if config.with_projection else transformers.CLIPTextModel
    return kind(transformers.CLIPTextConfig(**config.to_dict())).eval()


def their_vision(config: CLIPVisionConfig) -> Any:
    kind = transformers.CLIPVisionModelWithProjection if config.with_projection else transformers.CLIPVisionModel
    return kind(transformers.CLIPVisionConfig(**config.to_dict())).eval()


def in_files(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The weights by the names that files have; transformers 5 leaves the prefix out in memory."""
    state = module.state_dict()
    return state if any(name.startswith(prefix) for name in state) else {prefix + name: state[name] for name in state}


def randomise(module: nn.Module) -> None:
    """Every parameter random, so that biases and norms count too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def some_ids() -> Tensor:
    """Texts of several lengths, padded with eos."""
    ids = torch.randint(3, 58, (3, 77), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = 58
    for row, end in enumerate((1, 20, 76)):
        ids[row, end:] = 59
    return ids


def some_pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def write_model(folder: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", {"format": "pt"})


TEXT_CONFIGS = {
    "OpenAI": TEXT,
    "gelu": replace(TEXT, hidden_act="gelu", layer_norm_eps=1e-3),
    "tanh gelu": replace(TEXT, hidden_act="gelu_new"),
    "eos 2, as in old files": replace(TEXT, eos_token_id=2),
    "with projection": replace(TEXT, with_projection=True),
}


@pytest.mark.parametrize("config", TEXT_CONFIGS.values(), ids=TEXT_CONFIGS.keys())
def test_text_numbers_agree(config: CLIPTextConfig, tmp_path: Path) -> None:
    ours = CLIPTextModel(config).eval()
    randomise(ours)
    write_model(tmp_path / "ours", config.to_dict(), ours.state_dict())
    theirs, info = type(their_text(config)).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        expected = theirs.eval()(some_ids(), output_hidden_states=True)
        found = ours(some_ids(), hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, **TOLERANCE)
    assert len(found.hidden_states) == len(expected.hidden_states) == 4
    for state, expected_state in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, expected_state, **TOLERANCE)
    unseen = torch.zeros(some_ids().shape, dtype=torch.bool)
    unseen[:, 2:4] = True
    with torch.no_grad():
        masked = theirs(some_ids(), attention_mask=(~unseen).long()).last_hidden_state
        torch.testing.assert_close(ours.read(some_ids(), unseen=unseen)[0], masked, **TOLERANCE)
    torch.testing.assert_close(ours.tokens(some_ids(), layer=-2, final_norm=False), expected.hidden_states[-2])
    if config.with_projection:
        torch.testing.assert_close(found.projected, expected.text_embeds, **TOLERANCE)
    else:
        torch.testing.assert_close(found.pooled, expected.pooler_output, **TOLERANCE)

    theirs.save_pretrained(tmp_path / "theirs")
    again = CLIPTextModel(CLIPTextConfig.from_dict(json.loads((tmp_path / "theirs" / "config.json").read_text())))
    again.load_state_dict(load_file(tmp_path / "theirs" / "model.safetensors"))  # strict
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("projection", [False, True])
def test_vision_numbers_agree(projection: bool, tmp_path: Path) -> None:
    config = replace(VISION, with_projection=projection)
    ours = CLIPVisionModel(config).eval()
    randomise(ours)
    write_model(tmp_path / "ours", config.to_dict(), ours.state_dict())
    theirs, info = type(their_vision(config)).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        expected = theirs.eval()(some_pixels(), output_hidden_states=True)
        found = ours(some_pixels(), hidden_states=True)
    torch.testing.assert_close(found.tokens, expected.last_hidden_state, **TOLERANCE)
    for state, expected_state in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, expected_state, **TOLERANCE)
    if projection:
        torch.testing.assert_close(found.projected, expected.image_embeds, **TOLERANCE)
    else:
        torch.testing.assert_close(found.pooled, expected.pooler_output, **TOLERANCE)

    theirs.save_pretrained(tmp_path / "theirs")
    again = CLIPVisionModel(CLIPVisionConfig.from_dict(json.loads((tmp_path / "theirs" / "config.json").read_text())))
    again.load_state_dict(load_file(tmp_path / "theirs" / "model.safetensors"))  # strict
    assert again.config == config


def test_both_towers_agree(tmp_path: Path) -> None:
    config = CLIPConfig(text=TEXT, vision=VISION, projection_dim=16)
    ours = CLIPModel.of_config(config).eval()
    randomise(ours)
    write_model(tmp_path / "ours", config.to_dict(), ours.state_dict())
    theirs, info = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        expected = theirs.eval()(input_ids=some_ids(), pixel_values=some_pixels())
        torch.testing.assert_close(ours.encode_text(some_ids()), expected.text_embeds, **TOLERANCE)
        torch.testing.assert_close(ours.encode_image(some_pixels()), expected.image_embeds, **TOLERANCE)
        torch.testing.assert_close(ours(some_ids(), some_pixels()), expected.logits_per_text, **TOLERANCE)

    theirs.save_pretrained(tmp_path / "theirs")
    again = CLIPModel.of_config(CLIPConfig.from_dict(json.loads((tmp_path / "theirs" / "config.json").read_text())))
    again.load_state_dict(load_file(tmp_path / "theirs" / "model.safetensors"))  # strict
    assert again.config == config


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12), their_text, "text_model."),
        (
            CLIPTextConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_attention_heads=16,
                num_hidden_layers=23,
                hidden_act="gelu",
            ),
            their_text,
            "text_model.",
        ),
        (
            CLIPTextConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_attention_heads=20,
                num_hidden_layers=32,
                projection_dim=1280,
                hidden_act="gelu",
                with_projection=True,
            ),
            their_text,
            "text_model.",
        ),
        (CLIPVisionConfig(), their_vision, "vision_model."),
    ],
    ids=["stable diffusion 1", "stable diffusion 2", "SDXL's second", "ViT-B/32"],
)
def test_full_size_shapes(ours: Any, theirs: Any, prefix: str) -> None:
    with torch.device("meta"):
        model = CLIPTextModel(ours) if isinstance(ours, CLIPTextConfig) else CLIPVisionModel(ours)
        expected = in_files(theirs(ours), prefix)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }


def test_defaults_are_those_of_transformers() -> None:
    for ours, theirs in (
        (CLIPTextConfig(), transformers.CLIPTextConfig()),
        (CLIPVisionConfig(), transformers.CLIPVisionConfig()),
    ):
        expected = theirs.to_dict()
        known = ours.to_dict()
        del known["architectures"]
        assert known == {key: expected[key] for key in known}
        assert type(ours).from_dict(expected) == ours


def test_gradients_agree() -> None:
    ours, theirs = CLIPTextModel(TEXT), their_text(TEXT)
    randomise(ours)
    with torch.no_grad():
        for name, value in in_files(theirs, "text_model.").items():
            value.copy_(ours.state_dict()[name])
    ours(some_ids()).pooled.square().sum().backward()
    theirs(some_ids()).pooler_output.square().sum().backward()
    mine = [parameter.grad for _, parameter in sorted(ours.named_parameters())]
    expected = [parameter.grad for _, parameter in sorted(theirs.named_parameters())]
    # Written-out against fused attention, summed over 231 tokens.
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_normalise_is_their_image_processor() -> None:
    processor = transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False)
    bytes_ = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = processor(bytes_, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(normalise(bytes_[None].float() / 127.5 - 1), expected, **TOLERANCE)


def test_a_saved_pipeline_loads_in_diffusers(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a red cube to the left of a blue sphere", "a green cone"] * 3, 540)
    config = replace(
        TEXT,
        vocab_size=tokenizer.vocab_size,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    text = CLIPTextModel(config).eval()
    write_model(tmp_path / "text_encoder", config.to_dict(), text.state_dict())
    tokenizer.save(tmp_path / "tokenizer")
    vae = AutoencoderConfig.of_widths(8, 8, norm_num_groups=4)
    write_model(tmp_path / "vae", vae.to_dict(), {})
    save_file(Autoencoder(vae).state_dict(), tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=32,
        norm_num_groups=4,
        attention_head_dim=2,
    )
    unet.save_pretrained(tmp_path / "unet")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    prompts = ["A red cube!", "🟥 " * 18, ""]
    with torch.no_grad():
        ours = TextConditioner(tokenizer, text)(prompts).sequence
        expected, _ = theirs.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours, expected, **TOLERANCE)
