"""Autoencoders that diffusers made, in every layout in use, read by us: the same latents and the same pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.store.ldm import vae as names
from mezzotint.store.vae_file import load_vae
from mezzotint.vae import Autoencoder, AutoencoderConfig, Codec, TinyAutoencoder, TinyAutoencoderConfig

diffusers = pytest.importorskip("diffusers")

LIKE = AutoencoderConfig.of_widths(32, 64, norm_num_groups=32, scaling_factor=0.13025, sample_size=16)
"""The autoencoder of the model that the files are for: it tells their scale."""
TINY: dict[str, Any] = {
    "encoder_block_out_channels": [16, 16, 16],
    "decoder_block_out_channels": [16, 16, 16],
    "num_encoder_blocks": [1, 2, 1],
    "num_decoder_blocks": [2, 1, 1],
}
PREFIXES = ("", "first_stage_model.", "vae.")
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
File = dict[str, Tensor]


def randomised(module: Any) -> Any:
    """The module with every parameter random, so that biases and norms count too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture(scope="module")
def big() -> Any:
    return randomised(diffusers.AutoencoderKL.from_config(LIKE.to_dict()))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return randomised(diffusers.AutoencoderTiny(**TINY))


def assert_near(found: Tensor, expected: Tensor) -> None:
    """The same float32 operations up to fused attention: 1e-5 of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def assert_same_pictures(ours: Autoencoder | TinyAutoencoder, theirs: Any, *, scale: float) -> None:
    """Latents as a U-Net reads them, which diffusers scales outside of its model, and pixels."""
    pixels = torch.rand(2, 3, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    told = theirs.encode(pixels)
    latent = (told.latents if hasattr(told, "latents") else told.latent_dist.mean) * scale
    codec = Codec(ours)
    assert_near(codec.encode(pixels), latent)
    assert_near(codec.autoencoder.decode(codec.unscale(latent)), theirs.decode(latent / scale).sample)


def latent_diffusion(theirs: Any) -> File:
    """The names of the original code, by hand: its decoder counts from the finest, its attention convolves."""
    file: File = {}
    for name, tensor in theirs.state_dict().items():
        new = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        for level in range(2):
            new = new.replace(f"down_blocks.{level}.", f"down.{level}.").replace(
                f"up_blocks.{level}.", f"up.{1 - level}."
            )
        new = new.replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        for role, short in {
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
            "to_out.0": "proj_out",
            "group_norm": "norm",
        }.items():
            new = new.replace(f"attn_1.{role}", f"attn_1.{short}")
        file[new] = tensor[:, :, None, None] if ".attn_1." in new and tensor.ndim == 2 else tensor
    return file


def convolved(file: File) -> File:
    """With attention written as 1x1 convolutions."""
    return {
        name: tensor[:, :, None, None] if ".attentions." in name and tensor.ndim == 2 else tensor
        for name, tensor in file.items()
    }


def flattened(file: File) -> File:
    """With attention written as matrices."""
    return {
        name: tensor[:, :, 0, 0] if ".attn_1." in name and tensor.ndim == 4 else tensor for name, tensor in file.items()
    }


def old(file: File) -> File:
    """With the names that diffusers had for attention before 0.15."""
    renamed: File = {}
    for name, tensor in file.items():
        for new, before in OLD.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{before}.")
        renamed[name] = tensor
    return renamed


BIG_LAYOUTS: dict[str, Callable[[Any], File]] = {
    "latent diffusion": latent_diffusion,
    "latent diffusion, attention as matrices": lambda theirs: flattened(latent_diffusion(theirs)),
    "diffusers": lambda theirs: theirs.state_dict(),
    "diffusers, attention as convolutions": lambda theirs: convolved(theirs.state_dict()),
    "old diffusers": lambda theirs: old(theirs.state_dict()),
    "old diffusers, attention as convolutions": lambda theirs: old(convolved(theirs.state_dict())),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", BIG_LAYOUTS)
def test_a_big_one_in_one_file(big: Any, layout: str, prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "anything.bin"  # Told by its first bytes, not by its name.
    save_file({prefix + name: tensor.contiguous() for name, tensor in BIG_LAYOUTS[layout](big).items()}, path)
    ours = load_vae(path, "cpu", torch.float32, like=LIKE)
    assert ours.config == LIKE
    assert_same_pictures(ours, big, scale=0.13025)


@pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])
def test_a_big_one_that_was_pickled(big: Any, stream: bool, tmp_path: Path) -> None:
    file = latent_diffusion(big) | {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.ones(())}
    path = tmp_path / "x.vae.pt"
    torch.save({"state_dict": file, "epoch": 3, "global_step": 7}, path, _use_new_zipfile_serialization=not stream)
    assert_same_pictures(load_vae(path, "cpu", torch.float32, like=LIKE), big, scale=0.13025)


def test_a_big_one_in_a_folder(big: Any, tmp_path: Path) -> None:
    big.save_pretrained(tmp_path)
    assert_same_pictures(load_vae(tmp_path, "cpu", torch.float32), big, scale=0.13025)
    before = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in old(big.state_dict()).items()}, before)
    assert_same_pictures(load_vae(tmp_path, "cpu", torch.float32), big, scale=0.13025)


def numbered(theirs: Any, side: str) -> File:
    """One half in the names of the TAESD project, as diffusers' converter reads them, the other way."""
    start, skipped = f"{side}.layers.", {"encoder": 0, "decoder": 1}[side]
    file: File = {}
    for name, tensor in theirs.state_dict().items():
        number, _, rest = name.removeprefix(start).partition(".")
        if name.startswith(start):
            file[f"{int(number) + skipped}.{rest}"] = tensor
    return file


