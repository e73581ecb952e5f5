"""A run: a recipe, the folder it is carried out in, and what its finished stages hold.

RUN/recipe.json   the resolved recipe; "recipe", the name of the one it was changed from; "data", the folder of pictures
                  that is learned from, null for the still life; "start", the model that each stage began from, if any
RUN/data/         rendered scenes
RUN/vae/ clip/ unet/ decoder/ classifier/ hints/ image_prompt/ sight/
                  each: the trained part, checkpoint.pt, log.jsonl; of vae, unet and decoder samples/
RUN/model/        the model, in the diffusers layout, with its card
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip import CLIPConfig, CLIPModel, CLIPVisionModel
from mezzotint.conditioning.foreign import LENGTH, load_encoder, load_tokenizer
from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.classifier import StoredClassifier, load_classifier
from mezzotint.store.facts import read_json
from mezzotint.store.folder import Parts, described
from mezzotint.store.hints import StoredHints, load_hints
from mezzotint.store.image_prompt import StoredImagePrompts, stored_in
from mezzotint.store.load import load_parts
from mezzotint.store.part import load_part
from mezzotint.store.pipelines import LATENT_DIFFUSION
from mezzotint.store.texts import load_text
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.training import workers
from mezzotint.training.data import Folder, Pictures, StillLife
from mezzotint.training.fit import Progress, Task, channels_last, fit
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.recipe import BERT, CLIP, Recipe
from mezzotint.types import Request, UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import AnyAutoencoder, Codec
from mezzotint.vae.config import AutoencoderConfig

SAMPLE_PROMPTS = (
    "a red sphere",
    "a blue cube",
    "a green cone and a yellow cylinder",
    "a red sphere to the left of a blue cube",
    "a purple pyramid to the right of an orange torus",
    "a white cube in front of a black sphere",
    "three red cubes",
    "two green spheres and a pink pyramid",
    "from left to right: a blue cone, a yellow sphere and a red cylinder",
)


@dataclass(frozen=True)
class Run:
    """A recipe and where it is carried out."""

    recipe: Recipe
    folder: Path
    origin: str
    """The name of the recipe that `recipe` was changed from."""
    pictures_from: Path | None = None
    """A folder of captioned pictures to learn from in place of the still life."""
    start: Path | None = None
    """A model's folder to begin from: its U-Net in place of chance weights, its autoencoder and text encoder in place
    of stages that this run has not."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resume: bool = False
    report: Callable[[str, Progress], None] = lambda _stage, _progress: None

    def pictures(self) -> Pictures:
        """What the run learns from; of several processes each renders its share."""
        if self.pictures_from is not None:
            return Folder(self.pictures_from, self.recipe.size)
        return self.still_life()

    def still_life(self, disguise: Sequence[str] = ()) -> StillLife:
        """The recipe's scenes, or the same in a disguise, rendered as above."""
        folder, size, scenes, tinted = self.folder / "data", self.recipe.size, self.recipe.scenes, self.recipe.tinted
        for number, rows in StillLife.shards(scenes)[workers.rank() :: workers.count()]:
            StillLife.shard(folder, size, StillLife.SEED, number, rows, tinted=tinted, disguise=disguise)
        workers.wait()
        return StillLife(folder, scenes, size, tinted=tinted, disguise=disguise)

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.folder / name

    def begun(self, name: str) -> bool:
        """Whether a stage has a checkpoint to go on from."""
        return any(self.stage(name).rglob("checkpoint.pt"))

    def has(self, name: str) -> bool:
        """Whether a stage is finished."""
        return (self.stage(name) / ("ip-adapter.safetensors" if name == "image_prompt" else "config.json")).exists()

    def need(self, name: str) -> Path:
        """The folder of a finished stage. Raises UserError where it is not finished."""
        if not self.has(name):
            raise UserError(f"{self.folder} has no trained {name}: run 'mezzotint train {name}' there first.")
        return self.stage(name)

    @cached_property
    def parts(self) -> Parts | None:
        """The model to begin from, fixed, in float32, if there is one."""
        return None if self.start is None else load_parts(self.start)

    def autoencoder(self, stage: str = "vae") -> AnyAutoencoder:
        """The autoencoder of a stage, or else of the model begun from, fixed, in float32.

        Raises UserError where there is neither.
        """
        if self.parts is not None and not self.has(stage):
            return self.parts.vae
        folder = self.need(stage)
        config = described(AutoencoderConfig.from_dict, folder / "config.json")
        return load_part(lambda: Autoencoder(config), folder)

    def codec(self, stage: str = "vae") -> Codec:
        """The same on the run's device. Raises as above."""
        return Codec(channels_last(self.autoencoder(stage).to(self.device)))

    def latents(self, stage: str) -> Path:
        """Where a stage keeps the latents of pictures: with those of the U-Net, which are the same, if it is there."""
        return self.stage("unet" if self.has("unet") else stage)

    def conditioner(self) -> TextConditioner:
        """The recipe's text encoder with its tokenizer, fixed; one that is trained here is found as the autoencoder is.

        Raises UserError where the encoder cannot be loaded, or the model begun from is told more than a text.
        """
        if self.recipe.tower is None:
            tokenizer = load_tokenizer(self.recipe.encoder, LENGTH)
            return TextConditioner(tokenizer, load_encoder(self.recipe.encoder, tokenizer.pad_id))
        stage = {CLIP: "clip", BERT: "unet"}[self.recipe.encoder]
        if self.parts is not None and (not self.has(stage) or self._only_pictures_learned):
            conditioner = self.parts.conditioner()
            if not isinstance(conditioner, TextConditioner):
                raise UserError(f"The U-Net of {self.start} is told a picture's size, which is not trained here.")
            return conditioner
        folder = self.need(stage)
        if self.recipe.encoder == BERT:
            return load_bert(folder)
        return TextConditioner(Tokenizer.from_folder(folder / "tokenizer"), load_clip(folder).text_encoder())

    @property
    def _only_pictures_learned(self) -> bool:
        """Whether the clip stage was begun from a model, whose text tower, layer and all, it left as it is."""
        if self.recipe.encoder != CLIP:
            return False
        begun: dict[str, str | None] = read_json(self.folder / "recipe.json").get("start", {})
        return begun.get("clip") is not None

    @property
    def bert(self) -> LDMBertModel | None:
        """The BERT of the model begun from, if it has one."""
        text = None if self.parts is None else self.parts.text_encoder
        return text if isinstance(text, LDMBertModel) else None

    def unet(self) -> UNet:
        """The trained U-Net, fixed, in float32. Raises UserError where it is not finished."""
        folder = self.need("unet")
        config = described(UNetConfig.from_dict, folder / "config.json")
        return load_part(lambda: UNet(config), folder)

    def denoiser(self) -> tuple[UNet, NoiseSchedule]:
        """The trained U-Net, or else that of the model begun from, fixed, in float32, and its schedule.

        Raises UserError where there is neither.
        """
        if self.parts is not None and not self.has("unet"):
            return self.parts.unet, self.parts.schedule
        schedule = described(NoiseSchedule.from_dict, self.need("unet") / "scheduler_config.json")
        return self.unet(), schedule

    def hints(self) -> StoredHints | None:
        """What was learned of hints, or else by the model begun from, if its U-Net is the same."""
        if self.has("hints"):
            return load_hints(self.stage("hints"))
        return None if self.parts is None or self.has("unet") else self.parts.hints

    def image_tower(self) -> CLIPVisionModel:
        """The image tower, of the clip stage or else of the model begun from, fixed, in float32, with its projection.

        Raises UserError where there is neither.
        """
        if self.has("clip"):
            return load_clip(self.stage("clip")).image_encoder()
        if self.parts is not None and self.parts.image_prompts is not None:
            return self.parts.image_prompts.conditioner().tower
        if self.recipe.encoder != CLIP:
            raise UserError(
                f"Texts are read by {self.recipe.encoder}, and {self.folder} has no image tower: put the folder clip "
                "of another run of this size there first."
            )
        raise UserError(f"{self.folder} has no image tower: run 'mezzotint train clip' there first.")

    def image_prompts(self) -> StoredImagePrompts | None:
        """What was learned of pictures as prompts, or else by the model begun from, if its U-Net is the same."""
        if (own := stored_in(self.stage("image_prompt"))) is not None:
            return own
        return None if self.parts is None or self.has("unet") else self.parts.image_prompts

    def classifier(self) -> StoredClassifier | None:
        """The trained classifier, or else that of the model begun from, if it is of the same latent space."""
        if self.has("classifier"):
            return StoredClassifier(lambda: load_classifier(self.stage("classifier")))
        return None if self.parts is None or self.has("vae") else self.parts.classifier

    def fit(self, stage: str, task: Task, config: FitConfig, **sampled: Any) -> nn.Module:
        """Train in the stage's folder, as `training.fit` does, and raising as it does."""
        return fit(task, config, self.stage(stage), resume=self.resume, report=self.reporter(stage), **sampled)

    def reporter(self, name: str) -> Callable[[Progress], None]:
        """`report` for one stage."""
        return lambda progress: self.report(name, progress)


def load_clip(folder: Path) -> CLIPModel:
    """Both towers of a finished stage, fixed, in float32."""
    config = described(CLIPConfig.from_dict, folder / "config.json")
    return load_part(lambda: CLIPModel.of_config(config), folder, stem="model")


def bert_folders(folder: Path) -> tuple[Path, Path]:
    """Where a U-Net's stage keeps the tokenizer and the BERT that learned with it."""
    words, encoder = LATENT_DIFFUSION.texts[0]
    return folder / words, folder / encoder


def load_bert(folder: Path) -> TextConditioner:
    """The BERT that learned with a finished stage's U-Net, fixed, in float32."""
    return TextConditioner(
        *load_text(bert_folders(folder), "LDMBertModel", device=torch.device("cpu"), dtype=torch.float32)
    )


def sample_prompts(pictures: Pictures) -> Sequence[str]:
    """What is drawn while the U-Net learns: the first captions of a folder."""
    if isinstance(pictures, StillLife):
        return SAMPLE_PROMPTS
    first = pictures.captions(torch.arange(min(len(SAMPLE_PROMPTS), len(pictures))), 0)
    return [caption[: Request.MAX_PROMPT] for caption in first]
