"""A model, part by part, wherever it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip import CLIPTextModel
from mezzotint.conditioning.sizes import SizedConditioner, SizeNumbers, projected_width
from mezzotint.conditioning.text import AnyTextModel, AnyTokenizer, TextConditioner
from mezzotint.denoise.unet import UNet
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.carried import Carried
from mezzotint.store.classifier import StoredClassifier
from mezzotint.store.facts import Facts
from mezzotint.store.hints import StoredHints
from mezzotint.store.image_prompt import StoredImagePrompts
from mezzotint.store.pipelines import LATENT_DIFFUSION, ONE_TEXT, SECOND_TEXT, TWO_TEXTS, Layout
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.types import UserError
from mezzotint.vae.codec import AnyAutoencoder


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A text-to-image latent diffusion model, part by part, and what it says of itself."""

    tokenizer: AnyTokenizer
    text_encoder: AnyTextModel
    """The first text encoder, or the only one: SDXL's refiner has no other than what SDXL has as its second."""
    unet: UNet
    vae: AnyAutoencoder
    schedule: NoiseSchedule
    facts: Facts
    tokenizer_2: Tokenizer | None = None
    text_encoder_2: CLIPTextModel | None = None
    """SDXL's second text encoder, whose tokens stand beside the first one's."""
    layer: int = -1
    """Whose tokens are read of every text encoder, as in CLIPTextModel.read: -1, the last layer's, in folders of Stable
    Diffusion 1 and 2; -2, those of the one before it, in single files of Stable Diffusion 2 and in SDXL."""
    final_norm: bool = True
    """Whether these go through the text encoder's last norm: not in SDXL."""
    force_zeros_for_empty_prompt: bool = False
    """Whether SDXL is told zeros where the negative is empty."""
    carried: Mapping[str, Carried] = field(default_factory=dict[str, Carried])
    """Parts that are not read here and that it is not saved without."""
    classifier: StoredClassifier | None = None
    """What steers by looking for things in the noisy latent, if the model has it; `parts.classifier(device)` loads."""
    hints: StoredHints | None = None
    """What it has learned of pictures that lie beside the latent, if it has."""
    image_prompts: StoredImagePrompts | None = None
    """What it reads pictures as prompts by, if it does."""
    leftover: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Tensors of a single file that no part has, by name, which it is not written again without."""

    def conditioner(self) -> TextConditioner | SizedConditioner:
        """What reads texts for this model's U-Net. Raises UserError where parts do not fit each other."""
        pairs = [(self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)]
        texts = [
            TextConditioner(tokenizer, encoder, layer=self.layer, final_norm=self.final_norm)
            for tokenizer, encoder in pairs
            if tokenizer is not None and encoder is not None
        ]
        unet = self.unet.config
        if unet.addition_embed_type is None:
            return texts[0]
        pooled, dim = unet.pooled_dim, unet.addition_time_embed_dim
        if pooled is None or dim is None or dim < 1:
            raise UserError("The U-Net is told a picture's size: give the width addition_time_embed_dim of a number.")
        numbers = SizeNumbers(
            count=(pooled - projected_width(texts[-1])) // dim,
            dim=dim,
            flip_sin_to_cos=unet.flip_sin_to_cos,
            freq_shift=unet.freq_shift,
        )
        return SizedConditioner(texts, numbers, zero_empty_negative=self.force_zeros_for_empty_prompt)

    @property
    def numbers(self) -> int:
        """How many numbers about a picture's size the U-Net is told beside its text; 0 where it is told none."""
        conditioner = self.conditioner()
        return conditioner.numbers.count if isinstance(conditioner, SizedConditioner) else 0

    @property
    def layout(self) -> Layout:
        """What a diffusers folder calls its parts."""
        if isinstance(self.text_encoder, LDMBertModel):
            return LATENT_DIFFUSION
        if self.text_encoder_2 is not None:
            return TWO_TEXTS
        return SECOND_TEXT if self.numbers > 0 else ONE_TEXT


def check_fit(folder: Path, parts: Parts) -> None:
    """Raise UserError unless the parts fit each other, so that the first picture does not find out."""
    unet, conditioner = parts.unet.config, parts.conditioner()
    if conditioner.width != unet.cross_attention_dim:
        width, wanted = conditioner.width, unet.cross_attention_dim
        raise UserError(f"In {folder} the text encoder's tokens are {width} wide; the U-Net reads {wanted}.")
    pooled = conditioner.pooled_width if isinstance(conditioner, SizedConditioner) else None
    if pooled != unet.pooled_dim:
        raise UserError(
            f"In {folder} the U-Net reads {unet.pooled_dim} numbers beside the text's tokens; "
            f"its text encoders and the picture's size give {pooled or 'none'}."
        )
    channels, wanted = parts.vae.config.latent_channels, unet.out_channels
    if channels != wanted:
        raise UserError(f"In {folder} the autoencoder has {channels} latent channels; the U-Net predicts {wanted}.")
    if unet.in_channels < channels:
        raise UserError(f"In {folder} the U-Net reads {unet.in_channels} channels; the latent has {channels}.")
