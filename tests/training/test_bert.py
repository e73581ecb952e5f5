"""A BERT that learns with the U-Net: the gradient reaches it, and it is saved, resumed, averaged and drawn with."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mezzotint
from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip import CLIPTextModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.convert import convert
from mezzotint.store.folder import Parts, load_folder
from mezzotint.text import WordPieceTokenizer, train_word_pieces
from mezzotint.training import bert
from mezzotint.training.clip import ATTRIBUTES, ORDERS, ReadOut, read_back, truth_told
from mezzotint.training.data import StillLife
from mezzotint.training.fit import fit
from mezzotint.training.fit_config import FitConfig
from mezzotint.training.recipe import Recipe
from mezzotint.training.recipes import changed, debug
from mezzotint.training.run import Run
from mezzotint.training.settings import BERTRecipe
from mezzotint.training.stages import carry_out
from mezzotint.training.unet import DenoiserTask, told_by
from mezzotint.types import UserError
from mezzotint.vae.codec import Codec
from mezzotint.world.captions import Told
from mezzotint.world.scene import Solid

SMALL = (
    "size=16", "scenes=8", "clip.patch=8", "vae.crop=16", "decoder.crop=16",
    *(f"{stage}.fit.images=8" for stage in ("vae", "clip", "unet", "decoder", "classifier")),
)  # fmt: skip
"""Less still than the recipe `debug`."""


def recipe(*settings: str) -> Recipe:
    return changed(debug(), [*SMALL, "encoder=bert", *settings])


@pytest.fixture
def pictures(tmp_path: Path) -> StillLife:
    return StillLife(tmp_path / "data", 8, 16)


def conditioner_for(pictures: StillLife) -> TextConditioner:
    words = train_word_pieces(pictures.captions(torch.arange(8), 0), 150)
    settings = BERTRecipe(width=16, layers=2, heads=2)
    torch.manual_seed(0)
    return TextConditioner(words, LDMBertModel(settings.text(words.vocab_size, words.pad_id)))


def task_for(parts: Parts, pictures: StillLife, *, dropout: float = 0.1, learns: bool = True, read: float = 0.0):
    """What is taught, on a U-Net whose branches are not zero, so that the text counts from the first step on."""
    torch.manual_seed(1)
    denoiser = Denoiser(UNet(parts.unet.config), NoiseSchedule())
    return DenoiserTask(
        denoiser, conditioner_for(pictures), Codec(parts.vae), pictures,
        caption_dropout=dropout, segment=0.5, learns_text=learns, read=read,
    )  # fmt: skip


def gradients(task: DenoiserTask, part: nn.Module) -> dict[str, Tensor | None]:
    task.network.zero_grad(set_to_none=True)
    loss, _ = task.loss(torch.arange(6), torch.Generator().manual_seed(3))
    loss.backward()
    return {name: parameter.grad for name, parameter in part.named_parameters()}


def text_of(task: DenoiserTask) -> nn.Module:
    assert task.network.text is not None
    return task.network.text


def test_the_gradient_goes_on_into_the_words(tiny_parts: Parts, pictures: StillLife):
    task = task_for(tiny_parts, pictures)
    found = gradients(task, text_of(task))
    idle = {name for name, gradient in found.items() if gradient is None}
    assert idle == {"to_logits.weight", "to_logits.bias"}  # Nothing reads these.
    assert all(gradient.abs().max() > 0 for gradient in found.values() if gradient is not None)
    # Only words that are shown are told anything: with every caption dropped, begin, end and padding.
    task = task_for(tiny_parts, pictures, dropout=1.0)
    table = gradients(task, text_of(task))["model.embed_tokens.weight"]
    assert table is not None
    assert table.abs().sum(dim=1).nonzero()[:, 0].tolist() == [0, 2, 3]


def test_without_it_the_text_stays_as_it_is(tiny_parts: Parts, pictures: StillLife):
    task = task_for(tiny_parts, pictures, learns=False, read=1.0)
    assert (task.network.text, task.network.read) == (None, None)
    conditioner = conditioner_for(pictures)
    assert told_by(task.network, conditioner) is conditioner
    _, figures = task.loss(torch.arange(6), torch.Generator().manual_seed(3))
    assert "text_slots" not in figures


def test_reading_back_teaches_the_text_and_not_the_u_net(tiny_parts: Parts, pictures: StillLife):
    plain, asked = (task_for(tiny_parts, pictures, read=read) for read in (0.0, 0.7))
    before, after = (gradients(task, task.network.denoiser) for task in (plain, asked))
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name  # pyright: ignore[reportArgumentType]
    table = "model.embed_tokens.weight"
    assert not torch.equal(gradients(plain, text_of(plain))[table], gradients(asked, text_of(asked))[table])  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in asked.network.get_submodule("read").parameters():
            parameter.zero_()
    (loss, figures), (more, others) = (
        task.loss(torch.arange(6), torch.Generator().manual_seed(3)) for task in (plain, asked)
    )
    assert set(others) - set(figures) == {"text_slots"}
    # Knowing nothing costs the logarithm of the number of classes, of [CLS] and half as much of the last place.
    classes = [*(len(values) + 2 for values in ATTRIBUTES.values()), len(ORDERS)]
    ignorance = sum(math.log(count) for count in classes) / len(classes)
    assert (more - loss).item() == pytest.approx(0.7 * 1.5 * ignorance, rel=1e-5)


def test_of_a_dropped_caption_nothing_is_to_be_read(tiny_parts: Parts, pictures: StillLife):
    task = task_for(tiny_parts, pictures, dropout=1.0, read=1.0)
    read = task.network.read
    assert read is not None
    with torch.no_grad():
        for head in (*read.heads.values(), read.order):
            assert isinstance(head, nn.Linear)
            head.weight.zero_()
            head.bias.zero_()
            places = 1 if head is read.order else 4
            head.bias.view(places, -1)[:, 0] = 100.0  # No such solid, in any of the places; and no order.
    plain = task_for(tiny_parts, pictures, dropout=1.0)
    losses = [one.loss(torch.arange(6), torch.Generator().manual_seed(3)) for one in (plain, task)]
    assert losses[1][0].item() == pytest.approx(losses[0][0].item(), rel=1e-6)
    assert losses[1][1]["text_slots"].item() == 0  # Of no solids none are right; a number, to log.


def test_the_whole_text_and_the_last_place_are_asked():
    read, tokens = ReadOut(4), torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    truth = truth_told([Told("a red cube", (Solid("cube", "red", "", ""),), "any")] * 2)
    loss, right = read_back(read, tokens[:, 0], tokens[:, -1], truth)
    first, last = (read.loss(tokens[:, place], truth) for place in (0, 4))
    assert torch.equal(loss, first[0] + 0.5 * last[0])
    assert torch.equal(right, first[1])


class Power(Exception):
    """Somebody pulled the plug."""


def test_its_training_resumes_to_the_last_bit(tiny_parts: Parts, pictures: StillLife, tmp_path: Path):
    config = FitConfig(images=24, batch=4, warmup=4, ema=8, bf16=False)

    def stop(progress: object) -> None:
        if getattr(progress, "seen", 0) >= 12:
            raise Power

    whole = fit(task_for(tiny_parts, pictures, read=0.1), config, tmp_path / "whole").state_dict()
    with pytest.raises(Power):
        fit(task_for(tiny_parts, pictures, read=0.1), config, tmp_path / "cut", report=stop, checkpoint_seconds=-1)
    task = task_for(tiny_parts, pictures, read=0.1)
    with torch.no_grad():
        text_of(task).get_parameter("model.embed_tokens.weight").zero_()  # What a checkpoint has is not made anew.
    average = fit(task, config, tmp_path / "cut", resume=True)
    assert all(torch.equal(value, whole[name]) for name, value in average.state_dict().items())
    # Samples on the way are drawn by the average of the text encoder too.
    told = told_by(average, conditioner_for(pictures))
    assert told.text_model is average.get_submodule("text")
    assert not torch.equal(
        told.text_model.state_dict()["model.embed_tokens.weight"],
        text_of(task).state_dict()["model.embed_tokens.weight"],
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages of a tiny model; nobody may change its folder."""
    run = Run(recipe(), tmp_path_factory.mktemp("runs") / "bert", "debug")
    carry_out(run, "all")
    return run


