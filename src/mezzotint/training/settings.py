"""The settings of every stage. Checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from mezzotint.conditioning.clip_config import CLIPTextConfig, CLIPVisionConfig
from mezzotint.conditioning.hints import INPAINT, channels
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.conditioning.sight_config import SightConfig
from mezzotint.denoise.classifier_config import ClassifierConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.text.train import FEWEST_PIECES
from mezzotint.training.fit_config import FitConfig
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.world.words import COLOUR_WORDS, SHAPE_WORDS


@dataclass(frozen=True, kw_only=True)
class VAERecipe:
    """The latent space."""

    network: AutoencoderConfig
    crop: int
    """Side of the squares that are cut from pictures, in pixels."""
    noise: float = 0.0
    """Of what size noise is added to latents before they are decoded, against their own deviation."""
    fit: FitConfig

    def __post_init__(self) -> None:
        """Raise UserError for noise that cannot be."""
        if not 0 <= self.noise < math.inf:
            raise UserError(f"vae.noise is {self.noise}; it must be at least 0, and not infinite.")


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
    grey: float = 0.0
    """Share of a still life's pictures that are seen without their colours, and asked for shapes alone. Where some
    colours never come with some shapes, colours tell shapes, and a tower that learned to go by them is wrong of all
    others."""
    fit: FitConfig

    def __post_init__(self) -> None:
        """Raise UserError for a share that cannot be."""
        if not 0 <= self.grey < 1:
            raise UserError(f"clip.grey is {self.grey}; it must be at least 0 and below 1.")

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
    """Share of pictures whose noise level is drawn around `middle`, the others' evenly over the schedule."""
    middle: float = 2.0
    """The sigma around which most noise levels are: shapes are decided there, and straight edges below it."""
    breadth: float = 1.0
    """How far from `middle` they are: the standard deviation of their logarithm."""
    walked: float = 0.0
    """Share of a still life's pictures in whose place the U-Net of a model begun from learns from its own walks
    (`training.walks`)."""
    walks: int = 8192
    """How many scenes it walks back to for that, before it learns."""
    held: float = 0.0
    """Above this sigma the U-Net of a model begun from is held to what it says already: what is composed there is
    forgotten otherwise; 0 holds it nowhere."""
    kept: float = 1.0
    """How much of what the U-Net of a model begun from has learned is kept at the end: 0.5 is the mean of the weights
    before and after, which forgets less (Wortsman et al. 2021, arXiv:2109.01903)."""
    learns: tuple[str, ...] = ()
    """What of the U-Net of a model begun from learns, by how the parameters' names begin, such as "up_blocks.2."; empty
    is all of it."""
    widths: tuple[int, ...] = ()
    """What the U-Net of a model begun from is widened to (`denoise.wider`), finest first; empty leaves it as it is."""
    fit: FitConfig

    def __post_init__(self) -> None:
        """Raise UserError for a share or a weight that cannot be."""
        shares = 0 <= self.caption_dropout <= 1 and 0 <= self.focus <= 1
        if not (shares and self.segment >= 0 and self.middle > 0 and self.breadth > 0):
            raise UserError(
                f"caption_dropout is {self.caption_dropout}, focus {self.focus}, segment {self.segment}, middle "
                f"{self.middle} and breadth {self.breadth}; caption_dropout and focus must be from 0 to 1, segment at "
                "least 0, middle and breadth above 0."
            )
        if not (0 <= self.walked < 1 and self.walks >= 1 and self.held >= 0 and 0 < self.kept <= 1):
            raise UserError(
                f"walked is {self.walked}, walks {self.walks}, held {self.held} and kept {self.kept}; they must be at "
                "least 0 and below 1, at least 1, at least 0, and above 0 and at most 1."
            )
        if not all(isinstance(beginning, str) and beginning for beginning in self.learns):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UserError(f"learns is {self.learns}; write beginnings of names, as ('conv_in.', 'up_blocks.2.').")


