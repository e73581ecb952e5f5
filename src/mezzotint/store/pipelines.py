"""Which pipeline of diffusers a model is, and what that calls its parts. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mezzotint.types import UserError

Entry = list[str | None]
"""The library and the class that a part is read with, as in model_index.json; none where there is no such part."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The folders of the parts that not all pipelines call alike."""

    texts: tuple[tuple[str, str], ...]
    """Tokenizer and text encoder, as often as there are any, in the order in which they are read."""
    vae: str = "vae"
    """The autoencoder."""

    @property
    def encoders(self) -> tuple[str, ...]:
        """The text encoders."""
        return tuple(encoder for _, encoder in self.texts)


FIRST, SECOND = ("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")
ONE_TEXT = Layout(texts=(FIRST,))
"""Stable Diffusion 1.x and 2.x, and all that are trained here."""
TWO_TEXTS = Layout(texts=(FIRST, SECOND))
"""SDXL."""
SECOND_TEXT = Layout(texts=(SECOND,))
"""SDXL's refiner."""
LATENT_DIFFUSION = Layout(texts=(("tokenizer", "bert"),), vae="vqvae")
"""The text-to-image model of the latent diffusion paper."""

VERSION = "0.35.0"
"""A diffusers whose keys these are; it does not load an inpainting model whose model_index.json does not tell one."""
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
READABLE = {
    "unet": ("UNet2DConditionModel",),
    "vae": AUTOENCODERS,
    "vqvae": AUTOENCODERS,
    "text_encoder": CLIP,
    "text_encoder_2": CLIP,
    "bert": ("LDMBertModel",),
}
"""The classes of other software whose weights are read here."""
UNREAD = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that a folder may have and that drawing from words has no use for."""
DEPTH = ("depth_estimator", "feature_extractor")
"""Parts that the pipeline from depth does not load without; they are carried along unread."""
SPATIAL = {0: "", 1: "Depth2Img", 4: "InstructPix2Pix", 5: "Inpaint"}
"""The pipelines by how many channels their U-Net reads beside the latent's."""


def layout_of(folder: Path, index: Mapping[str, Any]) -> Layout:
    """What the parts of the model in a folder, with this model_index.json, are called.

    Raises UserError unless it tells of parts that can be read here, of all that are needed and of no others.
    """
    path = folder / "model_index.json"
    classes = {part: entry[1] for part, entry in index.items() if _is_entry(entry)}
    libraries = {part: entry[0] for part, entry in index.items() if _is_entry(entry)}
    if "bert" in classes:
        layout = replace(LATENT_DIFFUSION, vae="vqvae" if "vqvae" in classes else "vae")
    else:
        found = tuple(text for text in (FIRST, SECOND) if text[1] in classes)
        layout = Layout(texts=found if found else (FIRST,))
    needed = ("unet", layout.vae, "scheduler", *(part for text in layout.texts for part in text))
    for part in needed:
        if part not in classes:
            others = f"with its {layout.encoders[-1]}" if part == layout.texts[-1][0] else ""
            raise UserError(f"{path} has no {part} {others}".rstrip() + ": the model is incomplete or of another kind.")
    for part, readable in READABLE.items():
        foreign = part == "text_encoder" and libraries.get(part) == "transformers"
        if part in classes and classes[part] not in readable and not foreign:
            known = " or ".join(readable)
            raise UserError(f"The {part} in {folder} is a {classes[part]}; only a {known} can be read here.")
    for part in classes:
        if part not in (*needed, *UNREAD, *DEPTH):
            raise UserError(f"The model in {folder} has a part {part}, which cannot be read here.")
    return layout


def model_index(
    layout: Layout, classes: Mapping[str, Entry], *, numbers: int, channels: int, zero_empty_negative: bool
) -> dict[str, Any]:
    """The contents of model_index.json for parts of these classes.

    `numbers` are those about a picture's size that the U-Net is told, 0, 5 or 6; `channels` those that it reads beside
    the latent's. Raises UserError where diffusers has no pipeline for such a model.
    """
    name = class_name(layout, numbers, channels)
    absent: tuple[str, ...] = UNREAD
    settings: dict[str, Any] = {"requires_safety_checker": False}
    if "bert" in layout.encoders:
        absent, settings = (), {}
    elif numbers > 0:
        absent = (*FIRST, *SECOND, *(() if channels == 4 else ("feature_extractor", "image_encoder")))
        settings = {"force_zeros_for_empty_prompt": zero_empty_negative}
        if numbers == 5 or channels == 5:
            settings["requires_aesthetics_score"] = numbers == 5
    elif channels == 1:
        absent, settings = DEPTH, {}
    return {
        "_class_name": name,
        "_diffusers_version": VERSION,
        **{part: [None, None] for part in absent},
        **classes,
        **settings,
    }


def class_name(layout: Layout, numbers: int, channels: int) -> str:
    """The pipeline of diffusers that a model is, as `model_index`."""
    if channels == 0 and "bert" in layout.encoders:
        return "LDMTextToImagePipeline"
    if channels == 0 and numbers == 5:
        return "StableDiffusionXLImg2ImgPipeline"
    if channels not in SPATIAL or "bert" in layout.encoders or numbers == 5 or (numbers > 0 and channels == 1):
        raise UserError(f"diffusers has no pipeline for such a model that reads {channels} channels beside a latent.")
    return f"StableDiffusion{'XL' if numbers > 0 else ''}{SPATIAL[channels]}Pipeline"


def carried_along(index: Mapping[str, Any]) -> dict[str, Entry]:
    """The parts of a model with this model_index.json that are carried along unread, and what they are read with."""
    if not _is_entry(index.get(DEPTH[0])):
        return {}
    return {part: index[part] for part in DEPTH if _is_entry(index.get(part))}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None
