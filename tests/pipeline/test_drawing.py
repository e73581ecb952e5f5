"""Pictures of every kind in one loop: what each is told, how large it is, and that company changes nothing."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.pipeline import Pipeline
from mezzotint.sampling import SAMPLERS
from mezzotint.sampling.samplers.base import Sampler
from mezzotint.types import UserError
from mezzotint.vae import Codec

PROMPTS = [
    "a red cube",
    "a (red:1.4) cube",
    "a cube AND a ball:0.5",
    "[red|blue] cone",
    "a [cube:ball:0.5]",
    "so " * 90,
]
GUIDES = [[], ["interval:0.3:5"], ["apg"], ["cfg++"], ["pag:2"], ["rescale:0.5", "threshold"]]
SCHEDULES = ["", "karras", "trailing", "beta", "zsnr+simple"]


def made(tiny_parts):
    parts = copy.deepcopy(tiny_parts)
    return Pipeline(
        conditioner=TextConditioner(parts.tokenizer, parts.text_encoder),
        denoiser=Denoiser(parts.unet, parts.schedule),
        codec=Codec(parts.vae),
        name="tiny",
        size=(16, 16),
        max_rows=6,
    )


@pytest.fixture(scope="module")
def pipe(tiny_parts):
    return made(tiny_parts)


def some_request(pipe, chooser, **settled):
    """A request by chance, of any kind that there is."""
    asked = {
        "seed": chooser.randrange(1000),
        "steps": chooser.randint(1, 3),
        "guidance": chooser.choice([0.0, 1.0, 4.0]),
        "sampler": chooser.choice(list(SAMPLERS)),
        "schedule": chooser.choice(SCHEDULES),
        "guide": chooser.choice(GUIDES),
        "width": chooser.choice([16, 20, 32]),
        "height": chooser.choice([16, 24]),
        "upscale": chooser.choice(["auto", "none", "two-pass", "tiles", "dilated"]),
        "weighting": chooser.choice(["a1111", "compel", "none"]),
        "negative": chooser.choice(["", "ugly"]),
    }
    return pipe.request(chooser.choice(PROMPTS), **(asked | settled))


def bits(image):
    return image.size, image.tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exact_pictures_are_the_same_to_the_last_bit_in_any_company(tiny_parts, dtype):
    chooser = random.Random(0)
    drawn = made(tiny_parts).to(dtype=dtype)
    requests = [some_request(drawn, chooser, exact=True) for _ in range(200)]
    alone = [bits(drawn(request)) for request in requests]
    together: dict[int, tuple[tuple[int, int], bytes]] = {}
    order = chooser.sample(range(200), 200)
    while order:
        group = [order.pop() for _ in range(min(len(order), chooser.randint(1, 20)))]
        others = [some_request(drawn, chooser) for _ in range(chooser.randint(0, 3))]
        images = drawn([requests[place] for place in group] + others)
        together |= {place: bits(image) for place, image in zip(group, images, strict=False)}
    assert [place for place in range(200) if together[place] != alone[place]] == []


def test_on_the_fast_path_company_changes_rounding_alone(pipe):
    chooser = random.Random(1)
    requests = [some_request(pipe, chooser) for _ in range(40)]
    for image, request in zip(pipe(requests), requests, strict=True):
        one, other = (np.asarray(each).astype(int) for each in (image, pipe(request)))
        assert np.mean(np.abs(one - other) <= 1) >= 0.999, request


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (9, 40), (64, 16)])
@pytest.mark.parametrize("upscale", ["auto", "none", "two-pass", "tiles", "dilated"])
def test_any_size_is_drawn(pipe, size, upscale):
    image = pipe("a cube", seed=1, steps=2, width=size[0], height=size[1], upscale=upscale)
    assert image.size == size


def test_moves_come_one_by_one_and_the_last_has_the_picture(pipe):
    request = pipe.request("a cube", seed=3, steps=4)
    moves = list(pipe.steps(request))
    assert [move.step for move in moves] == [1, 2, 3, 4]
    assert [move.picture is None for move in moves] == [True, True, True, False]
    assert bits(moves[-1].picture.image) == bits(pipe(request))
    (small,) = pipe.preview(moves[0].estimate)
    assert small.size == (2, 2)


@pytest.mark.parametrize("what", [["a cube"], 3, None])
def test_one_picture_is_drawn_of_a_prompt_or_a_request(pipe, what):
    with pytest.raises(UserError, match="give a prompt or a Request"):
        pipe.steps(what)


def test_several_prompts_pull_by_their_weights(pipe):
    plain = bits(pipe("a cube", seed=3, steps=2))
    assert bits(pipe("a cube AND a ball:0", seed=3, steps=2)) == plain
    assert bits(pipe("a cube AND a ball", seed=3, steps=2)) != plain


def test_a_prompt_changes_at_its_step(pipe):
    """The estimates are the same until the step where the words change."""

    def moves(prompt):
        return [move.estimate for move in pipe.steps(prompt, seed=3, steps=4)]

    before, changed = moves("a cube"), moves("a [cube:ball:0.5]")
    assert [torch.equal(*pair) for pair in zip(before, changed, strict=True)] == [True, True, False, False]


def test_a_worse_model_guides(pipe, tiny_parts, tmp_path):
    from mezzotint.store.folder import save_folder

    save_folder(tiny_parts, tmp_path / "weak")
    plain = pipe("a cube", seed=3, steps=2)
    # Away from itself by any scale is where it was.
    same = pipe("a cube", seed=3, steps=2, guide=[f"auto:{tmp_path / 'weak'}:3"], guidance=1.0)
    alone = pipe("a cube", seed=3, steps=2, guidance=1.0)
    difference = np.abs(np.asarray(same).astype(int) - np.asarray(alone).astype(int))
    assert difference.max() <= 1
    assert bits(plain) != bits(alone)


def test_a_sampler_reckons_by_the_model_s_table(pipe, monkeypatch):
    tables = []
    whole = Sampler.begin

    def begin(self, x, sigmas, noise, eta=None, schedule=None):
        tables.append(schedule)
        return whole(self, x, sigmas, noise, eta, schedule)

    monkeypatch.setattr(Sampler, "begin", begin)
    pipe("a red ball", sampler="tcd", steps=2)
    assert tables == [pipe.denoiser.schedule]
