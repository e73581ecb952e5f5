"""A run's finished stages, put together as a model that anybody can load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.facts import Facts, read_json
from mezzotint.store.folder import Parts, described, save_folder
from mezzotint.store.pipelines import class_name
from mezzotint.training.recipe import BERT
from mezzotint.training.run import SAMPLE_PROMPTS, Run, sample_prompts

SHARD = 15 * 2**20
"""The most bytes in one weight file of what is trained here: repositories take such files as they are."""

ADDED = ("decoder", "classifier", "hints", "image_prompt")
"""The stages whose results go with a model's U-Net as it is."""


def assemble(run: Run) -> Path:
    """The model in RUN/model from the finished stages; the fine-tuned decoder is taken where there is one.

    It is called what the recipe is called, and says of itself how its stages were trained. Where the run has
    nothing but what is ADDED to a model begun from, that model is written once more with it. Raises UserError where a
    stage is not finished.
    """
    if run.parts is not None and not run.has("unet") and any(run.has(name) for name in ADDED):
        return _with_added(run, run.parts)
    run.need("unet")
    conditioner = run.conditioner()
    facts = Facts(
        name=run.recipe.name,
        about=f"One to four solids on a table, {run.recipe.size} pixels." if run.pictures_from is None else "",
        sizes=((run.recipe.size, run.recipe.size),),
        recipe=told_to_others(read_json(run.folder / "recipe.json")),
        defaults=run.recipe.defaults,
        hinted=run.recipe.hinted if run.has("hints") else {},
    )
    parts = Parts(
        tokenizer=conditioner.tokenizer,
        text_encoder=conditioner.text_model,
        layer=conditioner.layer,
        final_norm=conditioner.final_norm,
        unet=run.unet(),
        vae=run.autoencoder("decoder" if run.has("decoder") else "vae"),
        schedule=described(NoiseSchedule.from_dict, run.need("unet") / "scheduler_config.json"),
        facts=facts,
        classifier=run.classifier(),
        hints=run.hints(),
        image_prompts=run.image_prompts(),
    )
    target = run.folder / "model"
    card = model_card(run, class_name(parts.layout, parts.numbers, parts.unet.config.spatial_channels))
    save_folder(parts, target, card=card, dtype=torch.float16, shard=SHARD)
    return target


def _with_added(run: Run, parts: Parts) -> Path:
    """The model begun from, which stays what it is but for what was trained for it here."""
    assert run.start is not None
    recipe = read_json(run.folder / "recipe.json")
    told = {name: recipe[name] for name in ADDED if run.has(name)}
    facts = replace(parts.facts, recipe={**parts.facts.recipe, **told})
    if run.has("hints"):
        facts = replace(facts, hinted={**facts.hinted, **run.recipe.hinted})
    card, target = run.start / "README.md", run.folder / "model"
    save_folder(
        replace(
            parts,
            vae=run.autoencoder("decoder" if run.has("decoder") else "vae"),
            classifier=run.classifier(),
            hints=run.hints(),
            image_prompts=run.image_prompts(),
            facts=facts,
        ),
        target,
        card=card.read_text(encoding="utf-8") if card.is_file() else None,
        dtype=torch.float16,
        shard=SHARD,
    )
    return target


def told_to_others(told: dict[str, Any]) -> dict[str, Any]:
    """RUN/recipe.json with the names of folders alone: where they lie on this machine is nobody else's business."""
    if Path(told.get("encoder", "")).is_absolute():
        told = {**told, "encoder": Path(told["encoder"]).name}
    data, start = told.get("data"), told.get("start", {})
    names = {stage: None if model is None else Path(model).name for stage, model in start.items()}
    return {**told, "data": None if data is None else Path(data).name, "start": names}


def model_card(run: Run, pipeline: str) -> str:
    """What the model is and how it was made, for people: README.md of the model folder; `pipeline` is diffusers'."""
    recipe, told = run.recipe, read_json(run.folder / "recipe.json")
    if run.pictures_from is None:
        prompt, licence = SAMPLE_PROMPTS[3], " Licence: Apache-2.0."
        learnt_from = f"{recipe.scenes} scenes of the still life, all of them synthetic"
        knows = (
            "It knows one to four solids (sphere, cube, cylinder, cone, torus, pyramid) in ten colours and two sizes,\n"
            "on a table, and nothing else of the world."
        )
    else:
        prompt, licence = sample_prompts(run.pictures())[0].replace('"', "'"), ""
        learnt_from, knows = "a folder of captioned pictures", "It knows what those pictures show."
    unet = "U-Net with its text encoder" if run.recipe.encoder == BERT else "U-Net"
    names = {"vae": "autoencoder", "clip": "text and image towers", "unet": unet, "decoder": "decoder alone"}
    names |= {"classifier": "classifier", "hints": "hints", "image_prompt": "image prompts"}
    seen = ", ".join(
        f"{name} {told[stage]['fit']['images']}" for stage, name in names.items() if run.has(stage) and stage in told
    )
    return f"""# {recipe.name}

A text-to-image latent diffusion model of {recipe.size} x {recipe.size} pixels, trained by Mezzotint's recipe
`{told.get("recipe", told["name"])}` on {learnt_from}.{licence}

    mezzotint generate "{prompt}" --model MODEL_FOLDER -o out.png

{knows}
The folder is in the diffusers layout: `{pipeline}.from_pretrained` reads it.

Images seen: {seen}. The whole recipe stands in mezzotint.json.
"""
