"""Whole pictures with LoRA and learned words: diffusers' pipelines read the same files and draw what we draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mezzotint
from mezzotint.noise import draw_noise
from mezzotint.pipeline import Pipeline
from mezzotint.store.lora.convert import convert_lora

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

PROMPT, NEGATIVE = "a red <thing> to the left of a blue cube", "two green cones"
STEPS, GUIDANCE, WIDTH, HEIGHT = 10, 4.0, 48, 32
TARGETS = {"unet": ["to_q", "to_v", "to_out.0", "conv1", "proj_in"], "text_encoder": ["q_proj", "fc1"]}
TARGETS["text_encoder_2"] = TARGETS["text_encoder"]
Family = tuple[str, Any, Path]


@pytest.fixture
def theirs(family: Family) -> Any:
    """diffusers' pipeline of Stable Diffusion 2 or SDXL, fresh from its folder."""
    name, pipe, folder = family
    if name not in ("Stable Diffusion 2", "SDXL"):
        pytest.skip("one text encoder, and two, are all there is to tell")
    fresh = type(pipe).from_pretrained(folder, local_files_only=True)
    fresh.scheduler = diffusers.DDIMScheduler.from_config(fresh.scheduler.config, clip_sample=False)
    fresh.set_progress_bar_config(disable=True)
    return fresh


def make_lora(pipe: Any, path: Path, seed: int) -> None:
    """A LoRA of all its networks, as diffusers saves what peft has trained."""
    layers: dict[str, Any] = {}
    for part in [part for part in TARGETS if getattr(pipe, part, None) is not None]:
        module: nn.Module = getattr(pipe, part)
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=4, lora_alpha=2 * seed, target_modules=TARGETS[part], init_lora_weights=False)
        module.add_adapter(config, adapter_name="new")
        layers[f"{part}_lora_layers"] = peft.get_peft_model_state_dict(module, adapter_name="new")
        layers[f"{part}_lora_adapter_metadata"] = module.peft_config["new"].to_dict()
    type(pipe).save_lora_weights(path.parent, weight_name=path.name, **layers)
    pipe.delete_adapters("new")


def make_word(pipe: Any, path: Path) -> None:
    torch.manual_seed(9)
    encoders = [
        encoder for encoder in (pipe.text_encoder, getattr(pipe, "text_encoder_2", None)) if encoder is not None
    ]
    vectors = [0.1 * torch.randn(2, encoder.config.hidden_size) for encoder in encoders]
    names = ["<thing>"] if len(vectors) == 1 else ["clip_l", "clip_g"]
    save_file(dict(zip(names, vectors, strict=True)), path)


def their_picture(pipe: Any, noise: torch.Tensor) -> np.ndarray:
    settings = {"negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    # SDXL's pipeline scales noise by the scheduler's own first sigma, which is 1 for DDIM.
    (image,) = pipe(PROMPT, latents=noise.clone(), width=WIDTH, height=HEIGHT, **settings).images
    return np.asarray(image).astype(int)


def our_picture(pipe: Pipeline, noise: torch.Tensor) -> np.ndarray:
    settings = {"negative": NEGATIVE, "steps": STEPS, "guidance": GUIDANCE, "sampler": "ddim"}
    return np.asarray(pipe(PROMPT, noise=noise, **settings)).astype(int)


def test_pictures_agree(theirs: Any, family: Family, tmp_path: Path) -> None:
    one, two, word = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "thing"))
    make_lora(theirs, one, 1)
    make_lora(theirs, two, 2)
    make_word(theirs, word)
    two_for_kohya = tmp_path / "kohya.safetensors"
    convert_lora(two, two_for_kohya, "kohya")
    ours = mezzotint.load(family[2], device="cpu")
    noise = draw_noise([7], (4, HEIGHT // 8, WIDTH // 8))
    plain = our_picture(ours, noise)
    assert np.abs(plain - their_picture(theirs, noise)).max() <= 1

    theirs.load_lora_weights(tmp_path, weight_name=one.name, adapter_name="one")
    theirs.load_lora_weights(tmp_path, weight_name=two.name, adapter_name="two")
    theirs.set_adapters(["one", "two"], [0.8, -0.5])
    ours.use(loras={one: 0.8, two_for_kohya: -0.5})
    drawn = our_picture(ours, noise)
    # fp32 in another order: they add the product of the factors to a layer's result, we to its weight.
    assert np.abs(drawn - their_picture(theirs, noise)).max() <= 1
    assert np.abs(drawn - plain).max() > 10

    ours.use(embeddings=[word.rename(tmp_path / "<thing>.safetensors")])
    load_words(theirs, tmp_path / "<thing>.safetensors")
    with_word = our_picture(ours, noise)
    assert np.abs(with_word - their_picture(theirs, noise)).max() <= 1
    assert np.abs(with_word - drawn).max() > 0

    assert np.array_equal(our_picture(ours.use(loras=[], embeddings=[]), noise), plain)


def load_words(pipe: Any, path: Path) -> None:
    """Let diffusers' pipeline learn the word; of SDXL's two encoders each takes its own vectors."""
    from safetensors.torch import load_file

    vectors = load_file(path)
    if "clip_g" not in vectors:
        pipe.load_textual_inversion(vectors)
        return
    for name, text_encoder, tokenizer in (
        ("clip_l", pipe.text_encoder, pipe.tokenizer),
        ("clip_g", pipe.text_encoder_2, pipe.tokenizer_2),
    ):
        state = {"<thing>": vectors[name]}
        pipe.load_textual_inversion(state, token="<thing>", text_encoder=text_encoder, tokenizer=tokenizer)
