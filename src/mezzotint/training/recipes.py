"""Recipes: functions that return everything a run needs to know, each with its measured result beside it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, cast

from mezzotint.conditioning.clip_config import CLIPTextConfig, CLIPVisionConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.training.fit_config import FitConfig
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig


@dataclass(frozen=True, kw_only=True)
class VAERecipe:
    """The latent space."""

    network: AutoencoderConfig
    crop: int
    """Side of the squares that are cut from pictures, in pixels."""
    fit: FitConfig


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe:
    """Words and pictures in one space."""

    vocab_size: int = 1200
    """Most tokens that the tokenizer learns; small collections of captions need fewer."""
    width: int
    layers: int
    heads: int
    """Of both towers."""
    patch: int
    """Side of the image tower's patches, in pixels."""
    projection: int = 128
    """Width of the shared space."""
    text_rows: int = 4
    """Captions for every picture where captions are free."""
    fit: FitConfig

    def text(self, vocab_size: int, bos: int, eos: int, pad: int) -> CLIPTextConfig:
        """The text tower, for a tokenizer's special tokens."""
        return CLIPTextConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            projection_dim=self.projection,
            vocab_size=vocab_size,
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )

    def vision(self, size: int) -> CLIPVisionConfig:
        """The image tower, for pictures of this size."""
        return CLIPVisionConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            projection_dim=self.projection,
            image_size=size,
            patch_size=self.patch,
        )


@dataclass(frozen=True, kw_only=True)
class UNetRecipe:
    """The denoiser."""

    network: UNetConfig
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    caption_dropout: float = 0.1
    """Share of pictures shown with the empty caption."""
    fit: FitConfig


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """A longer look at the decoder alone, the latent space fixed."""

    crop: int
    fit: FitConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All stages of a model. Sizes in pixels; progress in images."""

    name: str
    size: int
    """Side of the pictures."""
    scenes: int
    """Scenes rendered for training; each is also seen mirrored."""
    vae: VAERecipe
    clip: CLIPRecipe
    unet: UNetRecipe
    decoder: DecoderRecipe
    defaults: dict[str, Any] = field(default_factory=lambda: {"steps": 20, "guidance": 5.0, "sampler": "dpmpp-2m"})
    """How the model is best drawn with."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _unet(size: int, widths: Sequence[int], attention: Sequence[bool], text_width: int, layers: int = 1) -> UNetConfig:
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
        use_linear_projection=True,
    )


def _vae(size: int, *widths: int, groups: int = 8) -> AutoencoderConfig:
    return AutoencoderConfig.of_widths(
        *widths, layers_per_block=1, norm_num_groups=groups, sample_size=size, scaling_factor=1.0, force_upcast=False
    )


def debug() -> Recipe:
    """Every stage in seconds, on nothing much; the pictures are noise."""
    quick = FitConfig(images=32, batch=8, warmup=8, ema=16, bf16=False)
    return Recipe(
        name="debug",
        size=32,
        scenes=64,
        vae=VAERecipe(network=_vae(32, 8, 8, 8, 8, groups=4), crop=32, fit=quick),
        clip=CLIPRecipe(vocab_size=600, width=32, layers=1, heads=2, patch=8, projection=16, fit=quick),
        unet=UNetRecipe(network=_unet(32, (32, 32), (False, True), 32), fit=quick),
        decoder=DecoderRecipe(crop=32, fit=quick),
        defaults={"steps": 2, "guidance": 2.0, "sampler": "euler"},
    )


def still_life_64() -> Recipe:
    """64 pixels, for two CPU cores: some 90 minutes, reckoned from the speed of its stages.

    The shipped model has this U-Net after 72 000 images in 11 minutes, on the autoencoder and the text tower of
    `still_life_128`; what it reached is in docs/log.md. The whole recipe has not been run yet.
    """
    return Recipe(
        name="still-life-64",
        size=64,
        scenes=40960,
        vae=VAERecipe(
            network=_vae(64, 16, 32, 64, 128),
            crop=64,
            fit=FitConfig(images=60_000, batch=32, lr=2e-3, warmup=3200, ema=3000),
        ),
        clip=CLIPRecipe(
            width=192,
            layers=4,
            heads=6,
            patch=8,
            fit=FitConfig(images=200_000, batch=256, betas=(0.9, 0.98), warmup=10_000, ema=10_000),
        ),
        unet=UNetRecipe(
            network=_unet(64, (96, 160), (True, True), 192),
            fit=FitConfig(images=250_000, batch=64, warmup=5_000, ema=6_000),
        ),
        decoder=DecoderRecipe(
            crop=64, fit=FitConfig(images=30_000, batch=32, lr=1e-3, warmup=1600, ema=3000, fall=0.7)
        ),
    )


