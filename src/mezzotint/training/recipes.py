"""Recipes: functions that return everything a run needs to know, and beside it what it reached if it was run."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, cast

from mezzotint.conditioning.sight_config import SightConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.recipe import BERT, Recipe
from mezzotint.training.settings import (
    STILL_LIFE,
    BERTRecipe,
    ClassifierRecipe,
    CLIPRecipe,
    DecoderRecipe,
    HintsRecipe,
    ImagePromptRecipe,
    SightRecipe,
    UNetRecipe,
    VAERecipe,
)
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig


def _unet(
    size: int, widths: Sequence[int], attention: Sequence[bool], text_width: int, layers: int = 1, groups: int = 16
) -> UNetConfig:
    down = tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attention)
    up = tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention))
    return UNetConfig(
        sample_size=size // 8,
        block_out_channels=tuple(widths),
        down_block_types=down,
        up_block_types=up,
        layers_per_block=layers,
        cross_attention_dim=text_width,
        attention_head_dim=tuple(max(1, width // 32) for width in widths),
        norm_num_groups=groups,
        use_linear_projection=True,
    )


def _vae(size: int, *widths: int, groups: int = 8) -> AutoencoderConfig:
    return AutoencoderConfig.of_widths(
        *widths, layers_per_block=1, norm_num_groups=groups, sample_size=size, scaling_factor=1.0, force_upcast=False
    )


def _classifier(
    widths: tuple[int, ...], blocks: tuple[int, ...], fit: FitConfig, heads: int = 4, groups: int = 16
) -> ClassifierRecipe:
    network = replace(STILL_LIFE, widths=widths, blocks=blocks, heads=heads, norm_num_groups=groups)
    return ClassifierRecipe(network=network, fit=fit)


def debug() -> Recipe:
    """Every stage in seconds, on nothing much; the pictures are noise."""
    quick = FitConfig(images=32, batch=8, warmup=8, ema=16, bf16=False)
    return Recipe(
        name="debug",
        size=32,
        scenes=64,
        vae=VAERecipe(network=_vae(32, 8, 8, 8, 8, groups=4), crop=32, fit=quick),
        clip=CLIPRecipe(vocab_size=600, width=32, layers=1, heads=2, patch=8, projection=16, fit=quick),
        bert=BERTRecipe(vocab_size=200, width=32, layers=1, heads=2),
        unet=UNetRecipe(network=_unet(32, (32, 32), (False, True), 32), fit=quick),
        decoder=DecoderRecipe(crop=32, redrawn=0.5, fit=quick),
        classifier=_classifier((16, 16), (1, 2), quick, heads=2, groups=4),
        hints=HintsRecipe(rank=2, fit=quick),
        image_prompt=ImagePromptRecipe(words=quick, fit=quick),
        sight=SightRecipe(network=SightConfig(widths=(8, 16), norm_num_groups=4), fit=quick),
        defaults={"steps": 2, "guidance": 2.0, "sampler": "euler"},
    )


def still_life_64() -> Recipe:
    """64 pixels, for two CPU cores: 81 minutes from nothing to the model, beside other work (docs/log.md).

    Its decoder redrew nothing then.
    """
    return Recipe(
        name="still-life-64",
        size=64,
        scenes=40960,
        vae=VAERecipe(
            network=_vae(64, 16, 32, 64, 128),
            crop=64,
            fit=FitConfig(images=50_000, batch=32, lr=2e-3, warmup=3200, ema=3000),
        ),
        clip=CLIPRecipe(
            width=192,
            layers=4,
            heads=6,
            patch=8,
            fit=FitConfig(images=160_000, batch=256, betas=(0.9, 0.98), warmup=10_000, ema=10_000),
        ),
        unet=UNetRecipe(
            network=_unet(64, (96, 160), (True, True), 192),
            fit=FitConfig(images=180_000, batch=64, warmup=4_000, ema=4_000, fall=1.0),
        ),
        decoder=DecoderRecipe(
            crop=64, redrawn=0.5, fit=FitConfig(images=15_000, batch=32, lr=1e-3, warmup=1600, ema=3000, fall=0.7)
        ),
        classifier=_classifier((112,), (3,), FitConfig(images=60_000, batch=32, lr=1.5e-3, ema=3000, fall=0.6)),
    )


def still_life_64_bert() -> Recipe:
    """still-life-64 with latent diffusion's BERT, as large as that one's text tower, which learns with the U-Net.

    It has not been run at 64 pixels: at 128, beside CLIP's tower and one of chance weights, see docs/log.md.
    """
    return replace(still_life_64(), name="still-life-64-bert", encoder=BERT)


def still_life_128() -> Recipe:
    """128 pixels, for a GPU, or two CPU cores and some eleven hours for the U-Net alone: the shipped model.

    Autoencoder 36.4 dB, text read right in 99.2% of solids before it was taught more words, obedience 0.97 overall:
    see docs/log.md. The shipped stages have seen as many images as are said here, not in one go: the autoencoder in
    three, the text tower in two, then 1 130 000 captions in more words without pictures, and last 120 000 by what the
    U-Net draws best; the decoder in two, and between them 160 000 crops of 64 pixels. The U-Net's learning rate fell
    to zero at 240 000, 310 000, 730 000, 1 200 000, 1 410 000, 1 640 000, 1 870 000, 1 906 000, 1 986 000, 2 116 000
    and 2 236 000 images and rose to some 6e-4 again, last 5e-4. Until 1 410 000 it had 64 channels at the finest
    resolution; from 1 640 000 on two scenes in five were tinted, from 1 870 000 none, the mean of both weights saw 80
    000 images, one in five tinted, and 130 000 more, as many tinted, were noised to lower levels (focus 0.6, middle
    0.8). The mean of both weights learned 120 000 images more by its own walks (`walked`), in the blocks at the
    latent's own size alone, and half of that was kept. The classifier was trained in four goes, its learning rate
    zero after 90 000 and 154 000. What reads pictures as prompts is as its own mezzotint.json says: its image tower,
    another than that of these 360 000, saw 300 000 pictures by batches of 256 and 1 100 000 more by 64, half of
    those grey and of the last 200 000 seven in ten, half of the scenes were tinted that it was read by, and last it
    saw 64 000 by the error of the U-Net, which stayed as it was.
    """
    return Recipe(
        name="still-life-128",
        size=128,
        scenes=40960,
        vae=VAERecipe(
            network=_vae(128, 16, 32, 64, 128),
            crop=64,
            fit=FitConfig(images=136_000, batch=32, lr=2e-3, warmup=3200, ema=3000),
        ),
        clip=CLIPRecipe(
            width=192,
            layers=4,
            heads=6,
            patch=16,
            fit=FitConfig(images=360_000, batch=256, betas=(0.9, 0.98), warmup=10_000, ema=10_000, fall=0.3),
        ),
        unet=UNetRecipe(
            network=_unet(128, (128, 128, 192), (False, True, True), 192),
            fit=FitConfig(images=2_236_000, batch=64, warmup=4_000, ema=4_000, fall=1.0),
        ),
        decoder=DecoderRecipe(
            crop=128, redrawn=0.5, fit=FitConfig(images=26_000, batch=32, lr=5e-4, warmup=640, ema=2000, fall=1.0)
        ),
        classifier=_classifier((64, 128), (1, 3), FitConfig(images=234_000, batch=32, lr=1.5e-3, ema=3000, fall=0.6)),
        defaults={
            "steps": 24,
            "guidance": 5.0,
            "guide": ["interval:1:1000000"],
            "sampler": "dpmpp-2m-sde",
            "schedule": "karras",
            "eta": 0.3,
        },
        hinted={"guidance": 3.0},
    )


def still_life_256() -> Recipe:
    """256 pixels, for a GPU. It has not been run yet."""
    return Recipe(
        name="still-life-256",
        size=256,
        scenes=65536,
        vae=VAERecipe(
            network=_vae(256, 32, 64, 128, 128),
            crop=128,
            fit=FitConfig(images=400_000, batch=64, warmup=5_000, ema=10_000),
        ),
        clip=CLIPRecipe(
            width=256,
            layers=6,
            heads=8,
            patch=16,
            fit=FitConfig(images=1_500_000, batch=512, warmup=20_000, ema=50_000),
        ),
        bert=BERTRecipe(width=256, layers=6, heads=8),
        unet=UNetRecipe(
            network=_unet(256, (128, 256, 256), (False, True, True), 256, layers=2),
            fit=FitConfig(images=2_500_000, batch=256, lr=6e-4, warmup=20_000, ema=50_000),
        ),
        decoder=DecoderRecipe(crop=128, redrawn=0.5, fit=FitConfig(images=150_000, batch=64, lr=5e-4, fall=0.7)),
        classifier=_classifier((64, 64, 128), (1, 1, 3), FitConfig(images=300_000, batch=64, ema=10_000, fall=0.7)),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "debug": debug,
    "still-life-64": still_life_64,
    "still-life-64-bert": still_life_64_bert,
    "still-life-128": still_life_128,
    "still-life-256": still_life_256,
}
"""Every recipe by its name."""


def recipe_named(name: str) -> Recipe:
    """The recipe of this name. Raises UserError listing the names for another."""
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}: use one of {', '.join(RECIPES)}.")
    return RECIPES[name]()


def changed(recipe: Recipe, settings: Sequence[str], stage: str = "") -> Recipe:
    """The recipe with `key=value` settings, keys dotted from the recipe down (`unet.fit.images=1000`).

    Where a stage is named, its own keys need no dots (`images=1000`). All settings are applied before any is checked;
    the networks' sample_size follows size where it is not given, and the classifier's in_channels the autoencoder's
    latent_channels. Raises UserError for a key that is not there, a value of another kind, or settings that do not go
    together.
    """
    values: dict[tuple[str, ...], Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r} is no setting: write key=value.")
        within = [f"{stage}.fit.{key}", f"{stage}.network.{key}", f"{stage}.{key}"] if stage else []
        paths = (tuple(path.split(".")) for path in (*within, key))
        place = next((path for path in paths if _reaches(recipe, path)), None)
        if place is None:
            raise UserError(f"The recipe has no setting {key!r}: look at its recipe.json for the keys.")
        values[place] = _parsed(text, _at(recipe, place), key)
    if ("size",) in values:
        size = values["size",]
        levels = len(values.get(("vae", "network", "block_out_channels"), recipe.vae.network.block_out_channels))
        values.setdefault(("vae", "network", "sample_size"), size)
        values.setdefault(("unet", "network", "sample_size"), size // 2 ** max(levels - 1, 0))
    channels = ("vae", "network", "latent_channels")
    if channels in values:
        values.setdefault(("classifier", "network", "in_channels"), values[channels])
    try:
        return _rebuilt(recipe, values)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"A value among {' '.join(settings)} is of the wrong kind ({error}): mend it.") from error


def _reaches(owner: Any, path: Sequence[str]) -> bool:
    for step in path:
        if not is_dataclass(owner) or step not in {entry.name for entry in fields(owner)}:
            return False
        owner = getattr(owner, step)
    return not is_dataclass(owner)


def _at(owner: Any, path: Sequence[str]) -> Any:
    for step in path:
        owner = getattr(owner, step)
    return owner


def _rebuilt(owner: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    """The dataclass with the values at these paths in place of its own, each of its parts made once."""
    parts: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in values.items():
        parts.setdefault(path[0], {})[path[1:]] = value
    made = {name: inner[()] if () in inner else _rebuilt(getattr(owner, name), inner) for name, inner in parts.items()}
    return replace(owner, **made)


def _parsed(text: str, old: Any, key: str) -> Any:
    """The text as a value of the old one's kind."""
    if isinstance(old, StrEnum):
        if text not in list(type(old)):
            raise UserError(f"{key} is {text!r}; it must be one of {', '.join(type(old))}.")
        return type(old)(text)
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        raise UserError(f"{key} is {text!r}; it must be a value such as {old!r}.") from error
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(cast("list[Any]", value))
    if old is not None and type(value) is not type(old):
        raise UserError(f"{key} is {text!r}; it must be a value such as {old!r}.")
    return value
