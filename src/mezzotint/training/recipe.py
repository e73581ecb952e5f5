"""What a run needs to know: the settings of every stage, and what they have to agree on. Checked when made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import StrEnum
from typing import Any, cast, get_type_hints

from mezzotint.conditioning.clip_config import CLIPTextConfig, CLIPVisionConfig
from mezzotint.conditioning.hints import INPAINT, channels
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.conditioning.sight_config import SightConfig
from mezzotint.denoise.classifier_config import ClassifierConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.noise.spacing import Spacing
from mezzotint.sampling.samplers import sampler_named
from mezzotint.store.facts import Facts
from mezzotint.text.tokenizer import byte_alphabet
from mezzotint.text.train import FEWEST_PIECES
from mezzotint.training.fit_config import FitConfig
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.world.captions import COLOUR_WORDS, SHAPE_WORDS

CLIP, BERT = "clip", "bert"
"""The text encoders that are trained here."""


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
class BERTRecipe:
    """A text encoder that learns with the U-Net, as latent diffusion's did, where `encoder` is bert."""

    vocab_size: int = 1200
    """Most tokens that the tokenizer learns; small collections of captions need fewer."""
    width: int = 192
    layers: int = 4
    heads: int = 6
    read: float = 0.1
    """Weight of reading the scene back out of the caption's tokens, against the denoising error; 0 leaves the text to
    the U-Net alone, as latent diffusion did. Where no scene is known there is nothing to read."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network, or a weight that cannot be."""
        if self.heads < 1 or self.width < 1 or self.width % self.heads != 0:
            raise UserError(f"bert.width is {self.width} and bert.heads {self.heads}; heads must divide width.")
        if self.vocab_size < FEWEST_PIECES or self.read < 0:
            raise UserError(
                f"bert.vocab_size is {self.vocab_size} and bert.read {self.read}; they must be at least "
                f"{FEWEST_PIECES} and 0."
            )
        self.text(self.vocab_size, 0)

    def text(self, vocab_size: int, pad: int) -> LDMBertConfig:
        """The network, for a tokenizer's vocabulary and padding."""
        return LDMBertConfig(
            d_model=self.width,
            encoder_ffn_dim=4 * self.width,
            encoder_layers=self.layers,
            encoder_attention_heads=self.heads,
            head_dim=self.width // self.heads,
            vocab_size=vocab_size,
            pad_token_id=pad,
        )


@dataclass(frozen=True, kw_only=True)
class UNetRecipe:
    """The denoiser."""

    network: UNetConfig
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    caption_dropout: float = 0.1
    """Share of pictures shown with the empty caption."""
    segment: float = 0.5
    """Weight of naming what stands where from the U-Net's features, against the denoising error."""
    focus: float = 0.85
    """Share of pictures whose noise level is drawn where shapes are decided, the others' evenly over the schedule."""
    fit: FitConfig

    def __post_init__(self) -> None:
        """Raise UserError for a share or a weight that cannot be."""
        if not (0 <= self.caption_dropout <= 1 and 0 <= self.focus <= 1 and self.segment >= 0):
            raise UserError(
                f"caption_dropout is {self.caption_dropout}, focus {self.focus} and segment {self.segment}; "
                "caption_dropout and focus must be from 0 to 1 and segment at least 0."
            )


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """A longer look at the decoder alone, the latent space fixed."""

    crop: int
    fit: FitConfig


