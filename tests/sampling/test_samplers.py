"""Samplers on Gaussians, whose exact denoiser and exact walk are known."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from mezzotint.noise import NoiseSchedule, draw_noise
from mezzotint.sampling import SAMPLERS, sample, sampler_named
from mezzotint.types import UserError

MEAN, DEVIATION = 0.3, 0.5
DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if not sampler.stochastic]


def denoise(x, sigma):
    """E[x0 | x] where x0 is N(MEAN, DEVIATION^2), each number by itself, in x's dtype."""
    sigma = sigma.reshape(-1, *(1,) * (x.ndim - 1)).double()
    return ((DEVIATION**2 * x.double() + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)).to(x.dtype)


def exact(x, sigma, sigma_next):
    """Where the probability flow takes x: its place among the deviations is kept."""
    return MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + sigma_next**2) / (DEVIATION**2 + sigma**2))


def geometric(first, last, steps):
    return [first * (last / first) ** (i / steps) for i in range(steps + 1)]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_error_falls_with_the_order(name):
    x = 10 * draw_noise([0], (500,)).double()
    errors = []
    for steps in (32, 64, 128):
        walk = geometric(10.0, 0.05, steps)
        errors.append(float((sample(denoise, x, walk, sampler=name) - exact(x, walk[0], walk[-1])).abs().mean()))
    slope = math.log2(errors[0] / errors[2]) / 2
    assert slope == pytest.approx(SAMPLERS[name].order, abs=0.1)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_many_steps_of_the_default_schedule_reach_the_latent(name):
    schedule = NoiseSchedule()
    x = schedule.sigma_max * draw_noise([0], (500,))
    latent = sample(denoise, x, schedule.walk(500), sampler=name)
    assert float((latent - exact(x, schedule.sigma_max, 0.0)).abs().max()) < 0.02


def test_ancestral_noise_has_the_mean_and_variance_of_its_recursion_and_of_the_latent():
    walk = [*geometric(40.0, 0.02, 240), 0.0]
    count = 40_000
    x = walk[0] * draw_noise([1], (count,))
    mean, variance = 0.0, walk[0] ** 2
    for sigma, after in pairwise(walk):
        # x' = shrink * x + (1 - shrink) * D(x) + up * n, and D is keep * x + (1 - keep) * MEAN.
        shrink, keep = (after / sigma) ** 2, DEVIATION**2 / (DEVIATION**2 + sigma**2)
        factor = shrink + (1 - shrink) * keep
        mean = factor * mean + (1 - factor) * MEAN
        variance = factor**2 * variance + after**2 * (1 - shrink)
    latent = sample(denoise, x, walk, sampler="euler-ancestral", seed=1)
    # Three deviations of the mean (0.0075) and of the relative variance (0.021) of 40 000 numbers.
    assert float(latent.mean()) == pytest.approx(mean, abs=0.0075)
    assert float(latent.var()) == pytest.approx(variance, rel=0.021)
    # The walk of 240 steps itself is 3% short of the latent's variance; it would be exact in ever smaller steps.
    assert mean == pytest.approx(MEAN, abs=1e-3)
    assert variance == pytest.approx(DEVIATION**2, rel=0.04)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_from_sigma_4096_lose_no_precision_in_fp32(name, steps):
    schedule = NoiseSchedule()
    noise = draw_noise([4, 5], (4, 8, 8))
    walk = schedule.walk(steps)
    single = sample(denoise, (walk[0] * noise.double()).float(), walk, sampler=name, seed=4)
    double = sample(denoise, walk[0] * noise.double(), walk, sampler=name, seed=4)
    assert single.dtype == torch.float32
    # Not 2.4e-4, which is what fp32 resolves at 4096.
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-6)
    if steps == 1:
        start = walk[0] * noise.double()
        torch.testing.assert_close(double, denoise(start, torch.full((2,), walk[0])))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_latent_of_the_right_size_comes_out_of_few_steps(name):
    schedule = NoiseSchedule()
    for steps in (2, 5, 20):
        walk = schedule.walk(steps)
        latent = sample(denoise, walk[0] * draw_noise([0], (4, 16, 16)), walk, sampler=name)
        assert 0.05 < float(latent.std()) < 0.7


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 2, 2, 2)])
def test_dtype_and_shape_are_kept(name, dtype, shape):
    x = (4096 * draw_noise(range(shape[0]), shape[1:])).to(dtype)
    latent = sample(denoise, x, NoiseSchedule().walk(5), sampler=name)
    assert latent.shape == shape
    assert latent.dtype == dtype
    assert bool(latent.isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_estimate_is_asked_as_often_as_the_table_says(name):
    asked = []

    def counting(x, sigma):
        asked.append(float(sigma[0]))
        return denoise(x, sigma)

    walk = [8.0, 4.0, 2.0, 1.0, 0.0]
    sample(counting, 8 * draw_noise([0], (4,)), walk, sampler=name)
    extra = SAMPLERS[name].evaluations - 1
    assert len(asked) == 4 + 3 * extra
    assert set(asked) == set(walk[:-1])


def test_heun_takes_eulers_step_from_a_terminal_sigma():
    walk = NoiseSchedule().walk(5)[:2]
    x = walk[0] * draw_noise([0], (10,))
    assert torch.equal(sample(denoise, x, walk, sampler="heun"), sample(denoise, x, walk, sampler="euler"))


def test_ddim_is_euler():
    walk = NoiseSchedule().walk(7)
    x = walk[0] * draw_noise([0], (4, 8, 8)).double()
    ddim, euler = (sample(denoise, x, walk, sampler=name) for name in ("ddim", "euler"))
    torch.testing.assert_close(ddim, euler, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_depends_on_its_seed_alone(name):
    walk = NoiseSchedule().walk(4)
    x = walk[0] * draw_noise([7, 8, 9], (4, 4))
    together = sample(denoise, x, walk, sampler=name, seed=7)
    alone = sample(denoise, x[1:2], walk, sampler=name, seed=8)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)
    assert torch.equal(together, sample(denoise, x, walk, sampler=name, seed=[7, 8, 9]))


def test_ancestral_noise_is_not_the_noise_that_the_walk_began_with():
    walk = [10.0, 9.0]
    noise = draw_noise([3], (5000,))
    x = sample(denoise, 10.0 * noise, walk, sampler="euler-ancestral", seed=3)
    without = sample(denoise, 10.0 * noise, [10.0, 9.0**2 / 10.0], sampler="euler")
    fresh = x - without
    assert abs(float((fresh * noise).mean() / fresh.std())) < 0.05


@pytest.mark.parametrize("sigmas", [[], [1.0, 2.0], [1.0, 1.0], [1.0, -1.0]])
def test_sigmas_must_descend(sigmas):
    with pytest.raises(UserError, match="descend"):
        sample(denoise, torch.zeros(1), sigmas)


def test_wrong_names_and_seeds_are_the_users_error():
    with pytest.raises(UserError, match="euler, heun, ddim, dpmpp-2m, euler-ancestral"):
        sampler_named("plms")
    with pytest.raises(UserError, match="2 seeds for 1 rows"):
        sample(denoise, torch.zeros(1), [1.0, 0.0], seed=[1, 2])


def test_the_names_cost_no_torch():
    code = "import sys; from mezzotint.sampling import SAMPLERS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
