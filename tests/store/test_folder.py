"""Model folders: written and read, by us and by diffusers, and every kind of damage told by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mezzotint.store.checksum import Checksums
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.types import UserError

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
MODULES = ("text_encoder", "unet", "vae")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be spoilt, without the sums that would tell first."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_folder, copy)
    edit(copy / "mezzotint.json", sha256={})
    return copy


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same_weights(one: Parts, other: Parts) -> bool:
    pairs = [(getattr(one, part).state_dict(), getattr(other, part).state_dict()) for part in MODULES]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def test_what_is_saved_is_loaded(tiny_parts: Parts, tiny_folder: Path):
    loaded = load_folder(tiny_folder)
    assert same_weights(loaded, tiny_parts)
    assert loaded.tokenizer.encode(["a red ball"]) == tiny_parts.tokenizer.encode(["a red ball"])
    assert loaded.schedule == tiny_parts.schedule
    assert [getattr(loaded, part).config for part in MODULES] == [getattr(tiny_parts, part).config for part in MODULES]
    assert replace(loaded.facts, sha256={}) == tiny_parts.facts
    assert (tiny_folder / "README.md").read_text() == "# tiny\n"


def test_no_weight_is_trainable_or_left_without_memory(tiny_folder: Path):
    parts = load_folder(tiny_folder)
    for part in MODULES:
        module = getattr(parts, part)
        assert not module.training
        tensors = [*module.parameters(), *module.buffers()]
        assert not any(tensor.requires_grad or tensor.is_meta for tensor in tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_saved_and_run_in_thirty_two_on_a_cpu(tiny_parts: Parts, tmp_path: Path, dtype: torch.dtype):
    save_folder(tiny_parts, tmp_path / "half", dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / UNET).values()} == {dtype}
    parts = load_folder(tmp_path / "half")
    assert parts.unet.dtype == torch.float32
    expected = tiny_parts.unet.conv_in.weight.to(dtype).float()
    assert torch.equal(parts.unet.conv_in.weight, expected)
    assert load_folder(tmp_path / "half", dtype=dtype).unet.dtype == dtype


def test_an_autoencoder_that_overflows_in_float16_stays_in_float32(tiny_folder: Path):
    parts = load_folder(tiny_folder, dtype=torch.float16)
    assert parts.vae.config.force_upcast
    assert parts.vae.decoder.conv_in.weight.dtype == torch.float32
    assert parts.unet.dtype == torch.float16


def test_saving_takes_the_place_of_an_older_folder_and_leaves_nothing_else(tiny_parts: Parts, tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    save_folder(tiny_parts, tmp_path / "model")
    assert not (tmp_path / "model" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_that_fails_keeps_the_older_folder(tiny_parts: Parts, tmp_path: Path, monkeypatch):
    save_folder(tiny_parts, tmp_path / "model")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mezzotint.store.folder.write_facts", full)
    with pytest.raises(UserError, match="No space left"):
        save_folder(tiny_parts, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    load_folder(tmp_path / "model")


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    del tensors["mid_block.resnets.0.conv1.weight"]
    save_file(tensors, folder / UNET)


def add_tensor(folder: Path) -> None:
    save_file(load_file(folder / VAE) | {"decoder.extra.weight": torch.zeros(3)}, folder / VAE)


def reshape_tensor(folder: Path) -> None:
    tensors = load_file(folder / TEXT)
    name = "text_model.embeddings.position_embedding.weight"
    save_file(tensors | {name: tensors[name][:50].clone()}, folder / TEXT)


def both_names(folder: Path) -> None:
    tensors = load_file(folder / TEXT)
    name = "text_model.final_layer_norm.bias"
    save_file(tensors | {name.removeprefix("text_model."): tensors[name].clone()}, folder / TEXT)


def cut(folder: Path) -> None:
    data = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(data[: len(data) // 2])


def pickled_call(folder: Path) -> None:
    (folder / UNET).unlink()
    torch.save({"a": torch.zeros(1), "b": slice(3)}, folder / "unet" / "diffusion_pytorch_model.bin")


def outer_shard(folder: Path) -> None:
    (folder / UNET).rename(folder / "stolen.safetensors")
    index = {"weight_map": {"conv_in.weight": "../stolen.safetensors"}}
    (folder / f"{UNET}.index.json").write_text(json.dumps(index))


def broken_number(folder: Path) -> None:
    tensors = load_file(folder / VAE)
    tensors["decoder.conv_out.bias"][1] = float("nan")
    save_file(tensors, folder / VAE)


def other_class(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["diffusers", "UNetSpatioTemporalConditionModel"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (drop_tensor, r"lacks the tensor mid_block\.resnets\.0\.conv1\.weight"),
        (add_tensor, r"decoder\.extra\.weight"),
        (reshape_tensor, r"position_embedding\.weight of shape \[50, 16\].*\[77, 16\]"),
        (both_names, r"final_layer_norm\.bias a second time"),
        (cut, "diffusion_pytorch_model.safetensors"),
        (pickled_call, r"diffusion_pytorch_model\.bin wants to call builtins\.slice"),
        (outer_shard, r"names the file \.\./stolen\.safetensors"),
        (broken_number, r"decoder\.conv_out\.bias that are NaN or infinite"),
        (lambda folder: (folder / UNET).unlink(), "incomplete"),
        (lambda folder: (folder / "vae" / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "vae" / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "vae" / "config.json").write_text("[]"), "does not hold a JSON object"),
        (lambda folder: (folder / "model_index.json").unlink(), "model_index.json"),
        (lambda folder: edit(folder / "model_index.json", vae=[None, None]), "has no vae"),
        (lambda folder: edit(folder / "model_index.json", text_encoder_2=["transformers", "X"]), "text_encoder_2"),
        (other_class, "only a UNet2DConditionModel"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer"),
        (lambda folder: edit(folder / "unet" / "config.json", cross_attention_dim=24), "shape"),
        (lambda folder: edit(folder / "unet" / "config.json", in_channels="four"), "in_channels|wrong kind"),
        (lambda folder: edit(folder / "vae" / "config.json", block_out_channels=8), "wrong kind"),
        (lambda folder: edit(folder / "scheduler" / "scheduler_config.json", beta_start="x"), "wrong kind"),
        (lambda folder: (folder / "mezzotint.json").write_text("nonsense"), "mezzotint.json is not JSON"),
        (lambda folder: edit(folder / "mezzotint.json", sizes=[[64]]), "mezzotint.json"),
        (lambda folder: edit(folder / "mezzotint.json", defaults={"seed": 3}), "seed"),
        (lambda folder: edit(folder / "mezzotint.json", surprise=1), "surprise"),
        (lambda folder: (folder / "mezzotint.json").write_text("[" * 200_000), "mezzotint.json is not JSON"),
        (lambda folder: edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length="77"), "special tokens"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_damage_is_one_sentence_that_names_it(folder: Path, spoil: Callable[[Path], None], said: str):
    spoil(folder)
    with pytest.raises(UserError, match=said) as error:
        load_folder(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


def test_one_changed_bit_is_noticed(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    data = bytearray((folder / UNET).read_bytes())
    data[-5] ^= 1
    (folder / UNET).write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"unet/diffusion_pytorch_model\.safetensors is damaged"):
        load_folder(folder)


def test_the_sum_of_a_model_depends_on_every_weight(tiny_folder: Path, folder: Path):
    assert Checksums(tiny_folder).whole == Checksums(folder).whole
    tensors = load_file(folder / VAE)
    tensors["decoder.conv_out.bias"] += 1
    save_file(tensors, folder / VAE)
    assert Checksums(tiny_folder).whole != Checksums(folder).whole
    (folder / VAE).unlink()
    with pytest.raises(UserError, match="incomplete"):
        _ = Checksums(folder).whole


def test_older_names_are_known(tiny_parts: Parts, folder: Path):
    """Folders of before diffusers 0.15 call the autoencoder's attention otherwise; old CLIP files store positions."""
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(folder / VAE)
    for new, old in renamed.items():
        tensors = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in tensors.items()}
    assert any(".query." in name for name in tensors)
    save_file(tensors, folder / VAE)
    text = load_file(folder / TEXT) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(text, folder / TEXT)
    assert same_weights(load_folder(folder), tiny_parts)


