"""Single files of every family: written and read again equal to the bit, and read without our metadata as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
