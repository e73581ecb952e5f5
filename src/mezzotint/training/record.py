"""What a run's folder records of itself in RUN/recipe.json, and what may go on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from mezzotint.conditioning.clip_config import CLIPConfig
from mezzotint.denoise.wider import Widening
from mezzotint.store.beside import file_beside, make_folder
from mezzotint.store.facts import read_json, write_json
from mezzotint.store.folder import described
from mezzotint.training.recipe import BERT, CLIP, Recipe, check_classifier, check_fit
from mezzotint.training.run import Run
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.vae.tiny_config import AnyAutoencoderConfig, TinyAutoencoderConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PARTS = {
    "vae": ("vae",),
    "clip": ("clip",),
    "unet": ("unet", "bert", "encoder"),
    "decoder": ("decoder",),
    "classifier": ("classifier",),
    "hints": ("hints",),
    "image_prompt": ("image_prompt",),
    "sight": ("sight",),
}
"""The keys that belong to one stage, stage by stage."""
SHOWN = ("scenes", "tinted")
"""The keys of which scenes a stage learns from."""
BESIDE = ("recipe", "data", "start")
"""The keys that stand beside the recipe's own."""
GONE = {"image_prompt": {"tokens", "width", "layers", "heads"}}
"""What older runs say of a stage that is no choice any more."""


def recorded(folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """What RUN/recipe.json says; nothing where no stage got as far as a checkpoint, so that a false start binds nobody
    but who resumes it.

    Raises UserError where the file is damaged.
    """
    kept = resume or any(any(folder.glob(name)) for name in ("*/**/checkpoint.pt", "*/config.json"))
    return read_json(folder / "recipe.json") if kept and (folder / "recipe.json").exists() else {}


def recipe_of(folder: Path, origin: str, recipe: Recipe, *, resume: bool = False) -> Recipe:
    """The recipe of the run in a folder, or the given one, called `origin`, where no run was begun there.

    Raises UserError where the run there is one of another recipe.
    """
    told = recorded(folder, resume=resume)
    if not told:
        return recipe
    if told.get("recipe", told.get("name")) != origin:
        raise UserError(f"{folder} holds a run of another recipe: choose another --out.")
    return _recipe_in(folder)


def _recipe_in(folder: Path) -> Recipe:
    """The recipe in RUN/recipe.json, with today's defaults for what an older one does not say."""

    def read(values: Mapping[str, Any]) -> Recipe:
        values = {name: value for name, value in values.items() if name not in BESIDE}
        for stage, gone in GONE.items():
            if isinstance(values.get(stage), dict):
                values[stage] = {name: value for name, value in values[stage].items() if name not in gone}
        return Recipe.from_dict(values)

    return described(read, folder / "recipe.json")


def settled(run: Run, stage: str) -> Run:
    """The run with the pictures, and the model to begin from, that RUN/recipe.json records where none are given.

    Raises UserError where others are given, or the pictures are not there any more.
    """
    told = recorded(run.folder, resume=run.resume)
    key = "unet" if stage in ("all", "assemble") else stage
    starts: dict[str, str | None] = told.get("start", {}) if run.begun(key) or run.resume or stage == "assemble" else {}
    if stage == "assemble" and key not in starts:  # What was learned beside a U-Net that stays as it is.
        key = next(iter(starts), key)
    data, start = run.pictures_from, run.start
    if "data" in told:
        kept = None if told["data"] is None else Path(told["data"])
        if data is not None and data.resolve() != kept:
            learnt = "the still life" if kept is None else kept
            raise UserError(f"{run.folder} learns from {learnt}: leave --data out, or choose another --out.")
        if kept is not None and not kept.is_dir():
            raise UserError(f"{kept}, which {run.folder} learns from, is no folder any more: put it back there.")
        data = kept
    if key in starts:
        kept = None if starts[key] is None else Path(str(starts[key]))
        if start is not None and start.resolve() != kept and (run.begun(key) or stage == "assemble"):
            began = "no model" if kept is None else kept
            raise UserError(f"{run.stage(key)} was begun from {began}: leave --start out, or choose another --out.")
        start = kept if start is None else start
    return replace(run, pictures_from=data, start=start)


def check_parts(run: Run, stages: Collection[str]) -> None:
    """Raise UserError where what is there already, finished stages or a model to begin from, does not fit the rest."""
    vae: AnyAutoencoderConfig = run.recipe.vae.network
    encoder, tower = run.recipe.encoder, run.recipe.tower
    width = 0 if tower is None else tower.width
    if run.parts is not None:
        vae = run.parts.vae.config
        if encoder == CLIP or run.bert is not None:
            width = run.parts.text_encoder.config.hidden_size
        if isinstance(vae, TinyAutoencoderConfig):
            if "vae" in stages or ("decoder" in stages and not run.has("vae")):
                raise UserError(f"The autoencoder of {run.start} is tiny, which is not trained: train without --start.")
        elif "vae" in stages and not (vae.use_quant_conv and vae.use_post_quant_conv):
            raise UserError(f"The autoencoder of {run.start} has no 1x1 convolutions: train vae without --start.")
    if "vae" not in stages and run.has("vae"):
        vae = described(AutoencoderConfig.from_dict, run.stage("vae") / "config.json")
    if encoder == CLIP and "clip" not in stages and run.has("clip"):
        width = described(CLIPConfig.from_dict, run.stage("clip") / "config.json").text.hidden_size
    unet = run.recipe.unet.network if run.parts is None else run.parts.unet.config
    if tower is None and "unet" in stages:
        width = run.conditioner().width
        if width != unet.cross_attention_dim:
            raise UserError(
                f"The tokens of {encoder} are {width} wide and the U-Net reads {unet.cross_attention_dim}: "
                f"give unet.network.cross_attention_dim={width}."
            )
    if run.recipe.size % vae.factor != 0:
        raise UserError(f"size is {run.recipe.size}; the autoencoder needs a multiple of {vae.factor}.")
    if "classifier" in stages:
        check_classifier(run.recipe.classifier.network, vae.latent_channels)
    if "decoder" in stages and run.recipe.decoder.walks > 0 and run.pictures_from is not None:
        raise UserError("walks need scenes that are known: leave --data out, or walks at 0.")
    if "unet" in stages:
        if run.recipe.unet.widths:
            if run.parts is None:
                raise UserError("widths is of a model begun from: give --start, or the network's block_out_channels.")
            Widening(unet, run.recipe.unet.widths)
        learning = run.recipe.unet
        walked = learning.walked > 0
        goes_on = walked or learning.held > 0 or learning.kept < 1
        if run.parts is None and (goes_on or learning.learns):
            raise UserError(
                "walked, held, kept and learns are for a U-Net that draws already: give --start, or leave them out."
            )
        if encoder == BERT and goes_on:
            raise UserError("walked, held and kept are for a text encoder that stays, and a BERT learns along.")
        for beginning in learning.learns:
            assert run.parts is not None
            names = [name for name, _ in run.parts.unet.named_parameters()]
            if not any(name.startswith(beginning) for name in names):
                raise UserError(f"learns has {beginning!r}, and no name in the U-Net begins so; {names[0]} is one.")
        if walked and run.pictures_from is not None:
            raise UserError("walked needs scenes that are known: leave --data out, or walked at 0.")
        check_fit(unet, vae.latent_channels, width, encoder)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """The run's folder, made where it is missing, for this process alone while the block lasts.

    Where the system has no locks of this kind nothing is held. Raises UserError where another process of this machine
    trains in it or it cannot be made or read; one made for nothing is removed.
    """
    try:
        new = [place for place in (folder, *folder.parents) if not place.exists()]
        make_folder(folder)
        lock = None if fcntl is None else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}.") from error
    try:
        if fcntl is not None and lock is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"Another process trains in {folder}: wait for it, or choose another --out.") from error
            except OSError:
                pass  # A file system without locks.
        yield
    finally:
        if lock is not None:
            os.close(lock)
        with suppress(OSError):  # What holds something stays.
            for place in new:
                place.rmdir()


