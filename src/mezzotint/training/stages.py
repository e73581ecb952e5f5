"""The stages of a recipe, each from and to a run's folder, and the model that they make together.

RUN/recipe.json   the resolved recipe
RUN/data/         rendered scenes
RUN/vae/ clip/ unet/ decoder/   each: the trained part, checkpoint.pt, log.jsonl, samples/
RUN/model/        the model, in the diffusers layout, with its card
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.conditioning.clip import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet, init_for_training
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.pipeline import Pipeline
from mezzotint.store.facts import Facts, read_json, write_json
from mezzotint.store.folder import Parts, described, save_folder
from mezzotint.store.part import load_part, save_part
from mezzotint.store.png import write_plain
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.text.train import train_tokenizer
from mezzotint.training import workers
from mezzotint.training.clip import CLIPTask
from mezzotint.training.data import Folder, Pictures, StillLife
from mezzotint.training.fit import Progress, channels_last, fit
from mezzotint.training.recipes import Recipe
from mezzotint.training.unet import DenoiserTask
from mezzotint.training.vae import AutoencoderTask, standardise
from mezzotint.types import Request, UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import Codec, to_uint8
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.world.captions import tell
from mezzotint.world.scene import random_scenes
from mezzotint.world.sheet import tiled

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
    pictures_from: Path | None = None
    """A folder of captioned pictures to learn from in place of the still life."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    resume: bool = False
    report: Callable[[str, Progress], None] = lambda _stage, _progress: None

    def pictures(self) -> Pictures:
        """What the run learns from; of several processes the first renders it."""
        if self.pictures_from is not None:
            return Folder(self.pictures_from, self.recipe.size)
        workers.join(self.device)
        if not workers.leads():
            workers.wait()
        pictures = StillLife(self.folder / "data", self.recipe.scenes, self.recipe.size)
        if workers.leads():
            workers.wait()
        return pictures

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.folder / name

    def need(self, name: str) -> Path:
        """The folder of a finished stage. Raises UserError where it is not finished."""
        folder = self.stage(name)
        if not (folder / "config.json").exists():
            raise UserError(f"{self.folder} has no trained {name}: run 'mezzotint train {name}' there first.")
        return folder

    def reporter(self, name: str) -> Callable[[Progress], None]:
        """`report` for one stage."""
        return lambda progress: self.report(name, progress)


def train_vae(run: Run) -> None:
    """The latent space, its latents standardised."""
    recipe = run.recipe.vae
    torch.manual_seed(recipe.fit.seed)
    autoencoder = channels_last(Autoencoder(recipe.network).to(run.device))
    pictures = run.pictures()
    network = fit(
        AutoencoderTask(autoencoder, pictures, recipe.crop),
        recipe.fit,
        run.stage("vae"),
        resume=run.resume,
        report=run.reporter("vae"),
    )
    if not workers.leads():
        return
    assert isinstance(network, Autoencoder)
    standardise(network, pictures)
    save_part(network, network.config.to_dict(), run.stage("vae"))
    _show(run, "vae", _reconstructions(network, pictures))


def train_decoder(run: Run) -> None:
    """The decoder once more, from where it is, for finer detail in the same latent space."""
    recipe = run.recipe.decoder
    autoencoder = channels_last(load_vae(run.need("vae")).to(run.device)).requires_grad_(True)
    pictures = run.pictures()
    network = fit(
        AutoencoderTask(autoencoder, pictures, recipe.crop, decoder_only=True),
        recipe.fit,
        run.stage("decoder"),
        resume=run.resume,
        report=run.reporter("decoder"),
    )
    if not workers.leads():
        return
    assert isinstance(network, Autoencoder)
    save_part(network, network.config.to_dict(), run.stage("decoder"))
    _show(run, "decoder", _reconstructions(network, pictures))


