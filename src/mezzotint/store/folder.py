"""A model's parts, read from and written to the folder layout of a diffusers StableDiffusionPipeline.

The parts carry the parameter names of diffusers and transformers, so a folder loads there and here with nothing
converted. mezzotint.json beside model_index.json holds what those files have no place for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.beside import folder_beside
from mezzotint.store.checksum import Checksums
from mezzotint.store.facts import Facts, read_facts, read_json, write_facts, write_json
from mezzotint.store.layout import STEMS, is_model_folder, weight_files
from mezzotint.store.part import save_part
from mezzotint.store.source import Source, open_source
from mezzotint.store.weights import build
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.types import UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.config import AutoencoderConfig

Made = TypeVar("Made")

CLASSES = {
    "scheduler": ("diffusers", "DDIMScheduler"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
}
"""The parts of a model, and what other software reads each with."""
UNREAD = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that a folder may have and that drawing from words has no use for."""
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names in autoencoders saved before diffusers 0.15, which most Stable Diffusion 1.x folders still hold."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A text-to-image latent diffusion model, part by part, and what it says of itself."""

    tokenizer: Tokenizer
    text_encoder: CLIPTextModel
    unet: UNet
    vae: Autoencoder
    schedule: NoiseSchedule
    facts: Facts


def load_folder(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    checksums: Checksums | None = None,
) -> Parts:
    """The parts of the model in a diffusers folder, in evaluation mode.

    `dtype` none means 32 bits on a CPU, where fewer are slower, and as stored elsewhere. An autoencoder that overflows
    in float16 (`force_upcast`) stays in 32 bits. Where mezzotint.json has the weights' sums they are checked;
    `checksums`, begun earlier, saves the time. Raises UserError, naming the file and the tensor, for a folder that is
    incomplete or damaged, or has a part of another kind.
    """
    folder = Path(path)
    if not is_model_folder(folder):
        raise UserError(f"The folder {folder} has no model_index.json: give a folder in the diffusers layout.")
    check_classes(folder)
    device = torch.device(device)
    dtype = torch.float32 if dtype is None and device.type == "cpu" else dtype
    facts = read_facts(folder)
    asked = None if dtype is None else str(dtype).removeprefix("torch.")
    sums = Checksums(folder, asked) if checksums is None and facts.sha256 else checksums
    unet_config = described(UNetConfig.from_dict, folder / "unet" / "config.json")
    vae_config = described(AutoencoderConfig.from_dict, folder / "vae" / "config.json")
    text_config = described(CLIPTextConfig.from_dict, folder / "text_encoder" / "config.json")
    vae_dtype = torch.float32 if vae_config.force_upcast and dtype == torch.float16 else dtype

    def sources(part: str) -> list[Source]:
        return [open_source(path) for path in weight_files(folder / part, asked)]

    parts = Parts(
        tokenizer=Tokenizer.from_folder(folder / "tokenizer"),
        text_encoder=build(
            lambda: CLIPTextModel(text_config),
            sources("text_encoder"),
            device=device,
            dtype=dtype,
            rename=text_encoder_name,
        ),
        unet=build(lambda: UNet(unet_config), sources("unet"), device=device, dtype=dtype),
        vae=build(
            lambda: Autoencoder(vae_config),
            sources("vae"),
            device=device,
            dtype=vae_dtype,
            rename=autoencoder_name,
        ),
        schedule=described(NoiseSchedule.from_dict, folder / "scheduler" / "scheduler_config.json"),
        facts=facts,
    )
    check_fit(folder, parts)
    if sums is not None:
        sums.check(facts.sha256)
    return parts


def described(make: Callable[[dict[str, Any]], Made], path: Path) -> Made:
    """What `make` makes of a JSON file. Raises UserError where the file is damaged or tells of no such thing."""
    values = read_json(path)
    try:
        return make(values)
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} holds values of the wrong kind: get it again.") from error


def check_classes(folder: Path) -> None:
    """Raise UserError unless model_index.json tells of a model of these parts and no others."""
    index = read_json(folder / "model_index.json")
    for part, (_, expected) in CLASSES.items():
        entry = index.get(part)
        name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if name is None:
            raise UserError(f"{folder / 'model_index.json'} has no {part}: the model is incomplete or of another kind.")
        if part not in ("scheduler", "tokenizer") and name != expected:
            raise UserError(f"The {part} in {folder} is a {name}; only a {expected} can be read here.")
    for part, entry in index.items():
        if isinstance(entry, list) and entry != [None, None] and part not in CLASSES and part not in UNREAD:
            raise UserError(f"The model in {folder} has a part {part}, which cannot be read here.")


def check_fit(folder: Path, parts: Parts) -> None:
    """Raise UserError unless the parts fit each other, so that the first picture does not find out."""
    width, wanted = parts.text_encoder.config.hidden_size, parts.unet.config.cross_attention_dim
    if width != wanted:
        raise UserError(f"In {folder} the text encoder's tokens are {width} wide; the U-Net reads {wanted}.")
    channels, wanted = parts.vae.config.latent_channels, parts.unet.config.out_channels
    if channels != wanted:
        raise UserError(f"In {folder} the autoencoder has {channels} latent channels; the U-Net predicts {wanted}.")


def text_encoder_name(name: str) -> str | None:
    """Our name for a CLIP text model's tensor: transformers 5 leaves `text_model.` out, 4.30 stores positions."""
    if name.endswith("position_ids"):
        return None
    return name if name.startswith("text_model.") else f"text_model.{name}"


def autoencoder_name(name: str) -> str | None:
    """Our name for an autoencoder's tensor."""
    for old, new in OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def save_folder(parts: Parts, path: str | Path, *, card: str | None = None, dtype: torch.dtype | None = None) -> None:
    """Write a model as a diffusers folder, with the sums of its weights in mezzotint.json and `card` as README.md.

    It is written beside and renamed, in the place of an older folder of that name. Weights are cast to `dtype` if
    given; 16 bits halve the file. Raises UserError where the place cannot be written.
    """
    modules = {"unet": parts.unet, "vae": parts.vae, "text_encoder": parts.text_encoder}
    configs = {
        "unet": parts.unet.config.to_dict(),
        "vae": parts.vae.config.to_dict(),
        # transformers would else compute in the 16 bits that the file is stored in, beside a U-Net in 32.
        "text_encoder": parts.text_encoder.config.to_dict() | {"torch_dtype": "float32"},
    }
    with folder_beside(Path(path)) as folder:
        sums: dict[str, str] = {}
        for part, module in modules.items():
            for file in save_part(module, configs[part], folder / part, stem=STEMS[part], dtype=dtype):
                sums[file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
        parts.tokenizer.save(folder / "tokenizer")
        (folder / "scheduler").mkdir()
        write_json(parts.schedule.to_dict(), folder / "scheduler" / "scheduler_config.json")
        index = {name: list(entry) for name, entry in CLASSES.items()} | {name: [None, None] for name in UNREAD}
        write_json(
            {"_class_name": "StableDiffusionPipeline", **index, "requires_safety_checker": False},
            folder / "model_index.json",
        )
        write_facts(replace(parts.facts, sha256=sums), folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
