"""What of a single file has no place in a diffusers folder: kept there, and put on again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mezzotint.conditioning.clip import CLIPTextModel
from mezzotint.store.checksum import Checksums
from mezzotint.store.folder import load_folder, save_folder
from mezzotint.store.hub import chosen
from mezzotint.store.inspect import inspect
from mezzotint.store.layout import REST
from mezzotint.store.parts import Parts
from mezzotint.types import UserError

LAST = "text_encoder.text_model.encoder.layers.1.mlp.fc1.bias"


@pytest.fixture
def whole(tiny_parts: Parts) -> Parts:
    """As a single file of Stable Diffusion 2 is read: a block and a projection beyond what diffusers reads."""
    assert isinstance(tiny_parts.text_encoder, CLIPTextModel)
    config = replace(tiny_parts.text_encoder.config, with_projection=True, projection_dim=12)
    encoder = CLIPTextModel(config)
    encoder.load_state_dict(tiny_parts.text_encoder.state_dict(), strict=False)
    leftover = {"cond_stage_model.model.logit_scale": torch.tensor(4.6)}
    return replace(tiny_parts, text_encoder=encoder.eval().requires_grad_(False), layer=-2, leftover=leftover)


@pytest.fixture
def folder(whole: Parts, tmp_path: Path) -> Path:
    save_folder(whole, tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_is_read_as_the_model_that_it_was_made_of(whole: Parts, folder: Path) -> None:
    found = load_folder(folder)
    assert isinstance(found.text_encoder, CLIPTextModel)
    assert isinstance(whole.text_encoder, CLIPTextModel)
    assert (found.layer, found.final_norm) == (-2, True)
    assert found.text_encoder.config == whole.text_encoder.config
    own = whole.text_encoder.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in found.text_encoder.state_dict().items())
    assert found.leftover == whole.leftover
    ids = torch.tensor(found.tokenizer.encode(["a red cube"]))
    assert torch.equal(found.text_encoder.read(ids, layer=-2)[0], whole.text_encoder.read(ids, layer=-2)[0])


def test_without_the_file_the_folder_draws_the_same(whole: Parts, folder: Path) -> None:
    facts = load_folder(folder).facts
    assert REST in facts.sha256
    (folder / REST).unlink()
    (folder / "mezzotint.json").unlink()
    found = load_folder(folder)
    assert found.layer == -1
    ids = torch.tensor(found.tokenizer.encode(["a red cube"]))
    assert torch.equal(found.text_encoder.read(ids)[0], whole.text_encoder.read(ids, layer=-2)[0])


def test_most_folders_need_none(tiny_folder: Path) -> None:
    assert not (tiny_folder / REST).exists()
    assert "kept_for_single_files" not in inspect(tiny_folder)


def test_inspect_says_what_it_is_for(folder: Path) -> None:
    told = inspect(folder)["kept_for_single_files"]
    assert told["files"] == [REST]
    assert told["parameters"] == sum(tensor.numel() for tensor in load_file(folder / REST).values())
    assert "the end of the text_encoder and 1 tensors that nothing reads" in told["about"]
    assert inspect(folder)["unknown_keys"] == []
    assert "diffusers folder" in inspect(folder / REST)["layout"]


def test_it_counts_among_the_model_s_files(folder: Path) -> None:
    before = Checksums(folder).whole
    save_file(load_file(folder / REST) | {"leftover.x": torch.zeros(1)}, folder / REST)
    assert Checksums(folder).whole != before
    with pytest.raises(UserError, match=f"{REST} is damaged"):
        load_folder(folder)
    names = ["model_index.json", "unet/config.json", REST, "another.safetensors"]
    assert REST in chosen(names)
    assert "another.safetensors" not in chosen(names)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own: {name.replace("layers.1.", "layers.2."): t for name, t in own.items()}, "has block 2 .* 1 are in"),
        (lambda own: {name: t for name, t in own.items() if name != LAST}, "lacks the tensor"),
        (lambda own: own | {LAST: torch.zeros(5)}, r"of shape \[5\]"),
        (lambda own: own | {"text_encoder.text_projection.weight": torch.zeros(3)}, "of shape"),
        (lambda own: own | {"text_encoder.text_projection.weight": torch.zeros(())}, "text_projection"),
        (lambda own: own | {"text_encoder.other": torch.zeros(3)}, "has the tensor text_encoder.other"),
    ],
)
def test_what_does_not_follow_is_one_sentence(folder: Path, change: Any, said: str) -> None:
    (folder / "mezzotint.json").unlink()
    save_file(change(load_file(folder / REST)), folder / REST)
    with pytest.raises(UserError, match=said):
        load_folder(folder)
