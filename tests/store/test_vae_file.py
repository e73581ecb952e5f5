"""Autoencoders in files: what is read of each, its scale, its dtype, and what is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from mezzotint.store.evidence import kept
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.store.inspect import inspect
from mezzotint.store.keymap import given as put_together
from mezzotint.store.keymap import prefixed
from mezzotint.store.ldm import vae
from mezzotint.store.part import save_part
from mezzotint.store.vae_file import load_vae
from mezzotint.types import UserError
from mezzotint.vae import Autoencoder, AutoencoderConfig, TinyAutoencoder, TinyAutoencoderConfig

BIG = AutoencoderConfig.of_widths(32, 32)
FEW_GROUPS = AutoencoderConfig.of_widths(8, 16, norm_num_groups=4, act_fn="mish", scaling_factor=0.7, shift_factor=0.1)
TINY = TinyAutoencoderConfig(
    encoder_block_out_channels=(8, 8),
    decoder_block_out_channels=(8, 8),
    num_encoder_blocks=(1, 1),
    num_decoder_blocks=(1, 1),
)
File = dict[str, Tensor]


def file_of(config: AutoencoderConfig, names: str = vae.LDM, prefix: str = "") -> File:
    """The tensors of an autoencoder of chance weights in a layout."""
    return put_together(Autoencoder(config).state_dict(), prefixed(vae.places(config, names), prefix))


def tiny_file(config: TinyAutoencoderConfig = TINY) -> File:
    return TinyAutoencoder(config).state_dict()


def saved(path: Path, file: File, **metadata: Any) -> Path:
    save_file(file, path, metadata=kept(metadata))
    return path


def test_the_scale_comes_from_the_file_then_from_the_model(tmp_path: Path) -> None:
    bare = saved(tmp_path / "bare", file_of(BIG))
    assert load_vae(bare).config.scaling_factor == 0.18215
    like = replace(BIG, scaling_factor=0.5, shift_factor=0.25, sample_size=77)
    assert load_vae(bare, like=like).config == like
    own = replace(BIG, scaling_factor=0.9)
    assert load_vae(saved(tmp_path / "own", file_of(BIG), vae=own.to_dict()), like=like).config == own
    folder = tmp_path / "folder"
    save_part(Autoencoder(own), own.to_dict(), folder)
    assert load_vae(folder, like=like).config == own
    told = json.loads((folder / "config.json").read_text())
    del told["scaling_factor"]
    (folder / "config.json").write_text(json.dumps(told))
    assert load_vae(folder, like=like).config == replace(own, scaling_factor=0.5, shift_factor=0.25)


def test_a_model_with_a_tiny_one_does_not_tell_the_scale_of_a_big_one(tmp_path: Path) -> None:
    bare = saved(tmp_path / "bare", file_of(BIG))
    with pytest.raises(UserError, match=r"bare: .*scale of its latents.*tiny"):
        load_vae(bare, like=TINY)
    assert load_vae(saved(tmp_path / "own", file_of(BIG), vae=BIG.to_dict()), like=TINY).config == BIG


def test_a_file_as_wide_as_the_model_has_its_groups(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", file_of(FEW_GROUPS, vae.DIFFUSERS))
    assert load_vae(path, like=FEW_GROUPS).config == FEW_GROUPS
    with pytest.raises(UserError, match=r"8, 16 wide.*32 groups.*use the folder"):
        load_vae(path, like=BIG)
    wider = saved(tmp_path / "wider", file_of(BIG))
    assert load_vae(wider, like=FEW_GROUPS).config == replace(BIG, scaling_factor=0.7, shift_factor=0.1)


def test_a_tiny_one_needs_no_scale(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", tiny_file())
    for like in (None, BIG, TINY):
        assert load_vae(path, like=like).config == TINY
    own = replace(TINY, act_fn="silu")
    assert load_vae(saved(tmp_path / "own", tiny_file(), vae=own.to_dict())).config == own


@pytest.mark.parametrize("upcast", [True, False])
def test_what_overflows_stays_in_32_bits(tmp_path: Path, upcast: bool) -> None:
    config = replace(BIG, force_upcast=upcast)
    path = saved(tmp_path / "x", file_of(BIG), vae=config.to_dict())
    save_part(Autoencoder(config), config.to_dict(), tmp_path / "folder")
    for place in (path, tmp_path / "folder"):
        found = {
            dtype: next(load_vae(place, "cpu", dtype).parameters()).dtype for dtype in (torch.float16, torch.bfloat16)
        }
        assert found == {torch.float16: torch.float32 if upcast else torch.float16, torch.bfloat16: torch.bfloat16}


def test_without_a_dtype_it_has_32_bits_on_a_cpu(tmp_path: Path) -> None:
    path = saved(tmp_path / "x", {name: tensor.half() for name, tensor in tiny_file().items()})
    module = load_vae(path)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert next(load_vae(path, "cpu", torch.float16).parameters()).dtype == torch.float16


def test_what_is_left_of_training_is_passed_over(tmp_path: Path) -> None:
    names = ("loss.logvar", "loss.perceptual_loss.net.slice1.0.weight", "model_ema.decay")
    extra = {name: torch.zeros(1) for name in names}
    assert load_vae(saved(tmp_path / "bare", file_of(BIG) | extra)).config == BIG
    inside = {f"first_stage_model.{name}": tensor for name, tensor in extra.items()}
    assert load_vae(saved(tmp_path / "inside", file_of(BIG, prefix="first_stage_model.") | inside)).config == BIG


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: file_of(BIG) | {"quantize.embedding.weight": torch.zeros(4, 4)}, "quantize.embedding.weight, which"),
        (lambda: file_of(BIG, prefix="vae.") | {"other.weight": torch.zeros(4)}, "other.weight, which"),
        (lambda: tiny_file() | {"decoder.layers.2.pool.0.weight": torch.zeros(4)}, "pool.0.weight, which"),
        (
            lambda: without(file_of(BIG), "decoder.mid.block_1.norm1.bias"),
            "lacks the tensor decoder.mid.block_1.norm1.bias",
        ),
        (lambda: without(tiny_file(), "encoder.layers.1.conv.2.bias"), "lacks the tensor encoder.layers.1.conv.2.bias"),
        (lambda: {name: t for name, t in file_of(BIG).items() if "encoder" not in name}, "has no encoder"),
        (lambda: file_of(BIG) | {"encoder.conv_in.weight": torch.zeros(32)}, r"x: .*encoder.conv_in.weight has shape"),
        (lambda: file_of(BIG) | {"conv": torch.tensor([torch.nan])}, "conv, which"),
        (lambda: tiny_file() | {"decoder.layers.0.weight": torch.zeros(8, 16, 3, 3)}, "different autoencoders"),
        (lambda: tiny_file() | {"decoder.layers.0.bias": torch.full((8,), torch.nan)}, "NaN or infinite"),
        (lambda: {"input_blocks.0.0.weight": torch.zeros(8, 4, 3, 3)}, "a model without its autoencoder"),
        (lambda: {"emb_params": torch.zeros(2, 8)}, "no autoencoder but this: textual inversion"),
        (lambda: {"a.b": torch.zeros(1, 1, 1), "c": torch.zeros(1)}, "its first tensors are a.b, c"),
    ],
)
def test_what_is_refused(tmp_path: Path, make: Callable[[], File], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        load_vae(saved(tmp_path / "x", make()), like=BIG)
    assert str(tmp_path / "x") in str(told.value)
    assert str(told.value).count(". ") == 0


def without(file: File, name: str) -> File:
    return {other: tensor for other, tensor in file.items() if other != name}


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (replace(BIG, latent_channels=16), "has 4 latent channels; this model has 16"),
        (AutoencoderConfig.of_widths(32, 32, 32, 32), "2 times smaller; this model has latents 8 times smaller"),
        (TinyAutoencoderConfig(), "2 times smaller; this model has latents 8 times smaller"),
    ],
)
@pytest.mark.parametrize("kind", ["big", "tiny"])
def test_what_does_not_fit_the_model_is_refused(
    tmp_path: Path, like: AutoencoderConfig | TinyAutoencoderConfig, message: str, kind: str
) -> None:
    file, config = (file_of(BIG), BIG) if kind == "big" else (tiny_file(), TINY)
    with pytest.raises(UserError, match=message):
        load_vae(saved(tmp_path / "x", file, vae=config.to_dict()), like=like)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"_class_name": "AutoencoderKLWan"},
            "tells of the class AutoencoderKLWan; give an AutoencoderKL or an AutoencoderTiny",
        ),
        ({"architectures": ["CLIPTextModel"], "hidden_size": 4}, "tells of the class CLIPTextModel"),
        ({"_class_name": "AutoencoderTiny", "num_encoder_blocks": 3}, "wrong kind"),
        ({"_class_name": "AutoencoderTiny"}, "the model has"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    save_part(TinyAutoencoder(TINY), values, tmp_path / "x")
    with pytest.raises(UserError, match=message):
        load_vae(tmp_path / "x")


def test_places_without_an_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_vae(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no config.json"):
        load_vae(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no vae.config.json"):
        load_vae(tmp_path)


@pytest.mark.parametrize("values", [{"_class_name": "AutoencoderTiny"}, {"latent_channels": "4"}, [1]])
def test_metadata_that_lies(tmp_path: Path, values: Any) -> None:
    with pytest.raises(UserError):
        load_vae(saved(tmp_path / "x", file_of(BIG), vae=values))


def test_half_a_model_is_not_saved(tiny_parts: Parts, tmp_path: Path) -> None:
    decoder = replace(TINY, encoder_block_out_channels=(), num_encoder_blocks=())
    with pytest.raises(UserError, match="only a tiny decoder"):
        save_folder(replace(tiny_parts, vae=TinyAutoencoder(decoder)), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_model_with_a_tiny_one_comes_back(tiny_parts: Parts, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {f"{side}_block_out_channels": (8,) * 4 for side in ("encoder", "decoder")}
    tiny = TinyAutoencoder(TinyAutoencoderConfig(**sizes)).eval()
    save_folder(replace(tiny_parts, vae=tiny), tmp_path / "x")
    assert json.loads((tmp_path / "x" / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderTiny"]
    found = load_folder(tmp_path / "x").vae
    assert found.config == tiny.config
    assert all(torch.equal(tensor, tiny.state_dict()[name]) for name, tensor in found.state_dict().items())
    assert inspect(tmp_path / "x")["parts"]["vae"]["class"] == "AutoencoderTiny"


def test_inspect_tells_of_tiny_ones(tmp_path: Path) -> None:
    file = tiny_file()
    halves = {
        "encoder": {name.removeprefix("encoder.layers."): t for name, t in file.items() if name.startswith("encoder")},
        "decoder": {
            f"{int(name.split('.')[2]) + 1}.{name.split('.', 3)[3]}": tensor
            for name, tensor in file.items()
            if name.startswith("decoder")
        },
    }
    told = inspect(saved(tmp_path / "both", file))
    assert told["layout"] == "tiny autoencoder, diffusers names"
    assert (told["halves"], told["latent_channels"]) == (["encoder", "decoder"], 4)
    for side, half in halves.items():
        told = inspect(saved(tmp_path / side, half))
        assert told["layout"] == "tiny autoencoder, numbered names"
        assert (told["halves"], told["latent_channels"]) == ([side], 4)
    wrong = file | {"decoder.layers.0.weight": torch.zeros(8, 16, 3, 3)}
    assert "different autoencoders" in inspect(saved(tmp_path / "wrong", wrong))["refusal"]
    odd = {"0.weight": torch.zeros(1), "1.conv.0.weight": torch.zeros(1), f"{'9' * 5000}.weight": torch.zeros(1)}
    assert "has shape [1]" in inspect(saved(tmp_path / "odd", odd))["refusal"]
    assert inspect(saved(tmp_path / "flat", {"decoder.conv_in.weight": torch.zeros(1)}))["latent_channels"] is None


NAMES = [*file_of(BIG), *tiny_file(), "0.weight", "1.weight", "3.conv.0.weight", "taesd_decoder.1.weight", "vae_scale"]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_tensors_of_any_shape_are_read_or_refused_in_one_sentence(tmp_path: Path, data: st.DataObject) -> None:
    """A file that was whole, some of whose tensors have gone, come, or changed their shape."""
    file = data.draw(st.sampled_from([file_of(BIG), tiny_file(), {"something": torch.zeros(1)}]))
    for name in data.draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        sides = data.draw(st.none() | st.lists(st.integers(0, 5), max_size=5))
        file = without(file, name) if sides is None else file | {name: torch.zeros(sides)}
    like = data.draw(st.sampled_from([None, BIG, FEW_GROUPS, TINY]))
    path = saved(tmp_path / "x", file)
    inspect(path)
    sentence = said_of(path, like)
    assert sentence is None or (str(path) in sentence and sentence.endswith("."))


def said_of(path: Path, like: AutoencoderConfig | TinyAutoencoderConfig | None) -> str | None:
    """Why it is refused, if it is."""
    try:
        load_vae(path, like=like)
    except UserError as error:
        return str(error)
    return None