def train_clip(run: Run) -> None:
    """The tokenizer, and both towers."""
    recipe = run.recipe.clip
    pictures = run.pictures()
    folder = run.stage("clip")
    tokenizer = train_tokenizer(_corpus(pictures), recipe.vocab_size)
    if workers.leads():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / "tokenizer")
    torch.manual_seed(recipe.fit.seed)
    text = CLIPTextModel(recipe.text(tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id))
    clip = CLIPModel(text, CLIPVisionModel(recipe.vision(run.recipe.size)), recipe.projection).to(run.device)
    task = CLIPTask(clip, tokenizer, pictures, text_rows=recipe.text_rows)
    network = fit(task, recipe.fit, folder, resume=run.resume, report=run.reporter("clip"))
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
    """The denoiser, on the latents and tokens of the stages before it, which stay as they are."""
    recipe = run.recipe.unet
    codec = Codec(channels_last(load_vae(run.need("vae")).to(run.device)))
    conditioner = load_conditioner(run.need("clip"), run.device)
    torch.manual_seed(recipe.fit.seed)
    unet = UNet(recipe.network)
    init_for_training(unet)
    denoiser = channels_last(Denoiser(unet, recipe.schedule).to(run.device))
    pictures = run.pictures()
    task = DenoiserTask(denoiser, conditioner, codec, pictures, caption_dropout=recipe.caption_dropout)
    prompts = _sample_prompts(pictures)

    def sample(network: nn.Module, seen: int) -> None:
        assert isinstance(network, Denoiser)
        size = (run.recipe.size, run.recipe.size)
        pipe = Pipeline(conditioner=conditioner, denoiser=network, codec=codec, size=size, defaults=run.recipe.defaults)
        images = [picture.image for picture in pipe.draw([pipe.request(prompt, seed=1) for prompt in prompts])]
        target = run.stage("unet") / "samples" / f"{seen:08d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_plain(tiled(images), target)

    network = fit(
        task,
        recipe.fit,
        run.stage("unet"),
        resume=run.resume,
        report=run.reporter("unet"),
        sample=sample,
        sample_every=max(recipe.fit.images // 8, 1),
    )
    if not workers.leads():
        return
    assert isinstance(network, Denoiser)
    save_part(network.unet, network.unet.config.to_dict(), run.stage("unet"))
    write_json(recipe.schedule.to_dict(), run.stage("unet") / "scheduler_config.json")


def _sample_prompts(pictures: Pictures) -> Sequence[str]:
    """What is drawn while the U-Net learns: the first captions of a folder."""
    if isinstance(pictures, StillLife):
        return SAMPLE_PROMPTS
    first = pictures.captions(torch.arange(min(len(SAMPLE_PROMPTS), len(pictures))), 0)
    return [caption[: Request.MAX_PROMPT] for caption in first]


def assemble(run: Run) -> Path:
    """The model in RUN/model from the finished stages; the fine-tuned decoder is taken where there is one.

    It is called what the recipe is called, and says of itself how its stages were trained. Raises UserError where a
    stage is not finished.
    """
    unet_folder, clip_folder = run.need("unet"), run.need("clip")
    vae_folder = run.stage("decoder") if (run.stage("decoder") / "config.json").exists() else run.need("vae")
    unet_config = described(UNetConfig.from_dict, unet_folder / "config.json")
    conditioner = load_conditioner(clip_folder, torch.device("cpu"))
    facts = Facts(
        name=run.recipe.name,
        about=f"One to four solids on a table, {run.recipe.size} pixels." if run.pictures_from is None else "",
        sizes=((run.recipe.size, run.recipe.size),),
        recipe=read_json(run.folder / "recipe.json"),
        defaults=run.recipe.defaults,
    )
    parts = Parts(
        tokenizer=conditioner.tokenizer,
        text_encoder=conditioner.text_model,
        unet=load_part(lambda: UNet(unet_config), unet_folder),
        vae=load_vae(vae_folder),
        schedule=described(NoiseSchedule.from_dict, unet_folder / "scheduler_config.json"),
        facts=facts,
    )
    target = run.folder / "model"
    save_folder(parts, target, card=model_card(run), dtype=torch.float16)
    return target


def load_vae(folder: Path) -> Autoencoder:
    """The autoencoder of a stage, fixed, in float32."""
    config = described(AutoencoderConfig.from_dict, folder / "config.json")
    return load_part(lambda: Autoencoder(config), folder)


def load_clip(folder: Path) -> CLIPModel:
    """Both towers, fixed, in float32."""
    config = described(CLIPConfig.from_dict, folder / "config.json")
    return load_part(lambda: CLIPModel.of_config(config), folder, stem="model")


def load_conditioner(folder: Path, device: torch.device) -> TextConditioner:
    """The text tower with its tokenizer, fixed, in float32."""
    return TextConditioner(Tokenizer.from_folder(folder / "tokenizer"), load_clip(folder).text_encoder().to(device))


def model_card(run: Run) -> str:
    """What the model is and how it was made, for people: README.md of the model folder."""
    recipe = run.recipe
    if run.pictures_from is None:
        prompt, licence = SAMPLE_PROMPTS[3], " Licence: Apache-2.0."
        learnt_from = f"{recipe.scenes} scenes of the still life, all of them synthetic"
        knows = (
            "It knows one to four solids (sphere, cube, cylinder, cone, torus, pyramid) in ten colours and two sizes,\n"
            "on a table, and nothing else of the world."
        )
    else:
        prompt, licence = _sample_prompts(run.pictures())[0].replace('"', "'"), ""
        learnt_from, knows = "a folder of captioned pictures", "It knows what those pictures show."
    return f"""# {recipe.name}

A text-to-image latent diffusion model of {recipe.size} x {recipe.size} pixels, trained by Mezzotint's recipe
`{recipe.name}` on {learnt_from}.{licence}

    mezzotint generate "{prompt}" --model MODEL_FOLDER -o out.png

{knows}
The folder is in the diffusers layout: `StableDiffusionPipeline.from_pretrained` reads it.

Images seen: autoencoder {recipe.vae.fit.images}, text and image towers {recipe.clip.fit.images}, U-Net
{recipe.unet.fit.images}, decoder alone {recipe.decoder.fit.images}. The whole recipe stands in mezzotint.json.
"""


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
}
"""What is trained, by name and in order."""
NEEDS = {"unet": ("vae", "clip"), "decoder": ("vae",)}
"""The stages that must be finished before one alone."""