STILL_LIFE = ClassifierConfig(shapes=tuple(SHAPE_WORDS.values()), colours=tuple(COLOUR_WORDS.values()))
"""A classifier of the still life's shapes and colours, in the order of `world.scene`."""


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """What tells from a noisy latent which solids it becomes."""

    network: ClassifierConfig = STILL_LIFE
    segment: float = 3.0
    """Weight of naming what stands in every cell, against that of counting solids."""
    focus: float = 0.85
    """Share of pictures whose noise level is drawn around `middle`, the others' evenly over the schedule."""
    middle: float = 1.0
    """The sigma around which most noise levels are: lower than where a denoiser decides shapes, because shapes have to
    be known before they can be guessed."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(images=60_000, batch=64, ema=3000, fall=0.7))

    def __post_init__(self) -> None:
        """Raise UserError for a share or a weight that cannot be, or for words of another world."""
        if not (0 <= self.focus <= 1 and self.segment >= 0 and self.middle > 0):
            raise UserError(
                f"focus is {self.focus}, segment {self.segment} and middle {self.middle}; focus must be from 0 to 1, "
                "segment at least 0 and middle above 0."
            )
        if (self.network.shapes, self.network.colours) != (STILL_LIFE.shapes, STILL_LIFE.colours):
            raise UserError("The classifier learns the still life's shapes and colours: leave its words as they are.")


@dataclass(frozen=True, kw_only=True)
class HintsRecipe:
    """What a U-Net, which stays as it is, learns to read beside the latent."""

    names: tuple[str, ...] = (INPAINT, "depth", "silhouette")
    """The hints, in the order of the channels."""
    rank: int = 16
    """That of the changes to the U-Net's layers."""
    caption_dropout: float = 0.1
    focus: float = 0.85
    """As in the U-Net's recipe."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(images=100_000, batch=64, ema=4000, fall=1.0))

    def __post_init__(self) -> None:
        """Raise UserError for hints that there are not, and for numbers that cannot be."""
        for name in self.names:
            channels(name)
        if not self.names or len(set(self.names)) < len(self.names) or self.rank < 1:
            raise UserError(
                f"names is {list(self.names)} and rank {self.rank}: name hints, each once, and a rank above 0."
            )
        if not (0 <= self.caption_dropout <= 1 and 0 <= self.focus <= 1):
            raise UserError(
                f"caption_dropout is {self.caption_dropout} and focus {self.focus}; both must be from 0 to 1."
            )


@dataclass(frozen=True, kw_only=True)
class ImagePromptRecipe:
    """What brings the image tower's tokens to a U-Net, which both stay as they are."""

    tokens: int = 16
    """Of a picture, for the U-Net."""
    width: int = 192
    layers: int = 2
    heads: int = 3
    """Of the resampler, 64 channels each."""
    caption_dropout: float = 0.5
    """Share of pictures whose caption is not told."""
    picture_dropout: float = 0.1
    """Share of pictures that are not shown."""
    focus: float = 0.85
    """As in the U-Net's recipe."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(images=100_000, batch=64, ema=4000, fall=1.0))

    def __post_init__(self) -> None:
        """Raise UserError for numbers that cannot be."""
        if min(self.tokens, self.width, self.layers, self.heads) < 1:
            raise UserError("tokens, width, layers and heads of image_prompt must be at least 1.")
        shares = {name: getattr(self, name) for name in ("caption_dropout", "picture_dropout", "focus")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"image_prompt.{name} is {share}; it must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class SightRecipe:
    """What tells from a picture how near every place is, and where solids stand."""

    network: SightConfig = field(default_factory=SightConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(images=20_000, batch=32, lr=2e-3, warmup=640, fall=0.7, ema=1500)
    )
    """Rank correlation of depth 0.98, IoU of solids 0.93: see docs/log.md."""


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
        default_factory=lambda: {"steps": 20, "guidance": 5.0, "sampler": "dpmpp-2m", "schedule": "karras"}
    )
    """How the model is best drawn with."""

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
        _check_defaults(self.defaults, self.unet.schedule)

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
        return _made(cls, {**values, "encoder": values.get("encoder", CLIP) or CLIP})  # Older ones said "" for it.


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
            raise UserError(f"{name} is {side}; it must be a multiple of {factor}, at most size, {recipe.size}.")
    side, told = recipe.size // factor, recipe.unet.network.sample_size
    if told not in (None, side, (side, side)):
        raise UserError(
            f"unet.network.sample_size is {told}; at size {recipe.size} it must be {side}: leave it out to follow size."
        )
    if recipe.scenes < 1:
        raise UserError(f"scenes is {recipe.scenes}; it must be at least 1.")


def _check_towers(clip: CLIPRecipe, size: int) -> None:
    clip.text(clip.vocab_size, 0, 1, 1)
    clip.vision(size)
    if size % clip.patch != 0:
        raise UserError(f"clip.patch is {clip.patch}; it must divide size, {size}.")
    fewest = 2 * len(byte_alphabet()) + 2
    if clip.vocab_size < fewest or clip.text_rows < 1:
        raise UserError(
            f"clip.vocab_size is {clip.vocab_size} and clip.text_rows {clip.text_rows}; they must be at least {fewest} "
            "and 1."
        )


def _check_latents(vae: AutoencoderConfig) -> None:
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise UserError("The autoencoder must take and give 3 channels, red, green and blue: leave them as they are.")
    if not (vae.use_quant_conv and vae.use_post_quant_conv):
        raise UserError("Training an autoencoder needs use_quant_conv and use_post_quant_conv: leave them true.")


def _check_defaults(defaults: dict[str, Any], schedule: NoiseSchedule) -> None:
    request = Facts(defaults=defaults).request()
    sampler_named(request.sampler)
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
