"""Pictures as prompts: files of IP-Adapter, read and written, drawn with as diffusers draws with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mezzotint
from mezzotint.conditioning import CLIPVisionConfig, CLIPVisionModel
from mezzotint.conditioning.image_prompt import (
    APART,
    WHOLE,
    PerToken,
    PictureConditioner,
    Projection,
    Resampler,
    ResamplerConfig,
)
from mezzotint.denoise.picture_layers import PictureLayers
from mezzotint.noise import draw_noise
from mezzotint.store.facts import Facts, write_facts
from mezzotint.store.image_prompt import save_image_prompts
from mezzotint.types import UserError

diffusers = pytest.importorskip("diffusers")

SIDE, PROMPT, NEGATIVE = 32, "a red sphere to the left of a blue cube", "two green cones"
VISION = CLIPVisionConfig(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=2,
    projection_dim=24,
    image_size=40,
    patch_size=8,
    with_projection=True,
)


def shaken(module: nn.Module, seed: int) -> Any:
    """Every parameter random, the zero ones too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def projection(kind: str, width: int) -> Projection | Resampler | PerToken:
    if kind == "plain":
        return shaken(Projection(VISION.projection_dim, width), 5)
    if kind in ("full", "apart"):
        return shaken(PerToken(VISION.hidden_size, width), 5)
    return shaken(
        Resampler(ResamplerConfig(embed_dim=64, width=48, output_dim=width, tokens=6, layers=4, heads=2)),
        5,
    )


@pytest.fixture
def picture() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def model(family_parts: Callable[..., Any], tmp_path: Path) -> tuple[Any, mezzotint.Pipeline]:
    theirs = diffusers.StableDiffusionPipeline(**family_parts("Stable Diffusion 1", tmp_path))
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(tmp_path / "model")
    return theirs, mezzotint.load(tmp_path / "model")


def written(pipe: mezzotint.Pipeline, kind: str, folder: Path) -> Path:
    unet = pipe.denoiser.unet
    reads = projection(kind, unet.config.cross_attention_dim)
    reader = PictureConditioner(shaken(CLIPVisionModel(VISION), 7), reads, looks=APART if kind == "apart" else (WHOLE,))
    save_image_prompts(reader, shaken(PictureLayers(unet), 8), folder, torch.float32)
    return folder


@pytest.mark.parametrize("kind", ["plain", "plus", "full", "apart"])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_what_we_write_draws_in_diffusers_as_here(
    model: tuple[Any, mezzotint.Pipeline], tmp_path: Path, kind: str, weight: float
) -> None:
    theirs, ours = model
    folder = written(ours, kind, tmp_path / "adapter")
    noise = draw_noise([3], (4, SIDE // 8, SIDE // 8))
    theirs.load_ip_adapter(str(tmp_path), subfolder="adapter", weight_name="ip-adapter.safetensors")
    theirs.set_ip_adapter_scale(weight)
    # Their preprocessing resizes by other sums, so both are given what needs none.
    small = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    square = Image.fromarray(small).resize((40, 40), Image.Resampling.NEAREST)
    ours.use(image_adapter=folder / "ip-adapter.safetensors")
    asked: dict[str, Any] = {"ip_adapter_image": square}
    if kind == "apart":  # Looks are ours, so diffusers is told what comes of them.
        reader = ours.picture_conditioner()
        with torch.no_grad():
            tokens = torch.cat([reader.nothing(), reader(reader.prepared(square))])[:, None]
        theirs.unet.encoder_hid_proj.image_projection_layers[0] = nn.Identity()
        asked = {"ip_adapter_image_embeds": [tokens]}
    expected = theirs(
        PROMPT,
        negative_prompt=NEGATIVE,
        **asked,
        latents=noise,
        num_inference_steps=5,
        guidance_scale=4.0,
    ).images[0]
    settings: dict[str, Any] = {"negative": NEGATIVE, "noise": noise, "steps": 5, "guidance": 4.0, "sampler": "ddim"}
    found = ours(PROMPT, image_prompt=(square, weight), **settings)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int)).max() <= 1
    without = ours(PROMPT, **settings)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(without).astype(int)).max() > 4


def test_the_middle_of_a_picture_is_read_as_by_transformers(picture: Image.Image) -> None:
    from transformers import CLIPImageProcessor

    from mezzotint.conditioning.clip import normalise

    reader = PictureConditioner(CLIPVisionModel(VISION), projection("plus", 16))
    for given in (picture, picture.rotate(90, expand=True), picture.resize((200, 133))):
        processor = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
        expected: Tensor = processor(given, return_tensors="pt").pixel_values
        assert expected.shape == (1, 3, 40, 40)
        torch.testing.assert_close(normalise(reader.prepared(given)), expected, atol=0.03, rtol=0)  # 2 of 255 steps


