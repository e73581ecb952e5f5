"""Single files of every family: written and read again equal to the bit, and read without our metadata as any other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file as read_tensors
from safetensors.torch import save_file as write_tensors
from torch import Tensor

from mezzotint.store.convert import convert
from mezzotint.store.folder import load_folder, save_folder
from mezzotint.store.parts import Parts
from mezzotint.store.single_file import load_file, save_file

Family = tuple[str, Any, Path]


def weights(parts: Parts) -> dict[str, torch.Tensor]:
    networks = {name: getattr(parts, name) for name in ("unet", "vae", "text_encoder", "text_encoder_2")}
    return {
        f"{part}.{name}": tensor
        for part, network in networks.items()
        if network is not None
        for name, tensor in network.state_dict().items()
    }


def assert_same(found: Parts, expected: Parts) -> None:
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert getattr(getattr(found, part), "config", None) == getattr(getattr(expected, part), "config", None)
    for fact in ("tokenizer", "tokenizer_2", "layer", "final_norm", "force_zeros_for_empty_prompt", "layout"):
        assert getattr(found, fact) == getattr(expected, fact)
    assert found.schedule.to_dict() == expected.schedule.to_dict()


def test_there_and_back(family: Family, tmp_path: Path) -> None:
    parts = load_folder(family[2])
    save_file(parts, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert_same(found, parts)
    save_folder(found, tmp_path / "again")
    assert_same(load_folder(tmp_path / "again"), parts)


@pytest.fixture
def words_cached(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family's tokenizer in the hub's cache, where that of the published models would be."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    name, _, folder = family
    words = next(folder.glob("tokenizer*"))
    repository = "bert-base-uncased" if name == "latent diffusion" else "openai--clip-vit-large-patch14"
    shutil.copytree(words, tmp_path / "hub" / f"models--{repository}" / "snapshots" / "main")


def as_published(family: Family, path: Path) -> dict[str, Tensor]:
    """The tensors of the family's single file as other programs write it, with nothing that is ours."""
    save_file(load_folder(family[2]), path)
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if tensor.numel() > 0}
    if family[0] == "Stable Diffusion 2":
        # The folder has lost the block that is never read, and the projection.
        blocks = "cond_stage_model.model.transformer.resblocks."
        last = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{blocks}2.")}
        tensors |= {name.replace(f"{blocks}2.", f"{blocks}3."): tensor + 1 for name, tensor in last.items()}
        tensors["cond_stage_model.model.text_projection"] = torch.ones(64, 64)
        tensors["v_pred"] = torch.zeros(0)
    if family[0] == "Stable Diffusion 1":
        # The oldest files name the text encoder's tensors so.
        tensors = {name.replace(".transformer.text_model.", ".transformer."): own for name, own in tensors.items()}
        tensors["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    if family[0] == "SDXL":
        tensors["conditioner.embedders.1.model.logit_scale"] = torch.ones(())
    tensors["model_ema.num_updates"] = torch.tensor(7)
    return tensors


def write(tensors: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        write_tensors(tensors, path)
    else:
        torch.save(
            {"state_dict": tensors, "global_step": 470000}, path, _use_new_zipfile_serialization=path.suffix != ".pt"
        )
    return path


@pytest.mark.usefixtures("words_cached")
@pytest.mark.parametrize("end", ["safetensors", "ckpt", "pt"])
def test_what_others_publish_draws_their_picture(
    family: Family, tmp_path: Path, assert_same_picture: Callable[..., None], end: str
) -> None:
    name, theirs, folder = family
    path = write(as_published(family, tmp_path / "ours.safetensors"), tmp_path / f"model.{end}")
    parts = load_file(path)
    if name == "latent diffusion":
        # Its published folder has no offset, as the code that it was published with has.
        scheduler = DDIMScheduler.from_config(parts.schedule.to_dict())
        theirs = type(theirs)(**theirs.components | {"scheduler": scheduler})
        theirs.set_progress_bar_config(disable=True)
    expected = load_folder(folder)
    assert parts.tokenizer == expected.tokenizer
    assert parts.tokenizer_2 == expected.tokenizer_2
    assert_same_picture(
        parts, theirs, "euler" if "XL" in name else "ddim", "" if name == "latent diffusion" else "a cube"
    )
    save_folder(parts, tmp_path / "folder")
    written = weights(load_folder(tmp_path / "folder"))
    assert all(torch.equal(written[key], tensor) for key, tensor in weights(expected).items())


@pytest.mark.usefixtures("words_cached")
def test_what_others_publish_comes_back_from_a_folder(family: Family, tmp_path: Path) -> None:
    name, theirs, _ = family
    tensors = as_published(family, tmp_path / "ours.safetensors")
    tensors = {key: own.half() if own.is_floating_point() else own for key, own in tensors.items()}
    convert(write(tensors, tmp_path / "model.safetensors"), tmp_path / "folder", "diffusers")
    assert (tmp_path / "folder" / "mezzotint.safetensors").is_file() == (
        name not in ("latent diffusion", "SDXL refiner")
    )
    again = type(theirs).from_pretrained(tmp_path / "folder")  # They pass over what is not theirs.
    if name == "Stable Diffusion 2":
        assert again.text_encoder.config.num_hidden_layers == 3
    convert(tmp_path / "folder", tmp_path / "second", "diffusers")
    convert(tmp_path / "second", tmp_path / "again.safetensors", "single-file")
    found = read_tensors(tmp_path / "again.safetensors")
    # Averages and markers are of training; what a schedule is stands in its own file.
    expected = {key: own for key, own in tensors.items() if not key.startswith(("model_ema.", "v_pred"))}
    if name == "Stable Diffusion 1":
        bare = "cond_stage_model.transformer."
        expected = {
            key if "position_ids" in key else key.replace(bare, f"{bare}text_model."): own
            for key, own in expected.items()
        }
    assert found.keys() == expected.keys()
    for key, own in expected.items():
        assert found[key].dtype == own.dtype
        assert torch.equal(found[key], own), key


@pytest.mark.usefixtures("words_cached")
def test_markers_of_v_prediction_and_zero_terminal_snr(
    family: Family, tmp_path: Path, assert_same_picture: Callable[..., None]
) -> None:
    name, theirs, _ = family
    if name not in ("SDXL", "Stable Diffusion 1"):
        pytest.skip("its models have none")
    markers = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    parts = load_file(
        write(as_published(family, tmp_path / "ours.safetensors") | markers, tmp_path / "model.safetensors")
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        set_alpha_to_one=False,
        clip_sample=False,
    )
    theirs = type(theirs)(**theirs.components | {"scheduler": scheduler})
    theirs.set_progress_bar_config(disable=True)
    assert_same_picture(parts, theirs, "ddim", "a cube")
    save_file(parts, tmp_path / "again.safetensors")
    found = read_tensors(tmp_path / "again.safetensors").keys()
    assert (markers.keys() <= found) == (name == "SDXL")
    assert load_file(tmp_path / "again.safetensors").schedule.to_dict() == parts.schedule.to_dict()


@pytest.mark.usefixtures("words_cached")
def test_the_configuration_beside_a_file(family: Family, tmp_path: Path) -> None:
    path = write(as_published(family, tmp_path / "ours.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text("model:\n  params:\n    parameterization: v\n")
    assert load_file(path).schedule.prediction_type == "v_prediction"


def test_their_reader_of_single_files_finds_their_model_in_ours(family: Family, tmp_path: Path) -> None:
    name, theirs, folder = family
    if name == "latent diffusion":
        pytest.skip("its pipeline reads no single files")
    save_file(load_folder(folder), tmp_path / "model.safetensors")
    again = type(theirs).from_single_file(
        str(tmp_path / "model.safetensors"), config=str(folder), local_files_only=True
    )
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        expected, found = (getattr(pipe, part, None) for pipe in (theirs, again))
        assert (expected is None) == (found is None)
        if expected is not None:
            state = found.state_dict()
            assert [
                key
                for key, tensor in expected.state_dict().items()
                if state[key].is_meta or not torch.equal(state[key], tensor)
            ] == []