def begin(run: Run, stages: Collection[str]) -> None:
    """Write into the run's folder what of the recipe these stages use, and what they learn from.

    Raises UserError where one of the stages was begun and is not to be resumed or was begun with other settings, or
    the run's pictures are of another size, or its folder cannot be written, or there is nothing to learn from.
    """
    data, start = (None if path is None else str(path.resolve()) for path in (run.pictures_from, run.start))
    told: dict[str, Any] = {"recipe": run.origin, **json.loads(json.dumps(run.recipe.to_dict())), "data": data}
    before = recorded(run.folder, resume=run.resume)
    if before and before["size"] != run.recipe.size:
        raise UserError(f"{run.folder} holds a run of size {before['size']}: choose another --out for another size.")
    was = json.loads(json.dumps(_recipe_in(run.folder).to_dict())) if before else {}
    for stage in stages:
        if not run.begun(stage):
            continue
        if not run.resume:
            raise UserError(f"{run.stage(stage)} was begun before: go on with --resume, or move it away.")
        if was and any(was[key] != told[key] for key in (*PARTS[stage], *SHOWN)):
            raise UserError(f"{run.stage(stage)} was begun with other settings: give the same, or another --out.")
    told |= {key: was[key] for stage, keys in PARTS.items() if was and stage not in stages for key in keys}
    told["start"] = {**before.get("start", {}), **dict.fromkeys(stages, start)}
    if run.pictures_from is not None:
        run.pictures()  # A folder without pictures is told of before anything is written.
    with file_beside(run.folder / "recipe.json") as part:
        write_json(told, part)