def test_from_nothing_to_a_model_of_latent_diffusion(run: Run):
    model = run.folder / "model"
    assert not (run.folder / "clip").exists()
    index = json.loads((model / "model_index.json").read_text())
    assert (index["_class_name"], index["bert"]) == ("LDMTextToImagePipeline", ["latent_diffusion", "LDMBertModel"])
    parts, finished = load_folder(model), run.conditioner()
    assert isinstance(parts.tokenizer, WordPieceTokenizer)
    assert parts.tokenizer == finished.tokenizer
    theirs = finished.text_model.state_dict()
    assert all(
        torch.equal(value, theirs[name].half().float()) for name, value in parts.text_encoder.state_dict().items()
    )
    # It has learned: it is not what the seed makes.
    torch.manual_seed(run.recipe.unet.fit.seed)
    UNet(run.recipe.unet.network)
    fresh = LDMBertModel(run.recipe.bert.text(parts.tokenizer.vocab_size, parts.tokenizer.pad_id)).state_dict()
    moved = {name for name, value in fresh.items() if not torch.equal(value, theirs[name])}
    assert {name for name in fresh if name not in moved} == {"to_logits.weight", "to_logits.bias"}
    card = (model / "README.md").read_text()
    assert "`LDMTextToImagePipeline.from_pretrained` reads it" in card
    assert "U-Net with its text encoder 8" in card
    assert mezzotint.load(model, device="cpu")("a red sphere", seed=1).size == (16, 16)
    assert len(list((run.folder / "unet" / "samples").iterdir())) > 0


