"""Models by hub names: what is fetched, what the cache is read for, and what is said where neither will do."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from mezzotint.store import hub
from mezzotint.store.hub import chosen, fetched, is_hub_name
from mezzotint.types import UserError

FOLDER = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.bin",
]
ALWAYS = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
}


def test_names():
    assert is_hub_name("owner/name")
    assert is_hub_name("owner/name.v1-5/file.safetensors")
    for other in ("still-life", "/etc/passwd", "../model", "./model", "owner/", "owner/../../x", ""):
        assert not is_hub_name(other)


def test_one_set_of_weights_a_part_is_fetched():
    assert set(chosen(FOLDER)) == ALWAYS | {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "vae/diffusion_pytorch_model.bin",
    }
    assert set(chosen(FOLDER, half=True)) == ALWAYS | {
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.bin",
    }
    assert chosen(["a.safetensors", "b.ckpt", "notes.txt", "sub/c.safetensors"]) == ["a.safetensors", "b.ckpt"]


def cached(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    """A hub that cannot be reached, with this folder, or nothing, in its cache."""

    def snapshot(repo: str, *, local_files_only: bool = False, allow_patterns: object = None) -> str:
        if folder is None or not local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(folder)

    def unreachable(*_: object, **__: object) -> str:
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(hub, "_listed", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)


def model_folder(path: Path) -> Path:
    index = {
        "_class_name": "X",
        "unet": ["diffusers", "U"],
        "scheduler": ["diffusers", "S"],
        "safety_checker": ["a", "b"],
    }
    (path / "unet").mkdir(parents=True)
    (path / "scheduler").mkdir()
    (path / "model_index.json").write_text(json.dumps(index))
    (path / "scheduler" / "scheduler_config.json").write_text("{}")
    (path / "unet" / "config.json").write_text("{}")
    return path


def test_the_cache_is_read_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = model_folder(tmp_path / "model")
    cached(monkeypatch, folder)
    for shard in ("1", "2"):
        with pytest.raises(UserError, match="cannot be reached"):  # Not all of its weights are there.
            fetched("owner/name")
        (folder / "unet" / f"diffusion_pytorch_model-0000{shard}-of-00002.safetensors").touch()
    assert fetched("owner/name") == folder


def test_one_checkpoint_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cached(monkeypatch, tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert fetched("owner/name") == tmp_path / "model.safetensors"


def test_nothing_cached_and_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    cached(monkeypatch, None)
    for name in ("owner/name", "owner/name/file.safetensors"):
        with pytest.raises(UserError, match="owner/name is no folder or file here"):
            fetched(name)


def test_of_several_checkpoints_one_is_to_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cached(monkeypatch, None)
    files = ["a.safetensors", "b.ckpt"]
    monkeypatch.setattr(hub, "_listed", lambda repo: files)
    with pytest.raises(UserError, match=r"owner/name/a\.safetensors, owner/name/b\.ckpt"):
        fetched("owner/name")
    del files[1]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file: str(tmp_path / file))
    assert fetched("owner/name") == tmp_path / "a.safetensors"
    files[0] = "notes.txt"
    with pytest.raises(UserError, match="neither"):
        fetched("owner/name")


def test_a_folder_is_fetched_by_what_is_read_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    cached(monkeypatch, None)
    asked: list[object] = []

    def snapshot(repo: str, *, local_files_only: bool = False, allow_patterns: object = None) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub, "_listed", lambda repo: FOLDER)
    assert fetched("owner/name", half=True) == tmp_path
    assert asked == [chosen(FOLDER, half=True)]
