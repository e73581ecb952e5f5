"""Models whose U-Net reads more than words: diffusers loads what we save as the pipeline that it is, and we theirs.

On the way back they pass through a single file, which keeps as much.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.conditioning import CLIPTextConfig, CLIPTextModel
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet
from mezzotint.pipeline import Pipeline
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.store.single_file import load_file, save_file
from mezzotint.types import Conditioning, UserError

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SIZED: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 12 + 6 * 8,
    "cross_attention_dim": 32,
}


def reading(parts: Parts, channels: int, *, sized: bool = False) -> Parts:
    """The tiny model with a U-Net that reads so many channels; sized, with SDXL's second text encoder."""
    torch.manual_seed(0)
    config: UNetConfig = dataclasses.replace(parts.unet.config, in_channels=channels, **(SIZED if sized else {}))
    parts = dataclasses.replace(parts, unet=UNet(config).eval())
    if not sized:
        return parts
    assert isinstance(parts.text_encoder, CLIPTextModel)
    text: CLIPTextConfig = dataclasses.replace(parts.text_encoder.config, projection_dim=12, with_projection=True)
    return dataclasses.replace(
        parts,
        tokenizer_2=parts.tokenizer,
        text_encoder_2=CLIPTextModel(text).eval(),
        layer=-2,
        final_norm=False,
        force_zeros_for_empty_prompt=True,
    )


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    mine = {name.removeprefix("text_model."): tensor for name, tensor in ours.state_dict().items()}
    its = {name.removeprefix("text_model."): tensor for name, tensor in theirs.state_dict().items()}
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize(
    ("channels", "sized", "name", "said"),
    [
        (9, False, "StableDiffusionInpaintPipeline", None),
        (8, False, "StableDiffusionInstructPix2PixPipeline", "give image"),
        (4, True, "StableDiffusionXLPipeline", None),
        (9, True, "StableDiffusionXLInpaintPipeline", None),
        (8, True, "StableDiffusionXLInstructPix2PixPipeline", "give image"),
    ],
)
def test_there_and_back(
    tiny_parts: Parts, tmp_path: Path, channels: int, sized: bool, name: str, said: str | None
) -> None:
    parts = reading(tiny_parts, channels, sized=sized)
    save_folder(parts, tmp_path / "ours")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert type(theirs).__name__ == name
    theirs.save_pretrained(tmp_path / "theirs")
    save_file(load_folder(tmp_path / "theirs"), tmp_path / "model.safetensors")
    again = load_file(tmp_path / "model.safetensors")
    for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if sized else [])):
        assert_same(getattr(parts, part), getattr(theirs, part))
        assert_same(getattr(again, part), getattr(theirs, part))
    assert (again.layer, again.final_norm) == (parts.layer, parts.final_norm)
    assert again.force_zeros_for_empty_prompt == parts.force_zeros_for_empty_prompt
    assert again.unet.config == parts.unet.config
    if said is not None:
        pipe = Pipeline.of(again)
        with pytest.raises(UserError, match=said):
            pipe.check(pipe.request("a red cube"))


@torch.no_grad()
def test_spatial_conditioning_is_what_the_other_channels_read(tiny_parts: Parts, tmp_path: Path) -> None:
    save_folder(reading(tiny_parts, 9), tmp_path / "model")
    parts = load_folder(tmp_path / "model")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet")
    x, spatial, words = torch.randn(1, 4, 4, 4), torch.randn(1, 5, 4, 4), torch.randn(1, 7, 16)
    sigma = parts.schedule.sigmas[500:501].float()
    found = Denoiser(parts.unet, parts.schedule)(x, sigma, Conditioning(sequence=words, spatial=spatial))
    scale = (1 + sigma**2).rsqrt()
    predicted = theirs(torch.cat([scale * x, spatial], dim=1), 500.0, encoder_hidden_states=words).sample
    # v-prediction, in float32 and other orders of sums.
    torch.testing.assert_close(found, scale**2 * x - sigma * scale * predicted, rtol=1e-4, atol=1e-4)


def test_a_model_from_depth_keeps_its_estimator(tiny_parts: Parts, tmp_path: Path) -> None:
    """It is not read here, and diffusers does not load the model without."""
    dpt = transformers.DPTForDepthEstimation(
        transformers.DPTConfig(
            hidden_size=8,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=32,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 8, 8],
            fusion_hidden_size=8,
            is_hybrid=False,
        )
    )
    save_folder(reading(tiny_parts, 5), tmp_path / "bare")
    dpt.save_pretrained(tmp_path / "bare" / "depth_estimator")
    transformers.DPTImageProcessorPil().save_pretrained(tmp_path / "bare" / "feature_extractor")
    index = json.loads((tmp_path / "bare" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionDepth2ImgPipeline"
    assert index["depth_estimator"] == [None, None]
    index["depth_estimator"] = ["transformers", "DPTForDepthEstimation"]
    index["feature_extractor"] = ["transformers", "DPTImageProcessorPil"]
    (tmp_path / "bare" / "model_index.json").write_text(json.dumps(index))

    save_file(load_folder(tmp_path / "bare"), tmp_path / "model.safetensors")
    parts = load_file(tmp_path / "model.safetensors")
    save_folder(parts, tmp_path / "whole")
    theirs = diffusers.StableDiffusionDepth2ImgPipeline.from_pretrained(tmp_path / "whole", local_files_only=True)
    assert_same(parts.unet, theirs.unet)
    assert all(torch.equal(a, b) for a, b in zip(theirs.depth_estimator.parameters(), dpt.parameters(), strict=True))
    theirs.save_pretrained(tmp_path / "theirs")
    pipe = Pipeline.of(load_folder(tmp_path / "theirs"))
    with pytest.raises(UserError, match="a depth map"):
        pipe.check(pipe.request("a red cube"))


def test_stable_diffusion_2_as_single_files_hold_it(tiny_parts: Parts, tmp_path: Path) -> None:
    """There the layer before the last is read; diffusers reads the last, so the other is kept elsewhere."""
    whole = dataclasses.replace(tiny_parts, layer=-2)
    save_folder(whole, tmp_path / "model")
    parts = load_folder(tmp_path / "model")
    assert isinstance(parts.text_encoder, CLIPTextModel)
    assert (parts.text_encoder.config.num_hidden_layers, parts.layer) == (2, -2)
    with torch.no_grad():
        expected = whole.conditioner()(["a red cube"]).sequence
        theirs = transformers.CLIPTextModel.from_pretrained(tmp_path / "model" / "text_encoder")
        ids = torch.tensor(parts.tokenizer.encode(["a red cube"]))
        torch.testing.assert_close(theirs(ids).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(parts.conditioner()(["a red cube"]).sequence, expected)
