"""The stages of a recipe, each from and to a run's folder; `added` has those that a model may do without."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.conditioning.clip import CLIPModel, CLIPTextModel, CLIPVisionModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet, init_for_training
from mezzotint.denoise.wider import Widening
from mezzotint.pipeline import Pipeline
from mezzotint.store.facts import Facts, write_json
from mezzotint.store.part import save_part
from mezzotint.store.png import write_plain
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.text.train import train_tokenizer
from mezzotint.training import workers
from mezzotint.training.added import train_classifier, train_hints, train_image_prompt, train_sight
from mezzotint.training.assemble import assemble
from mezzotint.training.bert import first_bert, save_bert
from mezzotint.training.clip import CLIPTask
from mezzotint.training.data import Pictures, StillLife
from mezzotint.training.decoder import DecoderTask, Redraw, trained_autoencoder
from mezzotint.training.fit import channels_last
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.recipe import BERT, CLIP
from mezzotint.training.record import alone, begin, check_parts, settled
from mezzotint.training.run import Run, sample_prompts
from mezzotint.training.unet import DenoiserTask, told_by, trained
from mezzotint.training.vae import AutoencoderTask, standardise
from mezzotint.training.walks import LEAST_END, MOST_END, STILL, Walker, Walks, walks_name
from mezzotint.types import UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import Codec, to_uint8
from mezzotint.world.captions import tell
from mezzotint.world.scene import random_scenes
from mezzotint.world.sheet import tiled


def train_vae(run: Run) -> None:
    """The latent space, its latents standardised."""
    recipe = run.recipe.vae
    torch.manual_seed(recipe.fit.seed)
    autoencoder = Autoencoder(recipe.network) if run.parts is None else run.parts.vae.requires_grad_(True)
    assert isinstance(autoencoder, Autoencoder)
    autoencoder = channels_last(autoencoder.to(run.device))
    pictures = run.pictures()
    network = run.fit("vae", AutoencoderTask(autoencoder, pictures, recipe.crop, noise=recipe.noise), recipe.fit)
    if not workers.leads():
        return
    assert isinstance(network, Autoencoder)
    standardise(network, pictures)
    save_part(network, network.config.to_dict(), run.stage("vae"))
    _show(run, "vae", _reconstructions(network, pictures))


def train_decoder(run: Run) -> None:
    """The decoder once more, from where it is, in the same latent space, with what the U-Net makes of latents."""
    recipe = run.recipe.decoder
    pictures = run.pictures()
    codec = run.codec()
    redraw = ends = None
    if recipe.redrawn > 0:
        unet, schedule = run.denoiser()
        conditioner = run.conditioner().to(run.device)
        denoiser = channels_last(Denoiser(unet, schedule).to(run.device))
        if recipe.walks > 0:
            walker, folder = _walker(run, "decoder", recipe.fit, denoiser, conditioner, codec, pictures)
            ends = walker.ends(recipe.walks, folder, run.reporter("walks"))
        else:
            redraw = Redraw(denoiser, conditioner, pictures)
    torch.manual_seed(recipe.fit.seed)  # The adversary begins alike in every process.
    task = DecoderTask(
        codec,
        pictures,
        recipe.crop,
        redraw=redraw,
        ends=ends,
        share=recipe.redrawn,
        adversary=recipe.adversary,
        cache=run.latents("decoder"),
    )
    network = trained_autoencoder(run.fit("decoder", task, recipe.fit))
    if not workers.leads():
        return
    save_part(network, network.config.to_dict(), run.stage("decoder"))
    _show(run, "decoder", _reconstructions(network, pictures))


def train_clip(run: Run) -> None:
    """The tokenizer, and both towers; for a model begun from, the image tower that goes with its text tower.

    The tower goes on from that by which the model reads pictures as prompts, if it has one of these sizes, and
    may lose some of what that learned by the U-Net's error.
    """
    recipe = run.recipe.clip
    pictures = run.pictures()
    folder = run.stage("clip")
    if run.parts is not None:
        tokenizer, text = run.parts.tokenizer, run.parts.text_encoder
        if not (isinstance(tokenizer, Tokenizer) and isinstance(text, CLIPTextModel)):
            raise UserError(f"The text encoder of {run.start} is no CLIP: train clip without --start.")
    elif run.resume and run.begun("clip"):
        tokenizer, text = Tokenizer.from_folder(folder / "tokenizer"), None  # Its words are the checkpoint's.
    else:
        tokenizer, text = train_tokenizer(_corpus(pictures), recipe.vocab_size), None
    if workers.leads() and not (run.resume and run.begun("clip")):
        tokenizer.save(folder / "tokenizer")
    torch.manual_seed(recipe.fit.seed)
    if text is None:
        text = CLIPTextModel(recipe.text(tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id))
    vision = CLIPVisionModel(recipe.vision(run.recipe.size))
    if run.parts is not None and run.parts.image_prompts is not None:
        known = run.parts.image_prompts.conditioner().tower
        here = vision.config
        if here == replace(known.config, with_projection=here.with_projection, projection_dim=here.projection_dim):
            vision.vision_model = known.vision_model.requires_grad_(True)
    clip = CLIPModel(text, vision, recipe.projection).to(run.device)
    task = CLIPTask(
        clip, tokenizer, pictures, text_rows=recipe.text_rows, fixed_text=run.parts is not None, grey=recipe.grey
    )
    network = run.fit("clip", task, recipe.fit)
    if not workers.leads():
        return
    trained = network.get_submodule("clip")
    assert isinstance(trained, CLIPModel)
    save_part(trained, trained.config.to_dict(), folder, stem="model")


def _corpus(pictures: Pictures) -> Iterable[str]:
    """Captions to find words in."""
    if isinstance(pictures, StillLife):
        chooser = random.Random(0)
        scenes = random_scenes(min(20_000, 16 * len(pictures)), 77)
        return (tell(scene, chooser).text for scene in scenes.describe())
    return pictures.captions(torch.arange(len(pictures)), 0)


def train_unet(run: Run) -> None:
    """The denoiser, on the latents and tokens of the stages before it, which stay as they are; a BERT learns along."""
    recipe, with_text = run.recipe.unet, run.recipe.encoder == BERT
    codec, pictures = run.codec(), run.pictures()
    torch.manual_seed(recipe.fit.seed)
    if run.parts is None:
        unet, schedule = UNet(recipe.network), recipe.schedule
        init_for_training(unet)
    else:
        unet, schedule = run.parts.unet, run.parts.schedule
        if recipe.widths:
            chance = torch.Generator().manual_seed(recipe.fit.seed)
            unet = Widening(unet.config, recipe.widths).unet(unet, chance)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(not recipe.learns or name.startswith(recipe.learns))
    before = {name: value.cpu().clone() for name, value in unet.state_dict().items()} if recipe.kept < 1 else {}
    denoiser = channels_last(Denoiser(unet, schedule).to(run.device))
    conditioner = (first_bert(run, _corpus(pictures)) if with_text else run.conditioner()).to(run.device)
    task = DenoiserTask(
        denoiser,
        conditioner,
        codec,
        pictures,
        caption_dropout=recipe.caption_dropout,
        segment=recipe.segment,
        focus=recipe.focus,
        middle=recipe.middle,
        breadth=recipe.breadth,
        learns_text=with_text,
        read=run.recipe.bert.read,
        walks=_own_walks(run, denoiser, conditioner, codec, pictures),
        walked=recipe.walked,
        held=recipe.held,
        cache=run.stage("unet"),
    )
    prompts = sample_prompts(pictures)

    def sample(network: nn.Module, seen: int) -> None:
        pipe = Pipeline(
            conditioner=told_by(network, conditioner),
            denoiser=trained(network),
            codec=codec,
            size=(run.recipe.size, run.recipe.size),
            defaults=run.recipe.defaults,
        )
        images = [picture.image for picture in pipe.draw([pipe.request(prompt, seed=1) for prompt in prompts])]
        target = run.stage("unet") / "samples" / f"{seen:08d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_plain(tiled(images), target)

    network = run.fit("unet", task, recipe.fit, sample=sample, sample_every=max(recipe.fit.images // 8, 1))
    if not workers.leads():
        return
    if with_text:
        save_bert(run, told_by(network, conditioner))
    write_json(schedule.to_dict(), run.stage("unet") / "scheduler_config.json")
    unet = trained(network).unet
    state = unet.state_dict()
    for name, value in before.items():
        state[name].lerp_(value.to(state[name]), 1 - recipe.kept)
    save_part(unet, unet.config.to_dict(), run.stage("unet"))  # Its config.json says that the stage is finished.


def _own_walks(
    run: Run, denoiser: Denoiser, conditioner: TextConditioner, codec: Codec, pictures: Pictures
) -> Walks | None:
    """What the U-Net made of scenes before it learned more, if it is to learn from that."""
    recipe = run.recipe.unet
    if recipe.walked == 0:
        return None
    walker, folder = _walker(run, "unet", recipe.fit, denoiser, conditioner, codec, pictures)
    return walker.all(recipe.walks, folder, run.reporter("walks"))


def _walker(
    run: Run,
    stage: str,
    fit: FitConfig,
    denoiser: Denoiser,
    conditioner: TextConditioner,
    codec: Codec,
    pictures: Pictures,
) -> tuple[Walker, Path]:
    """What walks for a stage, and the folder for it; those of other networks, pictures or defaults are removed."""
    assert isinstance(pictures, StillLife)
    defaults = run.recipe.defaults
    told = f"{pictures.identity}\n{json.dumps(defaults, sort_keys=True)}\n{fit.seed}"
    if stage == "decoder":
        told += f"\n{LEAST_END} {STILL} {MOST_END}"
    folder = run.stage(stage) / f"walks-{walks_name(told, denoiser, conditioner.text_model, codec.autoencoder)}"
    if workers.leads():
        for other in set(folder.parent.glob("walks-*")) - {folder}:
            shutil.rmtree(other)
    request = Facts(defaults=defaults).request()
    return Walker(denoiser, conditioner, codec, pictures, request, seed=fit.seed, bf16=fit.bf16), folder


@torch.no_grad()
def _reconstructions(autoencoder: Autoencoder, pictures: Pictures) -> list[Tensor]:
    """Eight pictures and below each what the autoencoder makes of it."""
    device = next(autoencoder.parameters()).device
    truth = pictures.pixels(torch.arange(min(8, len(pictures))))
    return [*truth, *Codec(autoencoder).decode(Codec(autoencoder).encode(truth.to(device))).cpu()]


def _show(run: Run, stage: str, pictures: list[Tensor]) -> None:
    from PIL import Image

    images = [Image.fromarray(array) for array in to_uint8(torch.stack(pictures)).numpy()]
    target = run.stage(stage) / "samples" / "reconstructions.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_plain(tiled(images, columns=len(images) // 2), target)


STAGES: dict[str, Callable[[Run], None]] = {
    "vae": train_vae,
    "clip": train_clip,
    "unet": train_unet,
    "decoder": train_decoder,
    "classifier": train_classifier,
    "hints": train_hints,
    "image_prompt": train_image_prompt,
    "sight": train_sight,
}
"""What is trained, by name and in order."""
NEEDS = {"unet": ("vae", "clip"), "decoder": ("vae",), "classifier": ("vae",), "hints": ("vae", "clip", "unet")}
NEEDS["image_prompt"] = NEEDS["hints"]
"""The stages that must be finished before one alone."""
ALL = [name for name in STAGES if name not in ("hints", "image_prompt", "sight")]
"""What "all" trains."""
FINE_TUNED = ["unet"]
"""What "all" trains of a model that is begun from; its latents and its words stay as they are."""


def carry_out(run: Run, stage: str) -> Path:
    """One stage, "assemble" for the model of finished ones, or "all"; returns the folder that was made.

    With `resume`, "all" does not do again what is finished. Raises UserError as `begin` and the stages do.
    """
    workers.join()
    with ExitStack() as held:
        with workers.agreed():
            if workers.leads():
                held.enter_context(alone(run.folder))
        return _carried_out(run, stage)


def _carried_out(run: Run, stage: str) -> Path:
    with workers.agreed():
        run = settled(run, stage)
        stages = [stage] if stage != "all" else list(ALL if run.start is None else FINE_TUNED)
        if stage == "all" and run.pictures_from is not None:
            stages = [name for name in stages if name != "classifier"]  # Nobody knows what those pictures show.
        redraws = stage == "decoder" and run.recipe.decoder.redrawn > 0
        needs = NEEDS.get("hints" if redraws else stage, ())
        if run.recipe.encoder != CLIP:
            if stage == "clip":
                raise UserError(f"Texts are read by {run.recipe.encoder}: there is no text tower to train.")
            stages = [name for name in stages if name != "clip"]
            needs = [name for name in needs if name != "clip"]
        if stage == "assemble":
            stages = []
        for name in needs:
            if run.start is None:
                run.need(name)
        check_parts(run, stages)
    with workers.agreed():
        if stages and workers.leads():
            begin(run, stages)
        for name in stages:
            gone = [n for n in NEEDS.get(name, ()) if n in stages and not (run.has(n) or run.begun(n))]
            if gone and (run.has(name) or run.begun(name)):
                raise UserError(f"{run.stage(name)} goes with a {gone[0]} that is gone: move it away too.")
    for name in stages:
        with workers.agreed():
            if stage != "all" or not (run.resume and run.has(name)):
                STAGES[name](run)
    if stage in STAGES:
        return run.stage(stage)
    with workers.agreed():
        if workers.leads():
            assemble(run)
    return run.folder / "model"
