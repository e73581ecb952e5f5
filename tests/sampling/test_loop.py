"""The one loop, around a denoiser in closed form: what a row is told is the mean of its Gaussian."""

from __future__ import annotations

import math

import pytest
import torch

from mezzotint.denoise.attention import Projected
from mezzotint.noise import draw_noise, generator
from mezzotint.sampling import SAMPLERS, ClassifierFree
from mezzotint.sampling.loop import Loop, Told
from mezzotint.types import Conditioning

WALK = [30.0, 10.0, 3.0, 1.0, 0.3, 0.0]


class Gaussian:
    """E[x0 | x] for x0 in N(mean, 1), the mean being the one token that a row is told; it writes down its calls."""

    def __init__(self):
        self.calls = []
        self.projections = []

    def project(self, conditioning):
        self.projections.append(conditioning)
        return Projected((((conditioning.sequence, -conditioning.sequence),),))

    def __call__(self, x, sigma, conditioning, projected=None):
        self.calls.append((tuple(x.shape), sigma.tolist()))
        k, v = projected.reads[0][0]
        assert torch.equal(k, conditioning.sequence)
        assert torch.equal(v, -conditioning.sequence)
        assert len(x) == len(sigma) == len(k)
        mean, variance = k[:, 0, :, None, None], sigma[:, None, None, None] ** 2
        return (x + variance * mean) / (1 + variance)


def told(mean):
    return Conditioning(sequence=torch.full((1, 1, 1), float(mean)))


EMPTY = told(0)


def picture(seed=0, mean=1.0, scale=2.0, sampler="euler", walk=WALK, size=4, conditioning=None, exact=False):
    x, stream = walk[0] * draw_noise([seed], (4, size, size)), generator(seed + 1000)
    prompt = told(mean) if conditioning is None else conditioning
    return {
        "walk": SAMPLERS[sampler].walk(x, walk, lambda: torch.randn(x.shape, generator=stream)),
        "steps": len(walk) - 1,
        "guidance": ClassifierFree(scale),
        "told": {"cond": Told.of(prompt), "uncond": Told.of(EMPTY)},
        "exact": exact,
    }


def finish(loop):
    return {event.picture: event.latent for event in loop if event.latent is not None}


def alone(**settings):
    loop = Loop(Gaussian())
    loop.add(**picture(**settings))
    (latent,) = finish(loop).values()
    return latent


MIXED = [
    {"seed": 1, "sampler": "euler"},
    {"seed": 2, "sampler": "heun", "mean": -1.0, "walk": [5.0, 2.0, 0.5, 0.0]},
    {"seed": 3, "sampler": "dpmpp-2m", "scale": 1.0, "size": 6},
    {"seed": 4, "sampler": "euler-ancestral", "scale": 5.0},
    {"seed": 5, "sampler": "ddim", "scale": 0.0, "walk": [2.0, 0.0]},
]


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_company_changes_nothing(max_rows):
    loop = Loop(Gaussian(), max_rows=max_rows)
    numbers = [loop.add(**picture(**settings)) for settings in MIXED]
    latents = finish(loop)
    assert len(loop) == 0
    for number, settings in zip(numbers, MIXED, strict=True):
        assert torch.equal(latents[number], alone(**settings))


def test_guidance_of_means_is_a_gaussian_of_the_guided_mean():
    # Estimates are linear in the mean, so guidance by 3 from mean 0 to mean 2 draws the picture of mean 6.
    guided, plain = alone(seed=1, mean=2.0, scale=3.0), alone(seed=1, mean=6.0, scale=1.0)
    torch.testing.assert_close(guided, plain, rtol=1e-5, atol=1e-5)


def test_one_call_per_shape_with_a_sigma_per_row():
    denoise = Gaussian()
    loop = Loop(denoise)
    loop.add(**picture(seed=1, scale=2.0))
    loop.add(**picture(seed=2, scale=1.0, walk=[5.0, 2.0, 0.0]))
    loop.add(**picture(seed=3, scale=1.0, size=6))
    loop.turn()
    assert denoise.calls == [((3, 4, 4, 4), [30.0, 30.0, 5.0]), ((1, 4, 6, 6), [30.0])]


def test_no_call_has_more_rows_than_allowed():
    denoise = Gaussian()
    loop = Loop(denoise, max_rows=4)
    for seed in range(3):
        loop.add(**picture(seed=seed))
    loop.turn()
    assert [shape[0] for shape, _ in denoise.calls] == [4, 2]


def test_pictures_come_between_turns_and_go():
    loop = Loop(Gaussian())
    first, second = loop.add(**picture(seed=1)), loop.add(**picture(seed=2))
    loop.turn()
    third = loop.add(**picture(seed=3, sampler="euler-ancestral"))
    loop.turn()
    loop.cancel(second)
    loop.cancel(second)
    latents = finish(loop)
    assert set(latents) == {first, third}
    assert torch.equal(latents[first], alone(seed=1))
    assert torch.equal(latents[third], alone(seed=3, sampler="euler-ancestral"))
    loop.cancel(first)


