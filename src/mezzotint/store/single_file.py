"""A whole model in one file, in the layout of the latent diffusion code that people pass around.

Read for every family that `store.families` tells apart; written with our configs, tokenizers and facts in the metadata,
so that what is written and read again is equal to the bit, whatever its sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.conditioning.foreign import ForeignEncoder
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.carried import carried_in_file, for_file
from mezzotint.store.checked import made
from mezzotint.store.classifier import classifier_for_file, classifier_in_file
from mezzotint.store.contents import TEXT_KINDS, Part, averaged
from mezzotint.store.evidence import kept, own, told_beside
from mezzotint.store.facts import file_facts
from mezzotint.store.families import Family, recognise
from mezzotint.store.header import naming
from mezzotint.store.hints import hints_for_file, hints_in_file
from mezzotint.store.image_prompt import image_prompts_for_file, image_prompts_in_file
from mezzotint.store.keymap import KeyMap, given, prefixed
from mezzotint.store.layout import CLASSIFIER, HINTS
from mezzotint.store.ldm import bert, clip, unet, vae
from mezzotint.store.parts import Parts, check_fit
from mezzotint.store.pipelines import LATENT_DIFFUSION, SECOND_TEXT, TWO_TEXTS
from mezzotint.store.rest import KEPT
from mezzotint.store.source import Source, open_source
from mezzotint.store.tokenizers import packed_tokenizers, tokenizer_for
from mezzotint.store.weights import Unread, build, in_dtype, write_tensors
from mezzotint.text import Tokenizer, WordPieceTokenizer
from mezzotint.types import UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.config import AutoencoderConfig

PART_NAMES = {"unet": "U-Net", "vae": "autoencoder", "text_encoder": "text encoder"}
"""The parts that a model cannot do without, in words."""
UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
MARKERS = ("v_pred", "ztsnr")
"""Empty tensors by which other programs know an SDXL that predicts v, and one with zero terminal SNR."""


def load_file(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    ema: bool = False,
    unread: Unread | None = None,
) -> Parts:
    """The parts of the model in one file, safetensors or pickled by PyTorch, in evaluation mode.

    `dtype` none is as stored. An autoencoder that overflows in float16 (`force_upcast`) is then in 32 bits. `ema` takes
    the averages of the U-Net's weights in their place. `unread` is as in `build`. Raises UserError, naming the file and
    the tensor, for one that holds no whole model, or one that cannot be run here, and where its tokenizer is not on
    this machine.
    """
    source = open_source(Path(path))
    with naming(source.path):
        return _loaded(source, torch.device(device), dtype, ema=ema, unread=unread)


def _loaded(
    source: Source, device: torch.device, dtype: torch.dtype | None, *, ema: bool, unread: Unread | None
) -> Parts:
    family = recognise(
        {name: entry.shape for name, entry in source.entries.items()},
        {**source.metadata, **told_beside(source.path)},
        lambda name: _numbers(source.tensor(name)),
    )
    _check(family)
    parts = {part.kind: part for part in family.parts}
    if ema:
        parts["unet"] = averaged(parts["unet"], {name: entry.shape for name, entry in source.entries.items()})
    texts = [part for kind, part in parts.items() if kind in TEXT_KINDS]
    reading = texts[0].reading
    assert reading is not None

    def network(part: Part) -> nn.Module:
        return _network(source, part, device, dtype, unread)

    pieces = [
        tokenizer_for(
            cast("CLIPTextConfig | LDMBertConfig", text.config),
            source.metadata,
            text.kind,
            pad_id=None if text.reading is None else text.reading.pad_id,
        )
        for text in texts
    ]
    encoders = [cast("CLIPTextModel | LDMBertModel", network(text)) for text in texts]
    told = own(source.metadata, "reading") or {}
    facts = file_facts(source.path, source.metadata)
    model = Parts(
        tokenizer=pieces[0],
        text_encoder=encoders[0],
        tokenizer_2=cast("Tokenizer", pieces[1]) if len(texts) > 1 else None,
        text_encoder_2=cast("CLIPTextModel", encoders[1]) if len(texts) > 1 else None,
        layer=reading.layer,
        final_norm=reading.final_norm,
        force_zeros_for_empty_prompt=bool(told.get("zero_empty_negative", family.kind == "sdxl")),
        unet=cast("UNet", network(parts["unet"])),
        vae=cast("Autoencoder", network(parts["vae"])),
        schedule=made(NoiseSchedule.from_dict, family.training.schedule, "The schedule"),
        carried=carried_in_file(source),
        classifier=classifier_in_file(source),
        hints=hints_in_file(source),
        image_prompts=image_prompts_in_file(source),
        leftover={name: source.tensor(name) for name in family.unused if name.startswith(KEPT)},
        facts=facts if facts.sizes else replace(facts, sizes=(family.training.size,)),
    )
    check_fit(source.path, model)
    return model


def _numbers(tensor: Tensor) -> list[float]:
    numbers: list[float] = tensor.float().flatten().tolist()
    return numbers


def _check(family: Family) -> None:
    """Raise UserError unless the file holds a whole model that can be run, and nothing unknown beside its parts."""
    if family.refusal is not None:
        raise UserError(family.refusal)
    kinds = {part.kind for part in family.parts}
    for kind, name in PART_NAMES.items():
        if kind not in kinds:
            have = " and ".join(text for own_kind, text in PART_NAMES.items() if own_kind in kinds)
            raise UserError(f"The file has a {have} alone and no {name}: give a whole model.")
    for unknown in family.unknown:
        for part in family.parts:
            if part.prefix != "" and unknown.startswith(part.prefix):
                raise UserError(
                    f"The file has the tensor {unknown}, which the {family.name} has not: it is of another kind."
                )


def _network(
    source: Source, part: Part, device: torch.device, dtype: torch.dtype | None, unread: Unread | None
) -> nn.Module:
    """The network of one part, with its weights."""
    config = part.config
    if isinstance(config, AutoencoderConfig) and config.force_upcast and dtype == torch.float16:
        dtype = torch.float32
    # What is left over was looked at before, for all parts together.
    return build(
        lambda: _network_of(config),
        [source],
        device=device,
        dtype=dtype,
        places=part.places,
        ignored=lambda _name: True,
        unread=unread,
    )


def _network_of(config: UNetConfig | AutoencoderConfig | CLIPTextConfig | LDMBertConfig) -> nn.Module:
    if isinstance(config, UNetConfig):
        return UNet(config)
    if isinstance(config, AutoencoderConfig):
        return Autoencoder(config)
    return LDMBertModel(config) if isinstance(config, LDMBertConfig) else CLIPTextModel(config)


def save_file(parts: Parts, path: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model as one safetensors file, cast to `dtype` if given, by write-and-rename.

    Raises UserError where the place cannot be written, or where the layout has no place for the model's text encoder.
    """
    tensors: dict[str, Tensor] = {}
    configs: dict[str, dict[str, Any]] = {
        "scheduler": parts.schedule.to_dict(),
        "facts": {name: value for name, value in asdict(parts.facts).items() if name != "sha256"},
        "reading": {
            "layer": parts.layer,
            "final_norm": parts.final_norm,
            "zero_empty_negative": parts.force_zeros_for_empty_prompt,
        },
    }
    for kind, network, places in _placed(parts):
        tensors |= given(in_dtype(network.state_dict(), dtype), places)
        configs[kind] = network.config.to_dict()
    others, told = for_file(parts.carried)
    if parts.classifier is not None:
        steering, configs[CLASSIFIER] = classifier_for_file(parts.classifier(), dtype)
        others |= steering
    if parts.hints is not None:
        learned, configs[HINTS] = hints_for_file(parts.hints, dtype)
        others |= learned
    if parts.image_prompts is not None:
        reader, layers = parts.image_prompts.conditioner(), parts.image_prompts.layers(parts.unet)
        seeing, told_of_it = image_prompts_for_file(reader, layers, dtype)
        others, configs = others | seeing, configs | told_of_it
    if parts.layout == TWO_TEXTS and parts.schedule.prediction_type == "v_prediction":
        present = MARKERS if parts.schedule.to_dict().get("rescale_betas_zero_snr") else MARKERS[:1]
        tensors |= {name: torch.zeros(0) for name in present}
    pieces = {"tokenizer": parts.tokenizer, "tokenizer_2": parts.tokenizer_2}
    packed = packed_tokenizers(
        {name: words for name, words in pieces.items() if isinstance(words, Tokenizer | WordPieceTokenizer)}
    )
    tensors = in_dtype(parts.leftover, dtype) | tensors | others
    write_tensors(tensors, Path(path), {**kept(configs), **packed, **told, **_for_others(parts)})