def test_the_trained_model_in_one_file_draws_the_same(run: Run, tmp_path: Path):
    """Heads are told by no shape, and no vocabulary on this machine is this one: the file's metadata has both."""
    convert(run.folder / "model", tmp_path / "one.safetensors", "single-file")
    convert(tmp_path / "one.safetensors", tmp_path / "again", "diffusers")
    pictures = [
        mezzotint.load(path, device="cpu")("a red cube", seed=3).tobytes()
        for path in (run.folder / "model", tmp_path / "one.safetensors", tmp_path / "again")
    ]
    assert pictures[0] == pictures[1] == pictures[2]


def test_it_goes_on_from_a_model_s_bert_or_leaves_it(run: Run, tmp_path: Path):
    model = run.folder / "model"
    before = load_folder(model)
    for encoder, learns in (("bert", True), ("clip", False)):
        settings = ("unet.fit.lr=1e-5", f"encoder={encoder}")
        after = load_folder(carry_out(Run(recipe(*settings), tmp_path / encoder, "debug", start=model), "all"))
        assert after.tokenizer == before.tokenizer
        old, new = before.text_encoder.state_dict(), after.text_encoder.state_dict()
        assert max(float((old[name] - new[name]).abs().max()) for name in old) < 1e-3
        assert any(not torch.equal(old[name], new[name]) for name in old) == learns


def test_another_model_s_u_net_is_taught_a_new_bert(tiny_folder: Path, tmp_path: Path):
    settings = ("bert.width=16", "unet.network.cross_attention_dim=16")
    parts = load_folder(carry_out(Run(recipe(*settings), tmp_path / "run", "debug", start=tiny_folder), "all"))
    assert isinstance(parts.text_encoder, LDMBertModel)
    wide = Run(recipe(), tmp_path / "wide", "debug", start=tiny_folder)
    with pytest.raises(UserError, match=r"reads tokens 16 wide.* 32 wide.*and bert\.width equal"):
        carry_out(wide, "all")
    assert not (tmp_path / "wide").exists()


def test_there_is_no_text_tower_to_train(tmp_path: Path):
    with pytest.raises(UserError, match="Texts are read by bert: there is no text tower to train"):
        carry_out(Run(recipe(), tmp_path / "run", "debug"), "clip")
    with pytest.raises(UserError, match="no trained vae"):
        carry_out(Run(recipe(), tmp_path / "run", "debug"), "unet")


def test_hints_are_learned_beside_it(run: Run, tmp_path: Path):
    shutil.copytree(run.folder, tmp_path / "run")
    hinted = Run(changed(run.recipe, ["hints.fit.images=8"]), tmp_path / "run", "debug")
    carry_out(hinted, "hints")
    with pytest.raises(UserError, match="put the folder clip of another run"):
        carry_out(hinted, "image_prompt")
    assert load_folder(carry_out(hinted, "assemble")).hints is not None


def test_finished_stages_of_another_run_are_taken(run: Run, tmp_path: Path):
    """As the how-to says: the folders are copied, and `all` goes on from there; or the stage alone finds them."""
    clip = changed(debug(), SMALL)
    other = tmp_path / "other"
    for name in ("data", "vae", "decoder", "classifier"):
        shutil.copytree(run.folder / name, other / name)
    weights = (run.folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    (other / "vae" / "samples").rename(other / "vae" / "kept")
    carry_out(Run(clip, other, "debug", resume=True), "all")
    assert (other / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert not (other / "vae" / "samples").exists()  # Nothing was trained again.
    assert isinstance(load_folder(other / "model").text_encoder, CLIPTextModel)
    alone = tmp_path / "alone"
    shutil.copytree(run.folder / "vae", alone / "vae")
    carry_out(Run(recipe("bert.read=0"), alone, "debug"), "unet")
    assert json.loads((alone / "recipe.json").read_text())["bert"]["read"] == 0


def test_an_untrained_tower_is_a_stage_of_no_images(tmp_path: Path):
    control = changed(debug(), [*SMALL, "clip.fit.images=0"])
    run = Run(control, tmp_path / "run", "debug")
    carry_out(run, "clip")
    assert run.has("clip")
    found = run.conditioner()
    torch.manual_seed(control.clip.fit.seed)
    assert isinstance(found.text_model, CLIPTextModel)
    fresh = CLIPTextModel(found.text_model.config).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in found.text_model.state_dict().items())


def test_the_words_stay_with_their_checkpoint(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(run.folder, tmp_path / "run")
    vocabulary = tmp_path / "run" / "unet" / "tokenizer" / "vocab.txt"
    before = vocabulary.read_text()
    monkeypatch.setattr(bert, "train_word_pieces", lambda *_: pytest.fail("The words were found anew."))
    again = replace(run, folder=tmp_path / "run", resume=True)
    carry_out(again, "unet")
    assert vocabulary.read_text() == before
    other = replace(again, recipe=changed(run.recipe, ["bert.layers=2"]))
    with pytest.raises(UserError, match="begun with other settings"):
        carry_out(other, "unet")
    with pytest.raises(UserError, match="begun with other settings"):
        carry_out(replace(again, recipe=changed(run.recipe, ["encoder=clip"])), "all")