def still_life_128() -> Recipe:
    """128 pixels, for a GPU or several hours of CPU.

    Autoencoder 35.3 dB, text read right in 96.6% of solids. The U-Net after 128 000 images: single_object 0.16,
    color_attr 0, which is far too few; see docs/log.md.
    """
    return Recipe(
        name="still-life-128",
        size=128,
        scenes=40960,
        vae=VAERecipe(
            network=_vae(128, 16, 32, 64, 128),
            crop=64,
            fit=FitConfig(images=92_000, batch=32, lr=2e-3, warmup=3200, ema=3000),
        ),
        clip=CLIPRecipe(
            width=192,
            layers=4,
            heads=6,
            patch=16,
            fit=FitConfig(images=230_000, batch=256, betas=(0.9, 0.98), warmup=10_000, ema=10_000),
        ),
        unet=UNetRecipe(
            network=_unet(128, (96, 160, 192), (False, True, True), 192),
            fit=FitConfig(images=128_000, batch=64, warmup=5_000, ema=5_000),
        ),
        decoder=DecoderRecipe(
            crop=64, fit=FitConfig(images=40_000, batch=32, lr=1e-3, warmup=1600, ema=3000, fall=0.7)
        ),
    )


def still_life_256() -> Recipe:
    """256 pixels, for a GPU."""
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
        unet=UNetRecipe(
            network=_unet(256, (128, 256, 256), (False, True, True), 256, layers=2),
            fit=FitConfig(images=2_500_000, batch=256, lr=6e-4, warmup=20_000, ema=50_000),
        ),
        decoder=DecoderRecipe(crop=128, fit=FitConfig(images=150_000, batch=64, lr=5e-4, fall=0.7)),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "debug": debug,
    "still-life-64": still_life_64,
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

    Where a stage is named, its own keys need no dots (`images=1000`). Raises UserError for a key that is not there, a
    value of another kind, or sizes that do not go together.
    """
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r} is no setting: write key=value.")
        within = [f"{stage}.fit.{key}", f"{stage}.network.{key}", f"{stage}.{key}"] if stage else []
        for path in (*within, key):
            steps = path.split(".")
            if _reaches(recipe, steps):
                recipe = cast("Recipe", _replaced(recipe, steps, value, key))
                break
        else:
            raise UserError(f"The recipe has no setting {key!r}: look at its recipe.json for the keys.")
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    """Raise UserError for sizes that no stage could work with."""
    factor = recipe.vae.network.factor
    sides = {"size": recipe.size, "vae.crop": recipe.vae.crop, "decoder.crop": recipe.decoder.crop}
    for name, side in sides.items():
        if side % factor != 0 or not factor <= side <= recipe.size:
            raise UserError(f"{name} is {side}; it must be a multiple of {factor}, at most size, {recipe.size}.")
    if recipe.scenes < 1:
        raise UserError(f"scenes is {recipe.scenes}; it must be at least 1.")


def _reaches(owner: Any, steps: Sequence[str]) -> bool:
    for step in steps:
        if not is_dataclass(owner) or step not in {entry.name for entry in fields(owner)}:
            return False
        owner = getattr(owner, step)
    return not is_dataclass(owner)


def _replaced(owner: Any, steps: Sequence[str], text: str, key: str) -> Any:
    old = getattr(owner, steps[0])
    new = _replaced(old, steps[1:], text, key) if len(steps) > 1 else _parsed(text, old, key)
    return replace(owner, **{steps[0]: new})


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
    except (ValueError, SyntaxError) as error:
        raise UserError(f"{key} is {text!r}; it must be a value such as {old!r}.") from error
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(cast("list[Any]", value))
    if old is not None and type(value) is not type(old):
        raise UserError(f"{key} is {text!r}; it must be a value such as {old!r}.")
    return value