def _placed(parts: Parts) -> Iterator[tuple[str, Any, KeyMap]]:
    """Every network by its folder's name in the diffusers layout, with where its tensors go."""
    autoencoder = parts.vae
    if not isinstance(autoencoder, Autoencoder):
        raise UserError("A single file has no place for a tiny autoencoder: write a diffusers folder.")
    yield "unet", parts.unet, prefixed(unet.places(parts.unet.config), UNET_PREFIX)
    yield "vae", autoencoder, prefixed(vae.places(autoencoder.config), VAE_PREFIX)
    layout = parts.layout
    first, second = parts.text_encoder, parts.text_encoder_2
    if isinstance(first, ForeignEncoder):
        raise UserError("A single file has no place for a text encoder of transformers: write a diffusers folder.")
    if isinstance(first, LDMBertModel):
        assert layout == LATENT_DIFFUSION
        yield "text_encoder", first, prefixed(bert.places(first.config), "cond_stage_model.transformer.")
        return
    if layout in (TWO_TEXTS, SECOND_TEXT):
        prefix, names = "conditioner.embedders.0.", clip.OPEN_CLIP if second is None else clip.TRANSFORMERS
    else:
        # OpenAI's CLIP has quick_gelu, and OpenCLIP, which Stable Diffusion 2 reads, gelu.
        prefix, names = "cond_stage_model.", clip.OPEN_CLIP if first.config.hidden_act == "gelu" else clip.TRANSFORMERS
    inner = "model." if names == clip.OPEN_CLIP else "transformer."
    yield "text_encoder", first, prefixed(clip.places(first.config, names), prefix + inner)
    if second is not None:
        places = clip.places(second.config, clip.OPEN_CLIP)
        yield "text_encoder_2", second, prefixed(places, "conditioner.embedders.1.model.")


def _for_others(parts: Parts) -> dict[str, str]:
    """What other programs look for in the metadata (Stability AI's modelspec 1.0)."""
    names = {"v_prediction": "v", "epsilon": "epsilon"}
    told = {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": parts.facts.name}
    if parts.schedule.prediction_type in names:
        told["modelspec.prediction_type"] = names[parts.schedule.prediction_type]
    if parts.facts.sizes:
        width, height = parts.facts.sizes[0]
        told["modelspec.resolution"] = f"{width}x{height}"
    return {name: text for name, text in told.items() if text != ""}
