"""The pipeline, with a model of random weights small enough to draw in milliseconds."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.conditioning.clip import CLIPTextModel
from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet
from mezzotint.noise import NoiseSchedule, draw_noise
from mezzotint.pipeline import Cancelled, Pipeline
from mezzotint.store.facts import Facts
from mezzotint.types import Request, UserError, Words
from mezzotint.vae import Codec
from mezzotint.vae.codec import from_uint8

STEPS = 3


@pytest.fixture(scope="module")
def pipe(tiny_parts):
    parts = copy.deepcopy(tiny_parts)
    return Pipeline(
        conditioner=TextConditioner(parts.tokenizer, parts.text_encoder),
        denoiser=Denoiser(parts.unet, parts.schedule),
        codec=Codec(parts.vae),
        name="tiny",
        size=(48, 32),
        defaults={"steps": STEPS, "guidance": 3.0},
    )


def values(image):
    return np.asarray(image).astype(int)


def assert_same_picture(one, other):
    """The same but for rounding: 99.9% of the values within 1 of 255."""
    assert one.size == other.size
    assert np.mean(np.abs(values(one) - values(other)) <= 1) >= 0.999


def test_a_prompt_becomes_a_picture_of_the_trained_size_with_the_models_defaults(pipe):
    image = pipe("a red cube", seed=7)
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("RGB", (48, 32))
    assert image.info["request"] == Request(
        prompt="a red cube", seed=7, steps=STEPS, guidance=3.0, width=48, height=32, model="tiny"
    )
    assert values(image).std() > 5


def test_the_picture_can_be_drawn_again_from_what_it_carries(pipe):
    image = pipe("a red cube", sampler="euler-ancestral")
    assert np.array_equal(values(image), values(pipe(image.info["request"])))
    assert not np.array_equal(values(image), values(pipe("a red cube", sampler="euler-ancestral")))


def test_every_field_of_the_request_matters(pipe):
    plain = values(pipe("a red cube", seed=7))
    for changes in (
        {"seed": 8},
        {"steps": 4},
        {"guidance": 6.0},
        {"guidance": 1.0},
        {"guidance": 0.0},
        {"negative": "a blue ball"},
        {"sampler": "euler-ancestral"},
    ):
        assert not np.array_equal(plain, values(pipe("a red cube", **{"seed": 7, **changes})))
    assert not np.array_equal(plain, values(pipe("a blue ball", seed=7)))
    assert pipe("a red cube", seed=7, width=64, height=40).size == (64, 40)


def test_one_seed_counts_up_and_a_list_of_seeds_is_taken(pipe):
    prompts = ["a red cube", "a blue ball", "a red cube"]
    counted, listed = pipe(prompts, seed=7), pipe(prompts, seed=[7, 8, 9])
    assert [image.info["request"].seed for image in counted] == [7, 8, 9]
    assert [image.info["request"].prompt for image in listed] == prompts
    for one, other in zip(counted, listed, strict=True):
        assert np.array_equal(values(one), values(other))


def test_requests_keep_their_seeds_and_take_changes(pipe):
    request = Request(prompt="a red cube", seed=5, steps=2)
    (image,) = pipe([request])
    assert image.info["request"].seed == 5
    changed = pipe(request, seed=6, sampler="euler").info["request"]
    assert (changed.seed, changed.sampler, changed.steps) == (6, "euler", 2)
    assert pipe([]) == []


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_a_picture_depends_on_its_request_alone(pipe, max_rows):
    requests = [
        pipe.request("a red cube", seed=seed, steps=seed % 3 + 1, sampler=name, width=32 + 16 * (seed % 2))
        for seed, name in enumerate(["euler", "heun", "dpmpp-2m", "euler-ancestral", "dpmpp-3m-sde", "restart"])
    ]
    requests += [pipe.request("a blue ball", seed=3, guidance=scale, negative="a cube") for scale in (0.0, 1.0, 9.0)]
    parts = {"conditioner": pipe.conditioner, "denoiser": pipe.denoiser, "codec": pipe.codec}
    crowd = Pipeline(**parts, name="tiny", size=pipe.size, max_rows=max_rows)
    together = crowd(requests)
    for image, request in zip(together, requests, strict=True):
        assert_same_picture(image, pipe(request))


def test_given_noise_takes_the_place_of_the_seeds(pipe):
    noise = draw_noise([7, 8], (4, 4, 6))
    for sampler in ("dpmpp-2m", "euler-ancestral"):
        given = pipe(["a red cube", "a red cube"], seed=[7, 8], noise=noise, sampler=sampler)
        drawn = pipe(["a red cube", "a red cube"], seed=[7, 8], sampler=sampler)
        for one, other in zip(given, drawn, strict=True):
            assert np.array_equal(values(one), values(other))
    other = pipe("a red cube", seed=7, noise=noise[1:])
    assert_same_picture(other, pipe("a red cube", seed=8))
    assert pipe("a red cube", noise=torch.randn(1, 4, 3, 5)).size == (40, 24)


@pytest.mark.parametrize("changes", [{"guidance": 1.0}, {"guidance": 1.5, "negative": "a ball", "schedule": "karras"}])
def test_a_picture_goes_back_to_its_noise_and_comes_again(pipe, changes):
    picture = pipe("a red cube", seed=7, width=32, height=40)
    noise = pipe.invert(picture, "a [blue:red:0.5] cube", steps=12, rounds=15, **changes)
    assert noise.shape == (1, 4, 5, 4)
    again = pipe("a [blue:red:0.5] cube", noise=noise, sampler="ddim", steps=12, **changes)
    # What the autoencoder makes of the picture: a random one brings nothing back as it was. Corrections of a network
    # that is random too converge slowly: 0.2 to 1.6 is left, and pictures of other noise are 34 away.
    latent = pipe.codec.encode(from_uint8(torch.from_numpy(np.array(picture))[None]))
    assert np.abs(values(again) - values(pipe.decode(latent)[0])).mean() < 4


def test_a_picture_goes_back_as_ddim_comes_whatever_a_model_is_best_drawn_with(pipe):
    own = {"sampler": "dpmpp-2m-sde", "schedule": "karras", "guide": ["interval:1:9"]}
    other = Pipeline(conditioner=pipe.conditioner, denoiser=pipe.denoiser, codec=pipe.codec, defaults=own)
    picture = pipe("a red cube", seed=7, width=32, height=40)
    one, another = (one.invert(picture, "a red cube", steps=6, guidance=2.0) for one in (pipe, other))
    assert torch.equal(one, another)


@pytest.mark.parametrize(
    ("size", "rounds", "changes", "message"),
    [((17, 16), 5, {}, "multiples of 8"), ((16, 16), -1, {}, "rounds"), ((16, 16), 5, {"steps": 0}, "steps")],
)
def test_what_cannot_be_inverted_is_told(pipe, size, rounds, changes, message):
    with pytest.raises(UserError, match=message):
        pipe.invert(Image.new("RGB", size), "a red cube", rounds=rounds, **changes)


def test_a_model_that_reads_more_than_words_is_not_inverted(pipe, monkeypatch):
    monkeypatch.setattr(type(pipe.denoiser.unet.config), "spatial_channels", 5)
    with pytest.raises(UserError, match="only words are inverted"):
        pipe.invert(Image.new("RGB", (16, 16)), "a red cube")


def test_progress_tells_every_step_and_shows_estimates(pipe):
    moves = []
    image = pipe("a red cube", seed=1, steps=3, sampler="euler", progress=moves.append)
    assert [(move.index, move.step, move.steps) for move in moves] == [(0, 1, 3), (0, 2, 3), (0, 3, 3)]
    (preview,) = pipe.decode(moves[-1].estimate)
    assert np.array_equal(values(preview), values(image))


def test_cancelling_one_leaves_the_others(pipe):
    requests = [pipe.request("a red cube", seed=seed) for seed in range(3)]

    def without_the_second(move):
        return not (move.index == 1 and move.step == 2)

    pictures = list(pipe.draw(requests, progress=without_the_second))
    assert [picture.index for picture in pictures] == [0, 2]
    for picture in pictures:
        assert_same_picture(picture.image, pipe(picture.request))
    with pytest.raises(Cancelled):
        pipe(requests, progress=without_the_second)


def test_an_exception_in_progress_stops_the_work(pipe):
    def stop(move):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe("a red cube", progress=stop)


def test_pictures_come_as_they_finish(pipe):
    requests = [pipe.request("a red cube", steps=steps) for steps in (4, 1, 2)]
    assert [picture.index for picture in pipe.draw(requests)] == [1, 2, 0]
    first = next(iter(pipe.draw(requests)))
    assert first.request.steps == 1


def test_the_text_of_a_prompt_is_encoded_once(pipe):
    asked = []

    class Counting:
        tokenizer = pipe.conditioner.tokenizer
        chunks = staticmethod(pipe.conditioner.chunks)

        def __call__(self, prompts):
            asked.append([words.text for words in prompts])
            return pipe.conditioner(prompts)

    counting = Pipeline(conditioner=Counting(), denoiser=pipe.denoiser, codec=pipe.codec, max_rows=4)
    counting(["a red cube"] * 5, seed=1, steps=1)
    assert asked == [["a red cube", ""]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"sampler": "eular"}, "euler"),
        ({"sampler": "euler", "eta": 1.0}, "adds no noise"),
        ({"schedule": "karras+simple"}, "karras"),
        ({"guide": ["pog:3"]}, "pag"),
        ({"guide": ["auto:nothing-here:2"]}, "nothing-here"),
        ({"classify": ["red sphere:3"]}, "no classifier"),
        ({"upscale": "sideways"}, "two-pass"),
        ({"noise": torch.zeros(1, 4, 8, 12), "upscale": "two-pass"}, "starts one walk"),
        ({"steps": 0}, "from 1 to 1000"),
        ({"steps": 1001}, "from 1 to 1000"),
        ({"width": 7}, "from 8 to 4096"),
        ({"guidance": -1.0}, "from 0 to 100"),
        ({"seed": -1}, "seed"),
        ({"seed": [1, 2]}, "2 seeds for 1 pictures"),
        ({"noise": torch.zeros(2, 4, 4, 6)}, "B = 1"),
        ({"noise": torch.zeros(4, 4, 6)}, "B = 1"),
        ({"noise": torch.zeros(1, 3, 4, 6)}, r"\[3, 4, 6\]"),
        ({"noise": torch.zeros(1, 4, 4, 6), "width": 64}, r"needs \[4, 4, 8\]"),
    ],
)
def test_what_cannot_be_drawn_is_told_before_anything_is(pipe, call, message):
    with pytest.raises(UserError, match=message):
        pipe("a red cube", **call)


def test_a_schedule_of_few_timesteps_bounds_the_steps(pipe):
    short = Denoiser(pipe.denoiser.unet, NoiseSchedule(num_train_timesteps=10))
    small = Pipeline(conditioner=pipe.conditioner, denoiser=short, codec=pipe.codec)
    with pytest.raises(UserError, match="from 1 to 10"):
        small("a red cube", steps=11)
    assert small("a red cube", steps=10).info["request"].model == "still-life"


def test_parts_from_disk_make_a_pipeline(tiny_parts):
    pipe = Pipeline.of(tiny_parts)
    assert pipe.request("a red cube") == Request(prompt="a red cube", model="tiny", **tiny_parts.facts.defaults)
    assert Pipeline.of(tiny_parts, name="runs/x")("a red cube", seed=1).info["request"].model == "runs/x"
    assert pipe.size == tiny_parts.facts.sizes[0]


def test_a_models_schedule_noise_and_guides_are_for_its_sampler(pipe):
    """So that `sampler="ddim"` lies where the model was trained and is guided everywhere, as in diffusers."""
    own = {"sampler": "dpmpp-2m-sde", "eta": 0.5, "schedule": "karras", "guide": ["interval:1:9"], "steps": 3}
    other = Pipeline(conditioner=pipe.conditioner, denoiser=pipe.denoiser, codec=pipe.codec, defaults=own)
    asked = [{}, {"sampler": "dpmpp-2m-sde"}, {"sampler": "ddim"}, {"sampler": "ddim", "schedule": "exponential"}]
    requests = [other.request("a cube", **fields) for fields in asked]
    assert [request.schedule for request in requests] == ["karras", "karras", "", "exponential"]
    assert [len(request.guide) for request in requests] == [1, 1, 0, 0]
    assert [request.eta for request in requests] == [0.5, 0.5, None, None]
    assert {request.steps for request in requests} == {3}
    facts = Facts(defaults=own)
    assert requests == [facts.request(prompt="a cube", **fields) for fields in asked]


def test_the_size_is_the_unets_unless_told(pipe):
    other = Pipeline(conditioner=pipe.conditioner, denoiser=pipe.denoiser, codec=pipe.codec)
    assert other.size == (16, 16)


def test_bfloat16_draws_about_the_same_picture(pipe):
    single = values(pipe("a red cube", seed=7))
    try:
        half = values(pipe.to(dtype=torch.bfloat16)("a red cube", seed=7))
    finally:
        pipe.to(dtype=torch.float32)
    assert 0 < np.abs(single - half).mean() < 20


def test_a_long_prompt_is_read_to_its_end(pipe):
    """Ninety tokens, of which the text encoder reads 75 at once."""
    one, other = (pipe(" ".join(["a"] * 75 + words), seed=1, steps=1) for words in (["b"] * 15, ["red"] * 15))
    assert one.tobytes() != other.tobytes()


def test_ddim_leaves_the_noise_that_the_file_tells_it_to_leave(pipe, monkeypatch):
    latents = []
    monkeypatch.setattr(Codec, "decode", lambda _, latent: latents.append(latent) or torch.zeros(1, 3, 32, 48))
    published = Denoiser(pipe.denoiser.unet, replace(pipe.denoiser.schedule, set_alpha_to_one=False))
    other = Pipeline(conditioner=pipe.conditioner, denoiser=published, codec=pipe.codec, size=pipe.size)
    for sampler in ("ddim", "euler"):
        for each in (pipe, other):
            each("a cube", seed=7, steps=3, guidance=1.0, sampler=sampler)
    to_zero, above_zero, euler, same = latents
    # Euler's first sigma is 4096 and leaves 1/4096 of what is clean in the noise; DDIM's is 65536.
    torch.testing.assert_close(to_zero, euler, rtol=0, atol=2.0**-11)
    assert torch.equal(euler, same)
    assert 0.01 < float((above_zero - to_zero).std()) < 0.1  # The sigma of timestep 0 is 0.029.


@pytest.fixture(scope="module")
def sized(tiny_parts):
    """A model that is told the picture's size, as SDXL is."""
    torch.manual_seed(0)
    text = replace(tiny_parts.text_encoder.config, projection_dim=12, with_projection=True)
    unet = replace(
        tiny_parts.unet.config,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
    )
    parts = replace(
        tiny_parts,
        tokenizer_2=tiny_parts.tokenizer,
        text_encoder_2=CLIPTextModel(text).eval(),
        unet=UNet(unet).eval(),
        layer=-2,
        final_norm=False,
    )
    return Pipeline.of(parts)


def test_a_model_is_told_the_size_of_each_picture_however_many_are_drawn_together(sized):
    requests = [
        sized.request("a red cube", seed=seed, width=width, height=height)
        for seed, (width, height) in enumerate([(48, 32), (32, 48), (48, 32), (16, 16)])
    ]
    for image, request in zip(sized(requests), requests, strict=True):
        assert image.size == (request.width, request.height)
        assert_same_picture(image, sized(request))
    one, other = (sized.conditioner([Words("a red cube", size)]).pooled for size in ((48, 32), (32, 48)))
    assert not torch.equal(one, other)