def begin(run: Run, stages: Collection[str]) -> None:
    """Make the run's folder and write what of the recipe these stages use.

    Raises UserError where the folder holds another recipe, or one of the stages begun and not to be resumed or begun
    with other settings, or where it cannot be written, or where there is nothing to learn from.
    """
    path = run.folder / "recipe.json"
    told = json.loads(json.dumps(run.recipe.to_dict()))
    if path.exists():
        before = read_json(path)
        if before.get("name") != run.recipe.name:
            raise UserError(f"{run.folder} holds a run of another recipe: choose another --out.")
        for stage in stages:
            if not (run.stage(stage) / "checkpoint.pt").exists():
                continue
            if not run.resume:
                raise UserError(f"{run.stage(stage)} was begun before: go on with --resume, or move it away.")
            if before.get(stage) != told[stage]:
                raise UserError(f"{run.stage(stage)} was begun with other settings: give the same, or another --out.")
        told = {**before, **{key: value for key, value in told.items() if key in stages or key not in STAGES}}
    if run.pictures_from is not None:
        run.pictures()  # A folder without pictures is told of before anything is written.
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(told, path)
    except OSError as error:
        raise UserError(f"{run.folder} cannot be written: {error.strerror or error}.") from error


def carry_out(run: Run, stage: str) -> Path:
    """One stage, "assemble" for the model of finished ones, or "all"; returns the folder that was made.

    With `resume`, "all" does not do again what is finished. Raises UserError as `begin` and the stages do.
    """
    workers.join(run.device)
    if stage == "assemble":
        return assemble(run) if workers.leads() else run.folder / "model"
    for name in NEEDS.get(stage, ()):
        run.need(name)
    if workers.leads():
        begin(run, STAGES if stage == "all" else [stage])
    workers.wait()
    if stage != "all":
        STAGES[stage](run)
        workers.wait()
        return run.stage(stage)
    for name, train in STAGES.items():
        if not (run.resume and (run.stage(name) / "config.json").exists()):
            train(run)
        workers.wait()
    return assemble(run) if workers.leads() else run.folder / "model"
