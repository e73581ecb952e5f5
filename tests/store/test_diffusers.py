"""The same folder in both hands: diffusers loads what we save, we load what diffusers saves, nothing converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.store.folder import Parts, load_folder

PROMPTS = ["a red sphere to the left of a blue cube", "", "Two GREEN cones, 3 balls!"]


@pytest.fixture(scope="module")
def theirs(tiny_folder: Path) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def back(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "by-diffusers"
    theirs.save_pretrained(folder)
    return folder


def bare(name: str) -> str:
    """transformers 5 leaves this prefix out in memory."""
    return name.removeprefix("text_model.")


def assert_same(module: torch.nn.Module, other: torch.nn.Module) -> None:
    mine = {bare(name): tensor for name, tensor in module.state_dict().items()}
    its = {bare(name): tensor for name, tensor in other.state_dict().items() if not name.endswith("position_ids")}
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_diffusers_loads_every_weight(theirs: Any, tiny_parts: Parts, part: str):
    assert_same(getattr(tiny_parts, part), getattr(theirs, part))


def test_its_tokenizer_gives_the_same_ids(theirs: Any, tiny_parts: Parts):
    ids = theirs.tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=True).input_ids
    assert ids == tiny_parts.tokenizer.encode(PROMPTS)


def test_its_text_encoder_reads_the_same(theirs: Any, tiny_parts: Parts):
    ids = torch.tensor(tiny_parts.tokenizer.encode(PROMPTS))
    with torch.no_grad():
        expected = theirs.text_encoder(ids).last_hidden_state
        mine = tiny_parts.text_encoder(ids).last_hidden_state
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)  # Sums in another order, in 32 bits.


def test_its_scheduler_has_our_sigmas(theirs: Any, tiny_parts: Parts):
    theirs.scheduler.set_timesteps(10)
    assert theirs.scheduler.config.prediction_type == "v_prediction"
    abar = theirs.scheduler.alphas_cumprod[theirs.scheduler.timesteps].double()
    mine = torch.tensor(tiny_parts.schedule.walk(10)[:-1], dtype=torch.float64)
    # Its betas are 32 bits, and the last one stands for no signal at all, which it tells of only in its arithmetic.
    torch.testing.assert_close(mine[1:], ((1 - abar) / abar).sqrt()[1:], rtol=1e-3, atol=0)


def test_we_load_what_it_saves(back: Path, tiny_parts: Parts):
    parts = load_folder(back)
    for part in ("unet", "vae", "text_encoder"):
        assert_same(getattr(parts, part), getattr(tiny_parts, part))
    assert parts.tokenizer.encode(PROMPTS) == tiny_parts.tokenizer.encode(PROMPTS)
    assert parts.schedule == tiny_parts.schedule
    assert parts.facts.name == "by-diffusers"
