"""LoRA, learned words and another autoencoder on a loaded model: what a picture then is, and that nothing stays."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mezzotint
from mezzotint.conditioning.clip import CLIPTextModel
from mezzotint.conditioning.sizes import SizedConditioner, SizeNumbers
from mezzotint.conditioning.text import TextConditioner
from mezzotint.pipeline import Pipeline
from mezzotint.store.attach import Attachments, LoraWarning
from mezzotint.store.extras import Extras
from mezzotint.types import Request, UserError

PROMPT = "a red <thing> to the left of a <purr>"


@pytest.fixture
def pipe(tiny_parts) -> Pipeline:
    return Pipeline.of(copy.deepcopy(tiny_parts))


def bits(image) -> bytes:
    return image.tobytes()


def weights(pipe: Pipeline) -> dict[str, torch.Tensor]:
    """Every parameter of the networks."""
    nets = {"unet": pipe.denoiser.unet, "text": pipe.conditioner.text_model, "vae": pipe.codec.autoencoder}
    return {f"{part}.{name}": tensor.clone() for part, net in nets.items() for name, tensor in net.named_parameters()}


def draw(pipe: Pipeline, **changes) -> bytes:
    return bits(pipe(PROMPT, seed=7, **changes))


def test_a_lora_that_changes_nothing_is_told_once(pipe, extras: Path, tmp_path: Path):
    idle = {name: own * (".lora_B." not in name) for name, own in load_file(extras / "ink.safetensors").items()}
    save_file(idle, tmp_path / "idle.safetensors")
    plain = draw(pipe)
    with pytest.warns(LoraWarning, match=r"idle\.safetensors: every change in it is zero"):
        pipe.use(loras=[tmp_path / "idle.safetensors"])
    assert draw(pipe) == plain
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.use(loras=[f"{tmp_path / 'idle.safetensors'}:0.5", extras / "ink.safetensors"])


def test_everything_at_once_and_after_it_every_bit_is_where_it_was(pipe, extras: Path):
    before, plain = weights(pipe), draw(pipe)
    seen = {plain}
    for files in (
        {"loras": {extras / "cat.safetensors": 0.8}},
        {"loras": {extras / "cat.safetensors": 0.8, extras / "ink.safetensors": -0.5}},
        {"loras": [f"{extras}/cat.safetensors:0.8:0", f"{extras}/ink.safetensors"]},
        {"embeddings": [extras / "word.safetensors"]},
        {"vae": extras / "vae"},
        {"loras": []},
        {"embeddings": []},
    ):
        assert pipe.use(**files) is pipe
        picture = draw(pipe)
        assert picture not in seen, files
        seen.add(picture)
    assert draw(pipe.use(vae="")) == plain
    after = weights(pipe)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert pipe.extras == Extras()


def test_a_request_tells_the_whole_truth(pipe, extras: Path, monkeypatch):
    monkeypatch.chdir(extras)
    pipe.use(vae="vae", loras={"cat.safetensors": (0.8, 0.25)}, embeddings=["word.safetensors"])
    request = pipe(PROMPT, seed=7).info["request"]
    assert request.vae == str(extras / "vae")
    assert request.loras == (f"{extras}/cat.safetensors:0.8:0.25",)
    assert request.embeddings == (str(extras / "word.safetensors"),)
    assert pipe.request(PROMPT).loras == request.loras
    again = Request.from_dict(json.loads(json.dumps(request.to_dict())))
    assert again == request
    assert bits(pipe(again)) == draw(pipe)
    assert bits(pipe(again.but(loras=["./cat.safetensors:0.8:0.25"]))) == draw(pipe)  # the same file


@pytest.mark.parametrize(
    "named", [{"loras": ("cat.safetensors",)}, {"vae": "vae"}, {"embeddings": ("word.safetensors",)}]
)
def test_a_request_for_files_that_are_not_on_the_model_is_refused(pipe, extras: Path, named, monkeypatch):
    monkeypatch.chdir(extras)
    name = next(iter(named))
    with pytest.raises(UserError, match=f"pipe.use\\({name}="):
        pipe("a red cube", **named)
    with pytest.raises(UserError, match="there is none"):
        pipe.check(Request(prompt="a red cube", **named))
    pipe.use(**named)
    pipe("a red cube", **named)
    with pytest.raises(UserError, match="first"):
        pipe.check(Request(prompt="a red cube", **{name: "word" if name == "vae" else ("cat.safetensors:0.3",)}))


def test_several_are_drawn_side_by_side(pipe, extras: Path):
    pipe.use(loras={extras / "cat.safetensors": 1.0, extras / "ink.safetensors": 0.5})
    together = pipe(["a red cube", "a <purr>", "a red cube"], seed=[1, 2, 3])
    for image, seed in zip(together, (1, 2, 3), strict=True):
        request = image.info["request"]
        assert len(request.loras) == 2
        alone = pipe(request)
        assert request.seed == seed
        # Company changes a picture by rounding only.
        assert np.abs(np.asarray(image).astype(int) - np.asarray(alone).astype(int)).max() <= 1


def test_loading_with_them_is_the_same(pipe, tiny_folder: Path, extras: Path):
    files = {"loras": {extras / "cat.safetensors": 0.8}, "embeddings": [extras / "word.safetensors"]}
    loaded = mezzotint.load(tiny_folder, device="cpu", vae=extras / "vae.safetensors", **files)
    assert draw(loaded) == draw(pipe.use(vae=extras / "vae.safetensors", **files))
    assert loaded.extras == pipe.extras


def test_a_lora_of_weight_0_changes_nothing_and_its_words_come_along(pipe, extras: Path):
    plain = bits(pipe("a red cube", seed=7))
    pipe.use(loras={extras / "cat.safetensors": 0})
    assert bits(pipe("a red cube", seed=7)) == plain
    assert list(pipe.conditioner.tokenizer.words) == ["<purr>"]


def test_what_fails_leaves_all_as_it_was(pipe, extras: Path, tmp_path: Path):
    pipe.use(loras={extras / "cat.safetensors": 0.8})
    before, picture, known = weights(pipe), draw(pipe), pipe.extras
    tensors = load_file(extras / "ink.safetensors")
    name = next(name for name in tensors if "to_q.lora_B" in name)
    save_file(tensors | {name: torch.zeros(3, 2)}, tmp_path / "other.safetensors")
    save_file({"<purr>": torch.zeros(1, 16)}, tmp_path / "same.safetensors")
    save_file({"<wide>": torch.zeros(1, 768)}, tmp_path / "wide.safetensors")
    save_file({f"{key}x": value for key, value in tensors.items()}, tmp_path / "keys.safetensors")
    save_file({"unet.sofa.lora_A.weight": torch.zeros(2, 4), "unet.sofa.lora_B.weight": torch.zeros(4, 2)},
              tmp_path / "sofa.safetensors")  # fmt: skip
    for files, said in (
        ({"loras": [tmp_path / "other.safetensors"]}, "other.safetensors cannot change .*to_q"),
        ({"loras": [tmp_path / "keys.safetensors"]}, "keys.safetensors is no LoRA: its tensors are"),
        ({"loras": [tmp_path / "sofa.safetensors"]}, "sofa.safetensors touches no layer .*unet.sofa.lora_A.weight"),
        ({"embeddings": [tmp_path / "same.safetensors"]}, "'<purr>' is in two of the files"),
        ({"embeddings": [tmp_path / "wide.safetensors"]}, "'<wide>' was learned as vectors 768 wide"),
        ({"loras": [], "embeddings": [extras / "word.safetensors"], "vae": tmp_path}, "has no .*safetensors"),
    ):
        with pytest.raises(UserError, match=said):
            pipe.use(**files)
        assert pipe.extras == known
        assert draw(pipe) == picture
        assert all(torch.equal(tensor, before[key]) for key, tensor in weights(pipe).items())


def test_an_autoencoder_with_other_latents_is_refused(pipe, tmp_path: Path):
    from mezzotint.store.part import save_part
    from mezzotint.vae import Autoencoder, AutoencoderConfig

    for number, config in enumerate(
        [
            AutoencoderConfig.of_widths(8, 8, 8, 8, norm_num_groups=4, latent_channels=3),
            AutoencoderConfig.of_widths(8, 8, norm_num_groups=4),
        ]
    ):
        save_part(Autoencoder(config), config.to_dict(), tmp_path / str(number))
        with pytest.raises(UserError, match="give one made for such a model"):
            pipe.use(vae=tmp_path / str(number))


def test_a_file_that_changes_is_read_again(pipe, extras: Path, tmp_path: Path):
    for name in ("cat.safetensors", "vae.safetensors"):
        shutil.copy(extras / name, tmp_path / name)
    files = {"loras": [tmp_path / "cat.safetensors"], "vae": tmp_path / "vae.safetensors"}
    before = draw(pipe.use(**files))
    adapter, vae = pipe._attached._loras, pipe.codec.autoencoder
    pipe.use(**files)
    assert (pipe._attached._loras, pipe.codec.autoencoder) == (adapter, vae)
    for name in ("cat.safetensors", "vae.safetensors"):
        tensors = {key: value if "bundle" in key else value * 2 for key, value in load_file(tmp_path / name).items()}
        save_file(tensors, tmp_path / "new")
        (tmp_path / "new").replace(tmp_path / name)
        os.utime(tmp_path / name, ns=(1, 1))
        after = draw(pipe.use(**files))
        assert after != before
        before = after


def test_moving_the_model_moves_both_autoencoders(pipe, extras: Path):
    own = pipe.codec.autoencoder
    pipe.use(vae=extras / "vae")
    other = pipe.codec.autoencoder
    pipe.to(dtype=torch.bfloat16)
    assert {own.decoder.conv_in.weight.dtype, other.decoder.conv_in.weight.dtype} == {torch.bfloat16}
    pipe.to(dtype=torch.float16)  # they overflow in it, their configs say
    assert {own.decoder.conv_in.weight.dtype, other.decoder.conv_in.weight.dtype} == {torch.float32}
    assert pipe.use(vae="").codec.autoencoder is own


def test_pefts_folder_with_its_alpha(pipe, extras: Path, tmp_path: Path):
    """Its files go by the names that peft gives them; alpha, here half the rank, stands beside."""
    shutil.copy(extras / "ink.safetensors", tmp_path / "adapter_model.safetensors")
    as_is = draw(pipe.use(loras={extras / "ink.safetensors": 0.5}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1}))
    assert draw(pipe.use(loras=[tmp_path])) == as_is
    assert draw(pipe.use(loras=[tmp_path / "adapter_model.safetensors"])) == as_is
    assert [path.name for path in pipe.extras.files()] == ["adapter_model.safetensors", "adapter_config.json"]


def projected(tiny_parts) -> CLIPTextModel:
    from dataclasses import replace

    torch.manual_seed(0)
    config = replace(tiny_parts.text_encoder.config, with_projection=True, projection_dim=8)
    return CLIPTextModel(config).eval()


@pytest.mark.parametrize("refiner", [False, True])
def test_the_text_encoders_of_sdxl_go_by_their_names(tiny_parts, refiner: bool, tmp_path: Path):
    """The refiner has the second one alone."""
    first, second = copy.deepcopy(tiny_parts.text_encoder), projected(tiny_parts)
    texts = [TextConditioner(tiny_parts.tokenizer, text) for text in ([second] if refiner else [first, second])]
    conditioner = SizedConditioner(texts, SizeNumbers(count=6, dim=4))
    attached = Attachments(copy.deepcopy(tiny_parts.unet), conditioner, tiny_parts.vae)
    layer = "text_model_encoder_layers_0_mlp_fc1"
    prefixes = ["lora_te2_"] if refiner else ["lora_te1_", "lora_te2_"]
    tensors = {f"{prefix}{layer}.lora_down.weight": torch.ones(1, 16) for prefix in prefixes}
    tensors |= {f"{prefix}{layer}.lora_up.weight": torch.ones(32, 1) * len(prefix) for prefix in prefixes}
    save_file(tensors, tmp_path / "x.safetensors")
    before = [text.text_model.text_model.encoder.layers[0].mlp.fc1.weight.clone() for text in texts]
    attached.set(Extras.named(loras={tmp_path / "x.safetensors": 0.5}))
    for text, weight in zip(texts, before, strict=True):
        assert torch.allclose(text.text_model.text_model.encoder.layers[0].mlp.fc1.weight - weight, torch.tensor(4.5))


def test_a_conditioner_without_texts_learns_no_words(tiny_parts, extras: Path):
    attached = Attachments(copy.deepcopy(tiny_parts.unet), object(), tiny_parts.vae)
    with pytest.raises(UserError, match="no text encoder"):
        attached.set(Extras.named(embeddings=[extras / "word.safetensors"]))
