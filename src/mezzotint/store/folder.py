"""A model's parts, read from and written to the folder layout of diffusers' pipelines from text.

The parts carry the parameter names of diffusers and transformers, so a folder loads there and here with nothing
converted. mezzotint.json beside model_index.json holds what those files have no place for.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from mezzotint.conditioning.clip import CLIPTextModel
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.beside import folder_beside
from mezzotint.store.carried import carried_in_folder
from mezzotint.store.checksum import Checksums
from mezzotint.store.classifier import classifier_in, save_classifier
from mezzotint.store.facts import described, read_facts, read_json, write_facts, write_json
from mezzotint.store.hints import hints_in, save_hints
from mezzotint.store.image_prompt import image_prompts_in, save_image_prompts
from mezzotint.store.layout import HINTS, IMAGE_PROMPT, is_model_folder
from mezzotint.store.part import SHARD, save_part
from mezzotint.store.parts import Parts, check_fit
from mezzotint.store.pipelines import Entry, carried_along, layout_of, model_index
from mezzotint.store.rest import read_rest, write_rest
from mezzotint.store.source import part_sources
from mezzotint.store.texts import entries, load_text, save_text, texts_for_diffusers
from mezzotint.store.vae_file import build_vae, read_vae_config
from mezzotint.store.weights import Unread, build
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.types import UserError


def load_folder(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    checksums: Checksums | None = None,
    *,
    unread: Unread | None = None,
) -> Parts:
    """The parts of the model in a diffusers folder, in evaluation mode.

    `dtype` none is as stored. An autoencoder that overflows in float16 (`force_upcast`) is then in 32 bits. Where
    mezzotint.json has the weights' sums they are checked; `checksums`, begun earlier, saves the time. `unread` is as in
    `build`. Raises UserError, naming the file and the tensor, for a folder that is incomplete or damaged, or has a part
    of another kind.
    """
    folder = Path(path)
    if not is_model_folder(folder):
        raise UserError(f"The folder {folder} has no model_index.json: give a folder in the diffusers layout.")
    index = read_json(folder / "model_index.json")
    layout = layout_of(folder, index)
    device = torch.device(device)
    facts = read_facts(folder)
    asked = None if dtype is None else str(dtype).removeprefix("torch.")
    sums = Checksums(folder, asked) if checksums is None and facts.sha256 else checksums
    unet_config = described(UNetConfig.from_dict, folder / "unet" / "config.json")
    vae_config = read_vae_config(folder / layout.vae)
    rest = read_rest(folder)
    texts = [
        load_text(
            (folder / words, folder / encoder),
            index[encoder][1],
            device=device,
            dtype=dtype,
            rest=rest,
            unread=unread,
        )
        for words, encoder in layout.texts
    ]
    tokenizer_2, text_encoder_2 = texts[1] if len(texts) > 1 else (None, None)
    assert isinstance(tokenizer_2, Tokenizer | None)
    assert isinstance(text_encoder_2, CLIPTextModel | None)
    sized = unet_config.addition_embed_type is not None
    parts = Parts(
        tokenizer=texts[0][0],
        text_encoder=texts[0][1],
        tokenizer_2=tokenizer_2,
        text_encoder_2=text_encoder_2,
        layer=(-2 if sized else -1) - (0 if rest is None else rest.layers(layout.encoders)),
        final_norm=not sized,
        force_zeros_for_empty_prompt=sized and bool(index.get("force_zeros_for_empty_prompt", True)),
        unet=build(
            lambda: UNet(unet_config), part_sources(folder / "unet", dtype), device=device, dtype=dtype, unread=unread
        ),
        vae=build_vae(vae_config, part_sources(folder / layout.vae, dtype), device=device, dtype=dtype, unread=unread),
        schedule=described(NoiseSchedule.from_dict, folder / "scheduler" / "scheduler_config.json"),
        facts=facts,
        carried={part: carried_in_folder(folder / part, entry) for part, entry in carried_along(index).items()},
        classifier=classifier_in(folder, facts.sha256),
        hints=hints_in(folder, facts.sha256),
        image_prompts=image_prompts_in(folder, facts.sha256),
        leftover={} if rest is None else rest.leftover(),
    )
    check_fit(folder, parts)
    if sums is not None:
        sums.check(facts.sha256)
    return parts


def save_folder(
    parts: Parts,
    path: str | Path,
    *,
    card: str | None = None,
    dtype: torch.dtype | None = None,
    shard: int = SHARD,
) -> None:
    """Write a model as a diffusers folder, with the sums of its weights in mezzotint.json and `card` as README.md.

    It is written beside and renamed, in the place of an older folder of that name. Weights are cast to `dtype` if
    given; 16 bits halve the file. A part above `shard` bytes is split. Raises UserError where the place cannot be
    written, or where diffusers has no pipeline that would draw what the model draws.
    """
    layout, texts = parts.layout, texts_for_diffusers(parts)
    vae_config = parts.vae.config.to_dict()
    classes: dict[str, Entry] = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        layout.vae: ["diffusers", vae_config["_class_name"]],
        **{name: part.entry for name, part in parts.carried.items()},
    }
    for names, text in zip(layout.texts, texts, strict=True):
        classes |= dict(zip(names, entries(text), strict=True))
    index = model_index(
        layout,
        classes,
        numbers=parts.numbers,
        channels=parts.unet.config.spatial_channels,
        zero_empty_negative=parts.force_zeros_for_empty_prompt,
    )
    with folder_beside(Path(path)) as folder:
        files = [
            *save_part(parts.unet, parts.unet.config.to_dict(), folder / "unet", dtype=dtype, shard=shard),
            *save_part(parts.vae, vae_config, folder / layout.vae, dtype=dtype, shard=shard),
        ]
        for (words, encoder), text in zip(layout.texts, texts, strict=True):
            files += save_text(text, (folder / words, folder / encoder), dtype, shard)
        if parts.classifier is not None:
            files += save_classifier(parts.classifier(), folder, dtype)
        if parts.hints is not None:
            files += save_hints(parts.hints.names, parts.hints.tensors, folder / HINTS, dtype)
        if parts.image_prompts is not None:
            reader, layers = parts.image_prompts.conditioner(), parts.image_prompts.layers(parts.unet)
            files += save_image_prompts(reader, layers, folder / IMAGE_PROMPT, dtype)
        wholes = dict(zip(layout.encoders, filter(None, (parts.text_encoder, parts.text_encoder_2)), strict=True))
        saved = dict(zip(layout.encoders, (encoder for _, encoder in texts), strict=True))
        files += write_rest(wholes, saved, parts.leftover, folder, dtype)
        for name, part in parts.carried.items():
            part.save(folder / name)
        (folder / "scheduler").mkdir()
        write_json(parts.schedule.to_dict(), folder / "scheduler" / "scheduler_config.json")
        write_json(index, folder / "model_index.json")
        sums = {file.relative_to(folder).as_posix(): _sum(file) for file in files}
        write_facts(replace(parts.facts, sha256=sums), folder)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