def test_large_parts_are_saved_in_shards(tiny_parts: Parts, tmp_path: Path):
    save_folder(tiny_parts, tmp_path / "model", shard=50_000)
    files = sorted((tmp_path / "model" / "unet").glob("*.safetensors"))
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 80_000  # The bound, and the header.
    parts = load_folder(tmp_path / "model")
    assert same_weights(parts, tiny_parts)
    assert len(parts.facts.sha256) >= len(files) + 2


def test_shards_and_a_sixteen_bit_variant_are_found(tiny_parts: Parts, folder: Path):
    tensors = load_file(folder / UNET)
    names = sorted(tensors)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / "unet" / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    (folder / f"{UNET}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / UNET).unlink()
    (folder / VAE).rename(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    assert same_weights(load_folder(folder), tiny_parts)
    (folder / "unet" / "two.safetensors").unlink()
    with pytest.raises(UserError, match=r"two\.safetensors"):
        load_folder(folder)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
    ],
)
def test_the_sum_of_a_model_depends_on_tokenizer_and_configs(tiny_folder: Path, folder: Path, name: str):
    with (folder / name).open("a") as file:
        file.write("\n")
    assert Checksums(tiny_folder).whole != Checksums(folder).whole


def test_the_sum_of_a_model_depends_on_what_an_empty_negative_is(folder: Path):
    sums: list[str] = []
    for settings in ({}, {"force_zeros_for_empty_prompt": True}, {"force_zeros_for_empty_prompt": False}):
        index = json.loads((folder / "model_index.json").read_text()) | settings
        (folder / "model_index.json").write_text(json.dumps(index))
        sums.append(Checksums(folder).whole)
    assert len(set(sums)) == 3


def test_the_sum_of_a_file_depends_on_what_is_told_beside_it(tmp_path: Path):
    for name in ("one", "other"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    plain = Checksums(tmp_path / "one.safetensors").whole
    assert plain == hashlib.sha256((tmp_path / "one.safetensors").read_bytes()).hexdigest()
    sums = {plain}
    for predicted in ("v", "eps"):
        for name in ("one", "other"):
            (tmp_path / f"{name}.yaml").write_text(f"model:\n  params:\n    parameterization: {predicted}\n")
        assert Checksums(tmp_path / "one.safetensors").whole == Checksums(tmp_path / "other.safetensors").whole
        sums.add(Checksums(tmp_path / "one.safetensors").whole)
    assert len(sums) == 3
    (tmp_path / "one.yaml").write_text("another: thing\n")
    assert Checksums(tmp_path / "one.safetensors").whole == plain


def test_the_sum_of_a_model_does_not_depend_on_its_card(tiny_folder: Path, folder: Path):
    (folder / "README.md").write_text("another")
    assert Checksums(tiny_folder).whole == Checksums(folder).whole