def test_a_picture_rests_and_goes_on_and_the_others_do_not_notice():
    loop = Loop(Gaussian())
    first, second = loop.add(**picture(seed=1)), loop.add(**picture(seed=2, sampler="euler-ancestral"))
    loop.turn()
    loop.pause(second)
    latents = finish(loop)
    assert set(latents) == {first}
    assert torch.equal(latents[first], alone(seed=1))
    assert len(loop) == 1
    assert loop.turn() == []
    loop.resume(second)
    assert torch.equal(finish(loop)[second], alone(seed=2, sampler="euler-ancestral"))
    with pytest.raises(KeyError):
        loop.pause(second)


def test_an_exact_picture_shares_no_batch():
    denoise = Gaussian()
    loop = Loop(denoise)
    for seed, exact in ((1, True), (2, False), (3, True), (4, False)):
        loop.add(**picture(seed=seed, exact=exact))
    loop.turn()
    assert [shape[0] for shape, _ in denoise.calls] == [2, 4, 2]
    assert torch.equal(finish(loop)[0], alone(seed=1))


def test_what_a_row_is_told_changes_from_step_to_step():
    asked = []

    class Watching(Gaussian):
        def __call__(self, x, sigma, conditioning, projected=None):
            asked.append(float(conditioning.sequence))
            return super().__call__(x, sigma, conditioning, projected)

    loop = Loop(Watching())
    row = Told(((0, told(1)), (2, told(5)), (3, told(7))))
    loop.add(**picture(scale=1.0) | {"told": {"cond": row}})
    finish(loop)
    assert asked == [1, 1, 5, 7, 7]


def test_a_row_may_have_a_denoiser_of_its_own():
    class Twice(Gaussian):
        def __call__(self, x, sigma, conditioning, projected=None):
            return 2 * super().__call__(x, sigma, conditioning, projected)

    twice, prompt = Twice(), told(3)
    row = {"told": {"cond": Told.of(prompt, twice)}}
    loop = Loop(Gaussian())
    own = loop.add(**picture(seed=1, scale=1.0, conditioning=prompt))
    other = loop.add(**picture(seed=1, scale=1.0) | row)
    latents = finish(loop)
    assert torch.equal(latents[own], alone(seed=1, scale=1.0, mean=3.0))
    assert not torch.equal(latents[own], latents[other])
    assert len(twice.calls) == len(WALK) - 1


def test_text_is_projected_once_per_prompt():
    denoise = Gaussian()
    loop = Loop(denoise)
    prompt = told(3)
    for seed in range(3):
        loop.add(**picture(seed=seed, conditioning=prompt))
    loop.turn()
    late = told(4)
    loop.add(**picture(seed=9, conditioning=late))
    finish(loop)
    assert [id(row) for row in denoise.projections] == [id(EMPTY), id(prompt), id(late)]
    loop.add(**picture(seed=9, conditioning=late))
    loop.turn()
    assert len(denoise.projections) == 5


def test_the_batch_of_text_is_kept_while_its_rows_are_the_same():
    batches = []

    class Watching(Gaussian):
        def __call__(self, x, sigma, conditioning, projected=None):
            batches.append(projected)
            return super().__call__(x, sigma, conditioning, projected)

    loop = Loop(Watching())
    loop.add(**picture(seed=1))
    loop.turn()
    loop.turn()
    loop.add(**picture(seed=2))
    loop.turn()
    assert batches[0] is batches[1]
    assert batches[1] is not batches[2]


@pytest.mark.parametrize(("sampler", "moves"), [("euler", [1, 2, 3]), ("heun", [0, 1, 1, 2, 3])])
def test_events_count_finished_steps(sampler, moves):
    loop = Loop(Gaussian())
    number = loop.add(**picture(sampler=sampler, walk=[4.0, 2.0, 1.0, 0.0]))
    events = list(loop)
    assert [event.step for event in events] == moves
    assert {event.picture for event in events} == {number}
    assert {event.steps for event in events} == {3}
    assert all(event.latent is None for event in events[:-1])
    # The last step goes to sigma 0, where what remains is the estimate.
    assert torch.equal(events[-1].latent, events[-1].estimate)


def test_the_latents_are_samples():
    loop = Loop(Gaussian())
    walk = [*(20 * 0.9**i for i in range(70)), 0.0]
    for seed in range(4):
        loop.add(**picture(seed=seed, mean=2.0, scale=1.0, walk=walk, size=32))
    numbers = torch.cat(list(finish(loop).values()))
    # 16 384 numbers of N(2, 1), and 5% for the steps' error.
    assert float(numbers.mean()) == pytest.approx(2.0, abs=0.1)
    assert float(numbers.std()) == pytest.approx(1.0, abs=0.06)
    assert not math.isnan(float(numbers.sum()))


def test_spatial_and_pooled_conditioning_lie_side_by_side():
    seen = []

    class Watching(Gaussian):
        def __call__(self, x, sigma, conditioning, projected=None):
            seen.append(conditioning)
            return x

    loop = Loop(Watching())
    for seed in (1, 2):
        full = Conditioning(
            sequence=torch.full((1, 1, 1), seed),
            pooled=torch.full((1, 3), seed),
            spatial=torch.full((1, 1, 4, 4), seed),
        )
        loop.add(**picture(seed=seed, scale=1.0, conditioning=full))
    loop.turn()
    assert seen[0].pooled[:, 0].tolist() == [1, 2]
    assert seen[0].spatial[:, 0, 0, 0].tolist() == [1, 2]
