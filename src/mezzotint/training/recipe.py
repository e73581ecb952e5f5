"""What a run needs to know: the settings of all stages, and what they have to agree on. Checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import StrEnum
from typing import Any, cast, get_type_hints

from mezzotint.denoise.classifier_config import ClassifierConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.noise.spacing import Spacing
from mezzotint.sampling.guides import chosen
from mezzotint.sampling.samplers import sampler_named
from mezzotint.store.facts import Facts
from mezzotint.text.tokenizer import byte_alphabet
from mezzotint.training.settings import (
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
from mezzotint.types import Request, UserError
from mezzotint.vae.config import AutoencoderConfig

MOST_WORDS = 1_000_000
"""The largest vocabulary that a tokenizer may learn."""

CLIP, BERT = "clip", "bert"
"""The text encoders that are trained here."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All stages of a model. Sizes in pixels; progress in images."""

    name: str
    size: int
    """Side of the pictures."""
    scenes: int
    """Scenes rendered for training; each is also seen mirrored."""
    tinted: float = 0.0
    """The share of those scenes whose colours lie between the named ones (`world.colours`)."""
    vae: VAERecipe
    clip: CLIPRecipe
    bert: BERTRecipe = field(default_factory=BERTRecipe)
    unet: UNetRecipe
    decoder: DecoderRecipe
    classifier: ClassifierRecipe = field(default_factory=ClassifierRecipe)
    hints: HintsRecipe = field(default_factory=HintsRecipe)
    image_prompt: ImagePromptRecipe = field(default_factory=ImagePromptRecipe)
    sight: SightRecipe = field(default_factory=SightRecipe)
    encoder: str = CLIP
    """What reads texts for the U-Net: clip, the text tower of the clip stage, which stays as it is; bert, which learns
    with the U-Net; or one that the library transformers loads, a folder or a hub id, which stays as it is."""
    defaults: dict[str, Any] = field(
        default_factory=lambda: {"steps": 20, "guidance": 4.0, "sampler": "dpmpp-2m", "schedule": "karras"}
    )
    """How the model is best drawn with."""
    hinted: dict[str, Any] = field(default_factory=dict[str, Any])
    """What takes their place in a model with hints, where something lies beside the latent."""

    def __post_init__(self) -> None:
        """Raise UserError for settings that do not fit each other."""
        _check_sizes(self)
        _check_towers(self.clip, self.size)
        _check_latents(self.vae.network)
        check_classifier(self.classifier.network, self.vae.network.latent_channels)
        if self.encoder == "":
            raise UserError("encoder is empty: give clip, bert, a folder or a hub id.")
        # The width of an encoder from elsewhere is known when it is loaded.
        width = self.unet.network.cross_attention_dim if self.tower is None else self.tower.width
        check_fit(self.unet.network, self.vae.network.latent_channels, width, self.encoder)
        facts = Facts(defaults=self.defaults, hinted=self.hinted)
        for request in (facts.request(), facts.request(silhouette="shape.png")):
            _check_drawing(request, self.unet.schedule)

    @property
    def tower(self) -> CLIPRecipe | BERTRecipe | None:
        """What reads texts, where that is trained here."""
        return {CLIP: self.clip, BERT: self.bert}.get(self.encoder)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote. Raises UserError, or KeyError or TypeError, for values of no recipe."""
        return _made(cls, values)


def check_fit(unet: UNetConfig, channels: int, width: int, encoder: str = CLIP) -> None:
    """Raise UserError for a U-Net that cannot be trained on latents of `channels` and tokens of `width`.

    `encoder` is the text encoder that these are of, as in a recipe.
    """
    if unet.pooled_dim is not None:
        raise UserError(
            "The U-Net reads `pooled`, which is not trained here: leave class_embed_type and addition_embed_type unset."
        )
    if (unet.in_channels, unet.out_channels) != (channels, channels):
        raise UserError(
            f"The U-Net takes {unet.in_channels} channels and gives {unet.out_channels}, and latents have {channels}: "
            "make in_channels and out_channels of unet.network and latent_channels of vae.network equal."
        )
    if unet.cross_attention_dim != width:
        raise UserError(
            f"The U-Net reads tokens {unet.cross_attention_dim} wide, and the text encoder's are {width} wide: make "
            f"unet.network.cross_attention_dim and {encoder}.width equal."
        )


def check_classifier(network: ClassifierConfig, channels: int) -> None:
    """Raise UserError for a classifier that cannot read latents of `channels`."""
    if network.in_channels != channels:
        raise UserError(
            f"The classifier reads {network.in_channels} channels and latents have {channels}: make in_channels of "
            "classifier.network and latent_channels of vae.network equal."
        )


def _check_sizes(recipe: Recipe) -> None:
    factor = recipe.vae.network.factor
    sides = {"size": recipe.size, "vae.crop": recipe.vae.crop, "decoder.crop": recipe.decoder.crop}
    for name, side in sides.items():
        if side % factor != 0 or not factor <= side <= recipe.size:
            most = "" if name == "size" else f" and at most size, {recipe.size}"
            raise UserError(f"{name} is {side}; it must be a multiple of {factor}{most}.")
    side, told = recipe.size // factor, recipe.unet.network.sample_size
    if told not in (None, side, (side, side)):
        raise UserError(
            f"unet.network.sample_size is {told}; at size {recipe.size} it must be {side}: leave it out to follow size."
        )
    if recipe.scenes < 1:
        raise UserError(f"scenes is {recipe.scenes}; it must be at least 1.")
    if not 0 <= recipe.tinted <= 1:
        raise UserError(f"tinted is {recipe.tinted}; it must be from 0 to 1.")


def _check_towers(clip: CLIPRecipe, size: int) -> None:
    clip.text(clip.vocab_size, 0, 1, 1)
    clip.vision(size)
    if size % clip.patch != 0:
        raise UserError(f"clip.patch is {clip.patch}; it must divide size, {size}.")
    fewest = 2 * len(byte_alphabet()) + 2
    if not fewest <= clip.vocab_size <= MOST_WORDS or clip.text_rows < 1:
        raise UserError(
            f"clip.vocab_size is {clip.vocab_size} and clip.text_rows {clip.text_rows}; they must be from {fewest} "
            f"to {MOST_WORDS} and at least 1."
        )


def _check_latents(vae: AutoencoderConfig) -> None:
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise UserError("The autoencoder must take and give 3 channels, red, green and blue: leave them as they are.")
    if not (vae.use_quant_conv and vae.use_post_quant_conv):
        raise UserError("Training an autoencoder needs use_quant_conv and use_post_quant_conv: leave them true.")


def _check_drawing(request: Request, schedule: NoiseSchedule) -> None:
    sampler_named(request.sampler)
    chosen(request.guide)
    spacing = Spacing.parse(request.schedule)
    spacing.walk(spacing.table(schedule), request.steps, ddim=request.sampler == "ddim")


def _made(kind: Any, value: Any) -> Any:
    """A value of this kind from what JSON makes of it."""
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{name: _made(kinds[name], part) for name, part in value.items()})  # pyright: ignore[reportCallIssue]
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    return tuple(_made(None, item) for item in cast("list[Any]", value)) if isinstance(value, list) else value