LEAST_CONTESTED = 16
"""Pixels a side that an adversary scores one place of."""


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """A longer look at the decoder alone, the latent space fixed."""

    crop: int
    redrawn: float = 0.0
    """Share of latents that the U-Net draws anew before they are decoded (`training.decoder`)."""
    walks: int = 0
    """How many scenes of a still life are walked back to for that, as the model is drawn, to become the nearest true
    ones (`training.walks`); 0: pictures are redrawn in a few steps, to become what they were."""
    adversary: float = 0.0
    """How much an adversary's gradient weighs against that of errors (`training.adversary`); 0: there is none."""
    fit: FitConfig

    def __post_init__(self) -> None:
        """Raise UserError for a share that cannot be."""
        if not 0 <= self.redrawn <= 1:
            raise UserError(f"redrawn is {self.redrawn}; it must be from 0 to 1.")
        if self.walks < 0 or not 0 <= self.adversary < math.inf:
            raise UserError(f"walks is {self.walks} and adversary {self.adversary}; they must be at least 0.")
        if self.walks > 0 and self.redrawn == 0:
            raise UserError(f"walks is {self.walks} and redrawn 0: say which share of latents ends of walks are.")
        if self.adversary > 0 and self.crop < LEAST_CONTESTED:
            raise UserError(f"crop is {self.crop}; an adversary looks at {LEAST_CONTESTED} pixels a side at least.")


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
        named = ([words[:1] for words in kinds] for kinds in (self.network.shapes, self.network.colours))
        if tuple(named) != tuple([(name,) for name in names] for names in (SHAPE_WORDS, COLOUR_WORDS)):
            raise UserError("The classifier learns the still life's shapes and colours: leave its words as they are.")


@dataclass(frozen=True, kw_only=True)
class HintsRecipe:
    """What a U-Net, which stays as it is, learns to read beside the latent."""

    names: tuple[str, ...] = (INPAINT, "depth", "silhouette")
    """The hints, in the order of the channels."""
    rank: int = 16
    """That of the changes to the U-Net's layers."""
    caption_dropout: float = 0.1
    clear: float = 0.7
    """Share of the captions told by `tell_clearly`, which say of every solid what it is; a mask's own are not."""
    disguised: float = 0.3
    """Share of the pictures noised above sigma 1.2, and told in all their colours, that are noised in others."""
    focus: float = 0.85
    middle: float = 2.0
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
        shares = {name: getattr(self, name) for name in ("caption_dropout", "clear", "disguised", "focus")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"hints.{name} is {share}; it must be from 0 to 1.")
        if self.middle <= 0:
            raise UserError(f"hints.middle is {self.middle}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class ImagePromptRecipe:
    """The image tower, which learns along, and what brings its tokens to a U-Net, which stays as it is."""

    caption_dropout: float = 0.75
    """Share of pictures whose caption is not told."""
    picture_dropout: float = 0.1
    """Share of pictures that are not shown."""
    disguised: float = 0.5
    """As for hints, but above sigma 2, and in other shapes too."""
    segment: float = 2.0
    focus: float = 0.85
    middle: float = 3.0
    """These three as in the U-Net's recipe."""
    words: FitConfig = field(default_factory=lambda: FitConfig(images=200_000, batch=64, warmup=5000, fall=0.8))
    """Saying first the words for what stands where, if nothing is known yet; with no images a model's own goes on."""
    fit: FitConfig = field(default_factory=lambda: FitConfig(images=100_000, batch=64, ema=4000, fall=1.0))

    def __post_init__(self) -> None:
        """Raise UserError for numbers that cannot be."""
        shares = {name: getattr(self, name) for name in ("caption_dropout", "picture_dropout", "disguised", "focus")}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise UserError(f"image_prompt.{name} is {share}; it must be from 0 to 1.")
        if not (self.segment >= 0 and self.middle > 0):
            raise UserError(
                f"image_prompt.segment is {self.segment} and middle {self.middle}; segment must be at least 0 and "
                "middle above 0."
            )


@dataclass(frozen=True, kw_only=True)
class SightRecipe:
    """What tells from a picture how near every place is, and where solids stand."""

    network: SightConfig = field(default_factory=SightConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(images=20_000, batch=32, lr=2e-3, warmup=640, fall=0.7, ema=1500)
    )
    """Rank correlation of depth 0.98, IoU of solids 0.93: see docs/log.md."""
