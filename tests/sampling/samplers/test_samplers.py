"""Samplers on data whose exact denoiser and exact walk are known."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction, Spacing, draw_noise
from mezzotint.sampling import SAMPLERS, sample, sampler_named
from mezzotint.types import UserError

NOISY = [name for name, sampler in SAMPLERS.items() if sampler.eta is not None]
STILL = [name for name in SAMPLERS if name not in NOISY]
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.stochastic]


def still(name):
    """What takes all noise out of a sampler."""
    return None if name in STILL else 0.0


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_error_falls_with_the_order(name, data, geometric):
    # A short range in many steps, where the steps of lower order that lms begins with already tell. In a long range
    # they tell later, and it looks better than it is.
    x = 3 * draw_noise([0], (200,)).double()
    exact = data.flow(x, 3.0, 0.1)
    errors = []
    for steps in (128, 256):
        walk = geometric(3.0, 0.1, steps)
        errors.append(float((sample(data.denoise, x, walk, sampler=name, eta=still(name)) - exact).abs().mean()))
    # Third order has 1e-9 left here, which 200 numbers from 60 halvings and sums in float64 resolve a hundred times.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(SAMPLERS[name].order, abs=0.15)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("lms", "dpmpp-3m-sde")])
def test_the_order_is_that_of_a_whole_walk_too(name, data, geometric):
    x = 80 * draw_noise([0], (100,)).double()
    exact = data.flow(x, 80.0, 0.01)
    errors = []
    for steps in (64, 128):
        walk = geometric(80.0, 0.01, steps)
        errors.append(float((sample(data.denoise, x, walk, sampler=name, eta=still(name)) - exact).abs().mean()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(SAMPLERS[name].order, abs=0.2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_many_steps_of_the_default_schedule_reach_the_latent(name, gaussian):
    schedule = NoiseSchedule()
    x = schedule.sigma_max * draw_noise([0], (100,))
    latent = sample(gaussian.denoise, x, schedule.walk(300), sampler=name, eta=still(name))
    # A walk of first order in 300 steps comes within 0.025.
    assert float((latent - gaussian.flow(x.double(), schedule.sigma_max, 0.0)).abs().max()) < 0.03


COUNT = 20_000
WALK = Spacing.parse("karras").walk(NoiseSchedule(rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON), 80)


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name not in ("lcm", "tcd")])
def test_noise_leaves_the_mean_and_the_variance_right(name, data):
    x = math.hypot(1, WALK[0]) * draw_noise([1], (COUNT,))
    latent = sample(data.denoise, x, WALK, sampler=name, seed=1).double()
    # Four deviations of the mean of so many numbers, and of their variance (normal numbers have the widest here), and
    # what 80 steps leave: of 100 000 numbers' variance 8% where the noise is of first order, else at most 1.1%.
    left = 0.085 if name in ("ddpm", "euler-ancestral") else 0.011
    assert float(latent.mean()) == pytest.approx(data.mean, abs=4 * math.sqrt(data.variance / COUNT))
    assert float(latent.var()) == pytest.approx(data.variance, rel=4 * math.sqrt(2 / COUNT) + left)


@pytest.mark.parametrize("name", ["lcm", "tcd"])
def test_a_consistency_function_needs_few_steps(name, data):
    """These two are for networks that tell where the flow ends, not what the mean is; then any walk is right."""
    walk = [14.6, 3.0, 0.8, 0.3, 0.0]
    x = math.hypot(walk[0], 0.7) * draw_noise([1], (COUNT,)).double()

    def end(x, sigma):
        return data.flow(x, float(sigma[0]), 0.0)

    latent = sample(end, x, walk, sampler=name, seed=1, eta=1.0)
    # Four deviations, and of tcd what stays of the noise of every step, 0.03 at timestep 0: it goes the data's way, and
    # widens their deviation of 0.4 or 0.5 by a twentieth.
    left = 0.11 if name == "tcd" else 0.0
    assert float(latent.mean()) == pytest.approx(data.mean, abs=4 * math.sqrt(data.variance / COUNT))
    assert float(latent.var()) == pytest.approx(data.variance, rel=4 * math.sqrt(2 / COUNT) + left)


def test_ancestral_noise_has_the_mean_and_variance_of_its_recursion(gaussian, geometric):
    walk = [*geometric(40.0, 0.02, 240), 0.0]
    x = walk[0] * draw_noise([1], (COUNT,))
    mean, variance = 0.0, walk[0] ** 2
    for sigma, after in pairwise(walk):
        # x' = shrink * x + (1 - shrink) * D(x) + up * n, and D is keep * x + (1 - keep) * the data's mean.
        shrink, keep = (after / sigma) ** 2, gaussian.width**2 / (gaussian.width**2 + sigma**2)
        factor = shrink + (1 - shrink) * keep
        mean = factor * mean + (1 - factor) * gaussian.mean
        variance = factor**2 * variance + after**2 * (1 - shrink)
    latent = sample(gaussian.denoise, x, walk, sampler="euler-ancestral", seed=1)
    # Three deviations of the mean (0.0106) and of the relative variance (0.03) of 20 000 numbers.
    assert float(latent.mean()) == pytest.approx(mean, abs=0.0106)
    assert float(latent.var()) == pytest.approx(variance, rel=0.03)
    # The walk of 240 steps itself is 3% short of the latent's variance; it would be exact in ever smaller steps.
    assert mean == pytest.approx(gaussian.mean, abs=1e-3)
    assert variance == pytest.approx(gaussian.variance, rel=0.04)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_from_sigma_4096_lose_no_precision_in_fp32(name, steps, gaussian):
    schedule = NoiseSchedule()
    noise = draw_noise([4, 5], (4, 8, 8))
    walk = schedule.walk(steps)
    single = sample(gaussian.denoise, (walk[0] * noise.double()).float(), walk, sampler=name, seed=4)
    double = sample(gaussian.denoise, walk[0] * noise.double(), walk, sampler=name, seed=4)
    assert single.dtype == torch.float32
    # Not 2.4e-4, which is what fp32 resolves at 4096.
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-6)
    if steps == 1:
        start = walk[0] * noise.double()
        torch.testing.assert_close(double, gaussian.denoise(start, torch.full((2,), walk[0])))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("text", ["trailing", "karras", "ays", "beta"])
def test_a_latent_of_the_right_size_comes_out_of_few_steps(name, text, gaussian):
    for steps in (5, 20):
        walk = Spacing.parse(text).walk(NoiseSchedule(), steps)
        latent = sample(gaussian.denoise, walk[0] * draw_noise([0], (4, 16, 16)), walk, sampler=name)
        assert 0.01 < float(latent.std()) < 1.2


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 2, 2, 2)])
def test_dtype_and_shape_are_kept(name, dtype, shape, gaussian):
    x = (4096 * draw_noise(range(shape[0]), shape[1:])).to(dtype)
    latent = sample(gaussian.denoise, x, NoiseSchedule().walk(5), sampler=name)
    assert latent.shape == shape
    assert latent.dtype == dtype
    assert bool(latent.isfinite().all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_estimate_is_asked_as_often_as_the_table_says(name, gaussian):
    walk = [8.0, 4.0, 2.0, 1.0, 0.0]
    noise = draw_noise([0], (4,))
    queries, query = [], next(run := SAMPLERS[name].begin(8 * noise, walk, lambda: noise))
    while True:
        queries.append(query)
        try:
            query = run.send(gaussian.denoise(query.x, torch.full((4,), query.sigma)))
        except StopIteration:
            break
    more = 1 if name == "plms" else 0
    assert len(queries) == 4 + 3 * (SAMPLERS[name].evaluations - 1) + more
    steps = [query.step for query in queries]
    assert steps == sorted(steps)
    assert set(steps) == {0, 1, 2, 3}
    for query in queries:
        assert 0 < query.sigma <= 8
        # Every step halves sigma.
        assert query.remaining == (0 if query.step == 3 else 0.5)


@pytest.mark.parametrize("name", ["heun", "dpm2", "plms"])
def test_a_step_away_from_a_terminal_sigma_is_eulers(name, gaussian):
    walk = NoiseSchedule().walk(5)[:2]
    x = walk[0] * draw_noise([0], (10,))
    expected = sample(gaussian.denoise, x, walk, sampler="euler")
    assert torch.equal(sample(gaussian.denoise, x, walk, sampler=name), expected)


SAME = [
    ("ddim", None, "euler", None),
    ("ddim", 1.0, "ddpm", None),
    ("ddim", 0.5, "euler-ancestral", 0.5),
    ("lcm", 0.0, "euler", None),
    ("tcd", 0.0, "euler", None),
    ("tcd", 1.0, "lcm", 1.0),
    ("dpm2-ancestral", 0.0, "dpm2", None),
    ("dpmpp-sde", 0.0, "dpmpp-2s-ancestral", 0.0),
    ("dpmpp-2m-sde", 0.0, "dpmpp-2m", None),
    ("restart", 0.0, "heun", None),
]


@pytest.mark.parametrize(("name", "eta", "other", "other_eta"), SAME)
def test_samplers_that_are_one_another(name, eta, other, other_eta, gaussian):
    walk = NoiseSchedule().walk(7)
    # With gamma 1 tcd goes down to the level of timestep 0, not to 0: 0.03 of noise.
    close = 0.1 if (name, eta) == ("tcd", 1.0) else 1e-12
    x = walk[0] * draw_noise([0], (4, 8, 8)).double()
    one = sample(gaussian.denoise, x, walk, sampler=name, eta=eta)
    torch.testing.assert_close(one, sample(gaussian.denoise, x, walk, sampler=other, eta=other_eta), rtol=0, atol=close)


def test_more_eta_is_more_noise(gaussian):
    walk = NoiseSchedule().walk(10)[:4]
    x = walk[0] * draw_noise([0], (2000,))
    for name in NOISY:
        if name == "restart":  # None of these levels is within its interval.
            continue
        without = sample(gaussian.denoise, x, walk, sampler=name, eta=0.0)
        moved = [sample(gaussian.denoise, x, walk, sampler=name, eta=eta) - without for eta in (0.2, 0.6, 1.0)]
        assert 0 < float(moved[0].std()) < float(moved[1].std()) < float(moved[2].std()), name


def test_a_restart_goes_up_and_down_within_a_step(gaussian):
    walk = [14.6, 6.0, 2.1, 1.0, 0.4, 0.11, 0.03, 0.0]
    noise = draw_noise([0], (1, 50))
    seen, query = [], next(run := SAMPLERS["restart"].begin(walk[0] * noise, walk, lambda: noise))
    while True:
        seen.append((query.step, query.sigma))
        try:
            query = run.send(gaussian.denoise(query.x, torch.full((1,), query.sigma)))
        except StopIteration:
            break
    assert [sigma for step, sigma in seen if step == 4] == pytest.approx([0.4, 0.11, 2.1, 1.0, 1.0, 0.4, 0.4, 0.11])


@pytest.mark.parametrize("walk", [[0.9, 0.5, 0.1, 0.0], [9.0, 3.0, 1.5], [4.0, 0.0], [4.0, 0.5, 0.0], [3.0], [0.0]])
def test_a_walk_beside_the_interval_has_no_restart(walk, gaussian):
    x = walk[0] * draw_noise([0], (20,))
    expected = sample(gaussian.denoise, x, walk, sampler="heun")
    assert torch.equal(sample(gaussian.denoise, x, walk, sampler="restart"), expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_depends_on_its_seed_alone(name, gaussian):
    walk = NoiseSchedule().walk(4)
    x = walk[0] * draw_noise([7, 8, 9], (4, 4))
    together = sample(gaussian.denoise, x, walk, sampler=name, seed=7)
    alone = sample(gaussian.denoise, x[1:2], walk, sampler=name, seed=8)
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)
    assert torch.equal(together, sample(gaussian.denoise, x, walk, sampler=name, seed=[7, 8, 9]))


@pytest.mark.parametrize("name", NOISY)
def test_noise_on_the_way_is_not_the_noise_that_the_walk_began_with(name, gaussian):
    walk = [2.5, 2.0, 1.0, 0.5, 0.1]
    noise = draw_noise([3], (5000,))
    eta = 0.3 if name == "er-sde" else 0.9
    # The data's walk is linear in its start and in what noise it meets: that noise alone, from a start of nothing.
    zero = torch.zeros(1, 5000)
    fresh, without = (sample(gaussian.denoise, zero, walk, sampler=name, seed=3, eta=share) for share in (eta, 0.0))
    added = fresh - without
    assert float(added.std()) > 0.01
    assert abs(float((added * noise).mean() / added.std())) < 0.05


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("repeated", [0, 2, 16])
def test_where_a_level_is_repeated_the_walk_stays(name, repeated, gaussian, geometric):
    # As where Karras's sigmas end at the schedule's least, which is their last already.
    walk = geometric(8.0, 0.1, 16)
    longer = sorted([*walk, walk[repeated]], reverse=True)
    x = 8 * draw_noise([0], (40,)).double()
    one, other = (sample(gaussian.denoise, x, each, sampler=name, eta=still(name)) for each in (walk, longer))
    # unipc corrects once more what it stays at, and the last step otherwise not at all.
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3 if name == "unipc" else 1e-12)


@pytest.mark.parametrize("name", NOISY)
def test_where_a_level_is_repeated_noise_fails_nothing(name, gaussian):
    latent = sample(gaussian.denoise, 8 * draw_noise([0], (40,)), [8, 8, 4, 2, 2, 1, 0.5, 0.1, 0.1], sampler=name)
    assert 0 < float(latent.std()) < 2


@pytest.mark.parametrize("sigmas", [[], [1.0, 2.0], [1.0, 0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_sigmas_must_descend(sigmas, gaussian):
    with pytest.raises(UserError, match="descend"):
        sample(gaussian.denoise, torch.zeros(1), sigmas)


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.zeros(0, 4)])
def test_there_must_be_rows(x, gaussian):
    with pytest.raises(UserError, match=r"\[B \.\.\.\] with B of 1 or more"):
        sample(gaussian.denoise, x, [1.0, 0.0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_denoiser_may_answer_in_another_dtype(name, gaussian):
    x = (5 * draw_noise([0], (4,))).bfloat16()
    latent = sample(lambda x, sigma: gaussian.denoise(x.double(), sigma), x, [5.0, 1.0, 0.3, 0.0], sampler=name)
    assert latent.dtype == torch.bfloat16


def test_seeds_may_be_numbers_of_any_kind(gaussian):
    x, walk = 5 * draw_noise([0, 1], (4,)), [5.0, 1.0, 0.0]
    expected = sample(gaussian.denoise, x, walk, sampler="ddpm", seed=3)
    for seed in (np.int64(3), np.array([3, 4]), torch.tensor([3, 4])):
        assert torch.equal(sample(gaussian.denoise, x, walk, sampler="ddpm", seed=seed), expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_largest_sigmas_overflow_nothing(name, gaussian):
    x = 1e20 * draw_noise([0], (4,)).double()
    assert bool(sample(gaussian.denoise, x, [1e20, 1e10, 10.0, 1.0, 0.0], sampler=name).isfinite().all())


def test_wrong_names_seeds_and_shares_are_the_users_error(gaussian):
    with pytest.raises(UserError, match="ddpm, ddim, plms, euler, "):
        sampler_named("dpm")
    with pytest.raises(UserError, match="2 seeds for 1 rows"):
        sample(gaussian.denoise, torch.zeros(1), [1.0, 0.0], seed=[1, 2])
    for name in STILL:
        with pytest.raises(UserError, match=f"{name} adds no noise"):
            sample(gaussian.denoise, torch.zeros(1), [1.0, 0.0], sampler=name, eta=1.0)
    for name, eta in (("lcm", 1.1), ("tcd", -0.1), ("ddim", -1.0), ("ddpm", math.inf), ("er-sde", math.nan)):
        with pytest.raises(UserError, match="must be"):
            sample(gaussian.denoise, torch.zeros(1), [1.0, 0.0], sampler=name, eta=eta)


def test_every_name_of_the_issue_is_there():
    assert list(SAMPLERS) == [
        *("ddpm", "ddim", "plms", "euler", "euler-ancestral", "heun", "lms", "dpm2", "dpm2-ancestral"),
        *("dpmpp-2s-ancestral", "dpmpp-2m", "dpmpp-sde", "dpmpp-2m-sde", "dpmpp-3m-sde", "unipc", "deis"),
        *("restart", "er-sde", "lcm", "tcd"),
    ]


def test_the_names_cost_no_torch():
    code = "import sys, mezzotint; assert mezzotint.sampling.SAMPLERS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
