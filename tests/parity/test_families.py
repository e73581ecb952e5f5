"""Every family that draws from words: what diffusers saves is read, written back, and draws their picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.conditioning.sizes import SizedConditioner
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.types import Words

diffusers = pytest.importorskip("diffusers")

PROMPTS = ["a red sphere to the left of a blue cube", "", "two GREEN cones " * 40]
NEGATIVE = "two green cones"
WIDTH, HEIGHT = 48, 32
"""Not square, so that height and width cannot be exchanged unseen."""
EULER = ("SDXL", "SDXL refiner")
Family = tuple[str, Any, Path]


@pytest.fixture(scope="module")
def parts(family: Family) -> Parts:
    return load_folder(family[2])


def assert_near(found: Tensor | None, expected: Tensor) -> None:
    """The same float32 operations up to fused attention: 1e-5 of the largest value."""
    assert found is not None
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def their_text(theirs: Any, prompts: list[str], negative: str | None = None) -> tuple[Tensor, ...]:
    """Tokens, and projected texts where the family has them: those of the prompts, or of a negative for each."""
    if hasattr(theirs, "bert"):
        settings = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        return (theirs.bert(theirs.tokenizer(prompts, **settings).input_ids)[0],)
    found = theirs.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True,
                                 negative_prompt=None if negative is None else [negative] * len(prompts))  # fmt: skip
    return (found[1], *found[3:]) if negative is not None or prompts == [""] else (found[0], *found[2:3])


def sized(texts: list[str], *, negative: bool = False) -> list[Words]:
    return [Words(text, (WIDTH, HEIGHT), negative) for text in texts]


@torch.no_grad()
def test_texts_agree(family: Family, parts: Parts) -> None:
    _, theirs, _ = family
    conditioner = parts.conditioner()
    found = conditioner(sized(PROMPTS))
    expected = their_text(theirs, PROMPTS)
    # They cut a long prompt where our first chunk ends.
    assert_near(found.sequence[:, : expected[0].shape[1]], expected[0])
    assert (found.pooled is None) == (len(expected) == 1)
    if isinstance(conditioner, SizedConditioner):
        assert found.pooled is not None
        assert_near(found.pooled[:, : expected[1].shape[1]], expected[1])


@torch.no_grad()
def test_negatives_agree(family: Family, parts: Parts) -> None:
    name, theirs, _ = family
    if name == "latent diffusion":
        pytest.skip("its pipeline takes no negative")
    for text in (NEGATIVE, ""):
        found = parts.conditioner()(sized([text], negative=True))
        expected = their_text(theirs, [""], None if text == "" else text)
        assert_near(found.sequence, expected[0])
        if name in EULER:
            assert found.pooled is not None
            assert_near(found.pooled[:, : expected[1].shape[1]], expected[1])
    assert parts.force_zeros_for_empty_prompt == (name == "SDXL")


def their_sizes(theirs: Any, *, negative: bool) -> Tensor:
    """What SDXL's pipelines tell of a picture of WIDTH and HEIGHT."""
    size, corner = (HEIGHT, WIDTH), (0, 0)
    settings = {"dtype": torch.float32, "text_encoder_projection_dim": 20}
    if isinstance(theirs, diffusers.StableDiffusionXLImg2ImgPipeline):
        ids = theirs._get_add_time_ids(size, corner, size, 6.0, 2.5, size, corner, size, **settings)
        return ids[1 if negative else 0]
    return theirs._get_add_time_ids(size, corner, size, **settings)


@pytest.mark.parametrize("negative", [False, True])
@torch.no_grad()
def test_the_u_net_agrees(family: Family, parts: Parts, negative: bool) -> None:
    name, theirs, _ = family
    x, t = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=torch.Generator().manual_seed(0)), torch.tensor([321.0])
    told = parts.conditioner()(sized(PROMPTS[:1], negative=negative))
    assert told.sequence is not None
    settings: dict[str, Any] = {}
    if name in EULER:
        text = their_text(theirs, PROMPTS[:1])[1]
        added = {"text_embeds": text, "time_ids": their_sizes(theirs, negative=negative)}
        settings = {"added_cond_kwargs": added}
    expected = theirs.unet(x, t, encoder_hidden_states=told.sequence, **settings).sample
    assert_near(parts.unet(x, t, told.sequence, told.pooled), expected)


@pytest.mark.parametrize("negative", ["", NEGATIVE], ids=["no negative", "negative"])
def test_pictures_agree(family: Family, parts: Parts, negative: str, assert_same_picture: Any) -> None:
    name, theirs, _ = family
    if name == "latent diffusion" and negative != "":
        pytest.skip("its pipeline takes no negative")
    assert_same_picture(parts, theirs, "euler" if name in EULER else "ddim", negative)


def test_what_we_save_they_load_and_draw(
    family: Family, parts: Parts, tmp_path: Path, assert_same_picture: Any
) -> None:
    name, theirs, folder = family
    save_folder(parts, tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again", local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(theirs)
    for part in (part for part in theirs.components if hasattr(theirs.components[part], "state_dict")):
        expected = theirs.components[part].state_dict()
        found = again.components[part].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    index = json.loads((folder / "model_index.json").read_text())
    written = json.loads((tmp_path / "again" / "model_index.json").read_text())
    beside = {"_diffusers_version", "_name_or_path", "scheduler", "requires_safety_checker"}
    assert {key: written[key] for key in index if key not in beside} == {
        key: index[key] for key in index if key not in beside
    }
    # What it draws with is DDIM's steps on the same schedule, which ours are by that name.
    assert_same_picture(load_folder(tmp_path / "again"), again, "ddim", "" if name == "latent diffusion" else NEGATIVE)