def joined(theirs: Any, encoder: str, decoder: str, **others: Tensor) -> File:
    halves = {"encoder": encoder, "decoder": decoder}
    file = {halves[side] + name: tensor for side in halves for name, tensor in numbered(theirs, side).items()}
    return file | others


TINY_LAYOUTS: dict[str, Callable[[Any], File]] = {
    "diffusers": lambda theirs: theirs.state_dict(),
    "both halves, as ComfyUI joins them": lambda theirs: joined(
        theirs, "taesd_encoder.", "taesd_decoder.", vae_scale=torch.tensor(0.18215), vae_shift=torch.tensor(0.0)
    ),
    "both halves, as the project's own module": lambda theirs: joined(theirs, "encoder.", "decoder."),
    "in a checkpoint": lambda theirs: joined(
        theirs,
        "first_stage_model.taesd_encoder.",
        "first_stage_model.taesd_decoder.",
        **{"first_stage_model.vae_scale": torch.tensor(0.18215), "model.diffusion_model.out.2.bias": torch.zeros(4)},
    ),
}


@pytest.mark.parametrize("layout", TINY_LAYOUTS)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_a_tiny_one_in_one_file(tiny: Any, layout: str, pickled: bool, tmp_path: Path) -> None:
    file, path = TINY_LAYOUTS[layout](tiny), tmp_path / "x"
    torch.save(file, path) if pickled else save_file(file, path)
    ours = load_vae(path, "cpu", torch.float32)
    assert ours.config == TinyAutoencoderConfig.from_dict(TINY)
    assert_same_pictures(ours, tiny, scale=1.0)


@torch.no_grad()
def test_halves_in_files_of_their_own(tiny: Any, tmp_path: Path) -> None:
    for side in ("encoder", "decoder"):
        save_file(numbered(tiny, side), tmp_path / side)
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = tiny.encode(pixels).latents
    assert_near(Codec(load_vae(tmp_path / "encoder", "cpu", torch.float32)).encode(pixels), latent)
    decoder = load_vae(tmp_path / "decoder", "cpu", torch.float32)
    assert_near(decoder.decode(latent), tiny.decode(latent).sample)


