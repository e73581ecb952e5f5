"""Inversion: a latent, its noise, and the latent again."""

from __future__ import annotations

import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction, Spacing, draw_noise
from mezzotint.sampling import invert, sample
from mezzotint.sampling.inversion import ascend
from mezzotint.types import UserError

PLAIN = NoiseSchedule(rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON)
WALKS = {
    "zero-snr": NoiseSchedule().walk(50),
    "plain": PLAIN.walk(50),
    "karras": Spacing.parse("karras").walk(NoiseSchedule(), 30),
}


def latents(data, rows=3):
    """What the data are: the flow's ends."""
    return data.flow(20 * draw_noise(range(rows), (100,)).double(), 20.0, 0.0)


@pytest.mark.parametrize("walk", WALKS)
def test_the_latent_comes_back(walk, data):
    x0, sigmas = latents(data), WALKS[walk]
    x = invert(data.denoise, x0, sigmas)
    back = sample(data.denoise, x, sigmas, sampler="ddim")
    # A Gaussian's steps are linear, so two corrections solve them. The mixture's choice between two centres is sharp:
    # five corrections leave 5e-4 of 0.9 at most, and twelve nothing.
    assert float((back - x0).abs().max()) < (1e-12 if data.name == "gaussian" else 1e-3)
    exact = sample(data.denoise, invert(data.denoise, x0, sigmas, rounds=20), sigmas, sampler="ddim")
    torch.testing.assert_close(exact, x0, rtol=0, atol=1e-9)


def test_the_published_inversion_is_right_in_short_steps(data, geometric):
    x0 = latents(data)
    errors = []
    for steps in (100, 400):
        walk = geometric(20.0, 0.01, steps)
        x = invert(data.denoise, x0, walk, rounds=0)
        errors.append(float((x - data.flow(x0, 0.01, 20.0)).abs().mean()))
    # Of first order.
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_the_noise_is_the_flows(data):
    x0, walk = latents(data), PLAIN.walk(500)
    x = invert(data.denoise, x0, walk, rounds=3)
    # What a walk of first order in 500 steps errs by, of 14.6.
    assert float((x - data.flow(x0, 0.0, walk[0])).abs().max()) < 0.6


def test_fp32_and_rows(data):
    x0, sigmas = latents(data).float(), WALKS["zero-snr"]
    x = invert(data.denoise, x0, sigmas, rounds=20)
    assert x.dtype == torch.float32
    # Rounding, which the inversion's slopes magnify a few dozen times.
    torch.testing.assert_close(sample(data.denoise, x, sigmas, sampler="ddim"), x0, rtol=0, atol=1e-5)
    alone = invert(data.denoise, x0[1:2], sigmas)
    torch.testing.assert_close(invert(data.denoise, x0, sigmas)[1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigmas", [[3.0, 1.0, 0.0], [2.0, 0.0], [5.0, 2.0, 0.5], [1.0]])
@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_queries_are_numbered_as_the_walk_is(sigmas, rounds, gaussian):
    x = torch.ones(2, 3)
    seen, answer, walk = [], None, ascend(x, sigmas, rounds=rounds)
    while True:
        try:
            query = walk.send(answer)
        except StopIteration:
            break
        seen.append((query.step, query.sigma, query.remaining))
        answer = gaussian.denoise(query.x, torch.full((2,), query.sigma))
    assert [step for step, _, _ in seen] == sorted((step for step, _, _ in seen), reverse=True)
    for step, sigma, remaining in seen:
        assert sigma in (sigmas[step], sigmas[step + 1])
        assert remaining == sigmas[step + 1] / sigmas[step]
    evaluations = sum(max(rounds, 1) if below == 0 else 1 + rounds for below in sigmas[1:])
    assert len(seen) == evaluations


def test_bad_sigmas_and_rounds_are_the_users_error(gaussian):
    with pytest.raises(UserError, match="descend"):
        invert(gaussian.denoise, torch.zeros(1), [0.0, 1.0])
    with pytest.raises(UserError, match="rounds"):
        invert(gaussian.denoise, torch.zeros(1), [1.0, 0.0], rounds=-1)