def test_pickled_adapters_are_read_too(
    model: tuple[Any, mezzotint.Pipeline], tmp_path: Path, picture: Image.Image
) -> None:
    """h94/IP-Adapter keeps two dictionaries in one pickle, and the encoder in a folder beside its models."""
    _, ours = model
    folder = written(ours, "plus", tmp_path / "models")
    tensors = load_file(folder / "ip-adapter.safetensors")
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        parts[head][rest] = tensor
    torch.save(parts, folder / "ip-adapter-plus_sd15.bin")
    first = ours.use(image_adapter=folder / "ip-adapter.safetensors")(PROMPT, seed=1, steps=2, image_prompt=picture)
    second = ours.use(image_adapter=folder / "ip-adapter-plus_sd15.bin")(PROMPT, seed=1, steps=2, image_prompt=picture)
    assert np.array_equal(first, second)


def test_what_cannot_be_read_is_said(
    model: tuple[Any, mezzotint.Pipeline], tmp_path: Path, picture: Image.Image
) -> None:
    _, ours = model
    with pytest.raises(UserError, match="reads no image prompts"):
        ours(PROMPT, steps=1, image_prompt=picture)
    folder = written(ours, "plus", tmp_path / "adapter")
    with pytest.raises(UserError, match="no image adapter"):
        ours.use(image_adapter=tmp_path / "nothing.safetensors")
    (folder / "image_encoder").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="64 wide"):
        ours.use(image_adapter=folder / "ip-adapter.safetensors")
    (tmp_path / "elsewhere").rename(folder / "image_encoder")
    save_file({"image_proj.latents": torch.zeros(1), "other": torch.zeros(1)}, folder / "bad.safetensors")
    faces = {"image_proj.proj.0.weight": torch.zeros(64, 64), "ip_adapter.1.to_k_ip.weight": torch.zeros(1)}
    save_file(faces, folder / "faces.safetensors")
    with pytest.raises(UserError, match="of a kind that is not read here"):
        ours.use(image_adapter=folder / "faces.safetensors")
    with pytest.raises(UserError, match="is no image adapter"):
        ours.use(image_adapter=folder / "bad.safetensors")
    whole = load_file(folder / "ip-adapter.safetensors")
    for reading, what in (('{"greys": true}', "not so that it is known"), ('{"looks": ["x"]}', "to be seen as x")):
        save_file(whole, folder / "looks.safetensors", {"mezzotint.image_prompt.reading": reading})
        with pytest.raises(UserError, match=what):
            ours.use(image_adapter=folder / "looks.safetensors")(PROMPT, steps=1, image_prompt=picture)
    ours.use(image_adapter="")
    with pytest.raises(UserError, match="name the file"):
        ours.use(image_adapter=folder)
    assert ours.image_prompts is None


@pytest.mark.parametrize("kind", ["plain", "plus", "full"])
def test_a_damaged_adapter_is_one_sentence(
    model: tuple[Any, mezzotint.Pipeline], tmp_path: Path, picture: Image.Image, kind: str
) -> None:
    """Whatever tensor is missing or flat, and nothing is drawn without it."""
    _, ours = model
    folder = written(ours, kind, tmp_path / "adapter")
    file = folder / "ip-adapter.safetensors"
    whole = load_file(file)
    for name in [name for name in whole if name.startswith("image_proj.") and ".1." not in name]:
        for instead in ({}, {name: torch.zeros(3)}, {name: torch.zeros(())}):
            save_file({**{other: tensor for other, tensor in whole.items() if other != name}, **instead}, file)
            with pytest.raises(UserError):
                ours.use(image_adapter=file)(PROMPT, steps=1, image_prompt=picture)


def test_a_folder_beside_a_model_s_is_read_as_its_own(
    model: tuple[Any, mezzotint.Pipeline], picture: Image.Image, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    beside = written(model[1], "plus", tmp_path / "model-image-prompt")
    pipe = mezzotint.load(folder)
    drawn = pipe("a red cube", image_prompt=[picture], seed=1, steps=2)
    named = pipe.use(image_adapter=str(folder))("a red cube", image_prompt=[picture], seed=1, steps=2)
    assert named.tobytes() == drawn.tobytes()
    own = shutil.move(beside, folder / "image_prompt")
    again = mezzotint.load(folder)("a red cube", image_prompt=[picture], seed=1, steps=2)
    assert drawn.tobytes() == again.tobytes()
    file = Path(own) / "ip-adapter.safetensors"
    shutil.move(own, beside)
    sums = {file.name: "0" * 64}
    write_facts(Facts(name="model-image-prompt", sha256=sums), beside)
    with pytest.raises(UserError, match=file.name):
        mezzotint.load(folder)("a red cube", image_prompt=[picture], seed=1, steps=2)