def test_a_tiny_one_in_a_folder(tiny: Any, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    ours = load_vae(tmp_path, "cpu", torch.float32)
    assert_same_pictures(ours, tiny, scale=1.0)
    again = diffusers.AutoencoderTiny.from_config(ours.config.to_dict())
    again.load_state_dict(ours.state_dict())  # strict
    notes = {"_diffusers_version", "_use_default_values", "_name_or_path"}
    assert {**again.config, **dict.fromkeys(notes)} == {**tiny.config, **dict.fromkeys(notes)}


@pytest.mark.parametrize(
    "changes",
    [
        {"act_fn": "silu"},
        {"act_fn": "gelu", "upsample_fn": "bilinear"},
        {"latent_channels": 16, "in_channels": 1, "out_channels": 2},
        {
            "decoder_block_out_channels": [24, 24],
            "num_decoder_blocks": [0, 2],
            "upsampling_scaling_factor": 4,
            "scaling_factor": 0.5,
        },
    ],
    ids=", ".join,
)
@torch.no_grad()
def test_other_configs_agree(changes: dict[str, Any]) -> None:
    theirs = randomised(diffusers.AutoencoderTiny(**TINY | changes))
    config = TinyAutoencoderConfig.from_dict(dict(theirs.config))
    ours = TinyAutoencoder(config).eval()
    ours.load_state_dict(theirs.state_dict())  # strict
    pixels = torch.rand(1, config.in_channels, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = theirs.encode(pixels).latents
    assert_near(ours.encode(pixels).mean, latent)
    assert_near(ours.decode(4 * latent), theirs.decode(4 * latent).sample)


def test_gradients_agree(tiny: Any) -> None:
    ours = TinyAutoencoder(TinyAutoencoderConfig.from_dict(TINY))
    ours.load_state_dict(tiny.state_dict())
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = torch.autograd.grad(tiny.decode(tiny.encode(pixels).latents).sample.square().mean(), tiny.parameters())
    found = torch.autograd.grad(ours.decode(ours.encode(pixels).mean).square().mean(), ours.parameters())
    for mine, its in zip(found, expected, strict=True):
        # The same operations; sums over places in another order are a few units in the last place apart.
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_the_real_taesd() -> None:
    """Every name and shape of the published one, and what its files tell of it."""
    with torch.device("meta"):
        ours, theirs = TinyAutoencoder(TinyAutoencoderConfig()), diffusers.AutoencoderTiny()
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == shapes
    assert len(shapes) == 134
    told = json.loads(json.dumps(dict(theirs.config)))
    assert TinyAutoencoderConfig.from_dict(told) == TinyAutoencoderConfig()
    encoder, decoder = numbered(theirs, "encoder"), numbered(theirs, "decoder")
    # Layers as they stand in the project's own code: three to a resolution, each after its strided convolution.
    assert {"0.weight", "1.conv.0.weight", "2.weight", "3.conv.0.weight", "14.weight", "14.bias"} <= encoder.keys()
    assert {"1.weight", "3.conv.0.weight", "7.weight", "8.conv.4.bias", "18.conv.0.weight", "19.bias"} <= decoder.keys()
    assert not {"2.bias", "6.bias", "10.bias"} & encoder.keys()
    assert len(encoder) + len(decoder) == 134


def test_a_model_with_a_tiny_one(tiny_parts: Parts, tiny_folder: Path, tmp_path: Path) -> None:
    """A folder whose model_index.json tells of an AutoencoderTiny, saved by diffusers, read, and written back."""
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)
    sizes = {f"{side}_block_out_channels": [16] * 4 for side in ("encoder", "decoder")}
    theirs.vae = randomised(diffusers.AutoencoderTiny(**sizes))
    theirs.save_pretrained(tmp_path / "theirs")
    parts = load_folder(tmp_path / "theirs")
    assert_same_pictures(parts.vae, theirs.vae, scale=1.0)
    save_folder(parts, tmp_path / "ours")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert isinstance(again.vae, diffusers.AutoencoderTiny)
    expected = theirs.vae.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.vae.state_dict().items())
    # And a model's folder gives its autoencoder.
    assert_same_pictures(load_vae(tmp_path / "ours", "cpu", torch.float32), theirs.vae, scale=1.0)


def test_the_big_one_of_a_checkpoint(big: Any, tmp_path: Path) -> None:
    """Of a whole checkpoint the rest is passed over, and its family tells the scale."""
    file = {f"first_stage_model.{name}": tensor for name, tensor in latent_diffusion(big).items()}
    unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 4, 3, 3)}
    text = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(4, 8)}
    save_file(file | unet | text, tmp_path / "model.ckpt")
    ours = load_vae(tmp_path / "model.ckpt", "cpu", torch.float32)
    assert ours.config.scaling_factor == 0.18215
    assert_same_pictures(ours, big, scale=0.18215)
    assert names.find({name: tuple(tensor.shape) for name, tensor in file.items()}) == ("first_stage_model.", names.LDM)
