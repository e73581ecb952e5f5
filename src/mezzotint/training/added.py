"""The stages whose results are added to a model, each from and to a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from mezzotint.conditioning.hints import channels
from mezzotint.conditioning.image_prompt import APART, PerToken, PictureConditioner
from mezzotint.conditioning.sight import Sight
from mezzotint.denoise import classifier as noisy
from mezzotint.denoise.adapter import adapted, go_on, learned
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.picture_layers import PictureLayers
from mezzotint.denoise.variants import with_modules
from mezzotint.denoise.wider import Widening
from mezzotint.store.hints import save_hints
from mezzotint.store.image_prompt import save_image_prompts
from mezzotint.store.part import save_part
from mezzotint.store.sight import save_sight
from mezzotint.training import classifier as naming
from mezzotint.training import workers
from mezzotint.training.data import StillLife
from mezzotint.training.fit import channels_last
from mezzotint.training.hints import Hints
from mezzotint.training.image_prompt import PicturePrompts, SayingTask
from mezzotint.training.latents import Disguised
from mezzotint.training.run import Run
from mezzotint.training.sight import SightTask
from mezzotint.training.truth import SceneTruth
from mezzotint.training.unet import DenoiserTask, trained, trained_reader
from mezzotint.types import UserError
from mezzotint.vae.codec import Codec

COLOURS_DECIDED, SHAPES_DECIDED = 1.2, 2.0
"""The sigmas down to which colours and shapes are still decided while a picture is drawn."""


def train_classifier(run: Run) -> None:
    """What tells from a noisy latent which solids it becomes; that of a model begun from goes on from where it was."""
    recipe = run.recipe.classifier
    pictures = run.pictures()
    if not isinstance(pictures, StillLife):
        raise UserError("A classifier learns from scenes whose solids are known: train it without --data.")
    schedule = run.recipe.unet.schedule if run.parts is None else run.parts.schedule
    prior, seen = naming.prior_of(pictures, recipe.network)
    torch.manual_seed(recipe.fit.seed)
    if run.parts is None or run.parts.classifier is None:
        classifier = noisy.Classifier(recipe.network)
        noisy.init_for_training(classifier, prior)
    else:
        classifier = run.parts.classifier().requires_grad_(True)
    task = naming.ClassifierTask(
        channels_last(classifier.to(run.device)),
        run.codec(),
        pictures,
        schedule,
        seen,
        segment=recipe.segment,
        focus=recipe.focus,
        middle=recipe.middle,
        cache=run.latents("classifier"),
    )
    network = run.fit("classifier", task, recipe.fit)
    if workers.leads():
        classifier = naming.trained(network)
        save_part(classifier, classifier.config.to_dict(), run.stage("classifier"), stem=noisy.STEM)


def train_hints(run: Run) -> None:
    """What lies beside the latent, for a U-Net that stays as it is; a model begun from goes on from what it knows."""
    recipe = run.recipe.hints
    pictures = run.pictures()
    if not isinstance(pictures, StillLife):
        raise UserError("Hints are learned from scenes whose depth and solids are known: train them without --data.")
    codec = run.codec("decoder" if run.has("decoder") else "vae")
    conditioner = run.conditioner().to(run.device)
    base, schedule = run.denoiser()
    torch.manual_seed(recipe.fit.seed)
    wide = adapted(base.to(run.device), sum(channels(name) for name in recipe.names), recipe.rank)
    if run.parts is not None and run.parts.hints is not None:
        known, widths = run.parts.hints.tensors_for(recipe.names), base.config.block_out_channels
        if widths != run.parts.unet.config.block_out_channels:
            known = Widening(run.parts.unet.config, widths).learned(known)
        try:
            go_on(wide, known)
        except ValueError as error:
            raise UserError(
                f"The hints of {run.start} are of another U-Net or rank: give their rank, or leave --start out."
            ) from error
    truth = SceneTruth(pictures, run.folder / "data")
    truth.render()
    task = DenoiserTask(
        channels_last(Denoiser(wide, schedule).to(run.device)),
        conditioner,
        codec,
        pictures,
        caption_dropout=recipe.caption_dropout,
        clear=recipe.clear,
        focus=recipe.focus,
        middle=recipe.middle,
        hints=Hints(recipe.names, pictures, truth, codec),
        disguised=_disguised(run, "hints", recipe.disguised, codec, ("colour",), COLOURS_DECIDED),
        cache=run.latents("hints"),
    )
    network = run.fit("hints", task, recipe.fit)
    if workers.leads():
        save_hints(recipe.names, learned(trained(network).unet), run.stage("hints"))


def train_image_prompt(run: Run) -> None:
    """What reads pictures as prompts, for a U-Net that stays as it is.

    A run without an image tower of its own goes on from what the model begun from has, and so does one that has, if no
    words are to be said first.
    """
    recipe = run.recipe.image_prompt
    pictures = run.pictures()
    codec, conditioner = run.codec(), run.conditioner().to(run.device)
    base, schedule = run.denoiser()
    base.to(run.device).requires_grad_(False)
    torch.manual_seed(recipe.fit.seed)
    tower = run.image_tower().to(run.device)
    anew = run.has("clip") and recipe.words.images > 0
    known = None if anew or run.parts is None else run.parts.image_prompts
    if known is None:
        reads = PerToken(tower.config.hidden_size, base.config.cross_attention_dim).to(run.device)
        reader = PictureConditioner(tower, reads, looks=APART)
        taught = run.fit("image_prompt/words", SayingTask(reader, conditioner, pictures), recipe.words)
        assert isinstance(taught, PictureConditioner)
        layers = PictureLayers(base)
    else:
        reads = known.conditioner(run.device)
        taught = PictureConditioner(tower, reads.projection, looks=reads.looks)
        layers = known.layers(base)
    unet = with_modules(base, {"pictures": layers.requires_grad_(True)})
    task = DenoiserTask(
        channels_last(Denoiser(unet, schedule)),
        conditioner,
        codec,
        pictures,
        caption_dropout=recipe.caption_dropout,
        segment=recipe.segment,
        focus=recipe.focus,
        middle=recipe.middle,
        prompts=PicturePrompts(taught, pictures, recipe.picture_dropout),
        disguised=_disguised(run, "image_prompt", recipe.disguised, codec, ("colour", "shape"), SHAPES_DECIDED),
        cache=run.latents("image_prompt"),
    )
    network = run.fit("image_prompt", task, recipe.fit)
    if workers.leads():
        layers = trained(network).unet.pictures
        assert layers is not None
        save_image_prompts(trained_reader(network), layers, run.stage("image_prompt"))


def _disguised(
    run: Run, stage: str, share: float, codec: Codec, attributes: Sequence[str], least: float
) -> Disguised | None:
    """What is noised as another in a stage, if anything; of a folder of pictures nobody knows them in a disguise."""
    if share == 0 or run.pictures_from is not None:
        return None
    return Disguised(
        run.still_life(attributes), share, least, codec, run.latents(stage) / f"other-{'-'.join(attributes)}"
    )


def train_sight(run: Run) -> None:
    """What tells depth and solids from a picture."""
    recipe = run.recipe.sight
    pictures = run.pictures()
    if not isinstance(pictures, StillLife):
        raise UserError("Sight is learned from scenes whose depth and solids are known: train it without --data.")
    torch.manual_seed(recipe.fit.seed)
    truth = SceneTruth(pictures, run.folder / "data")
    truth.render()
    task = SightTask(channels_last(Sight(recipe.network).to(run.device)), pictures, truth)
    network = run.fit("sight", task, recipe.fit)
    if workers.leads():
        save_sight(network, asdict(recipe.network), run.stage("sight"))
