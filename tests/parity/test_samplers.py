"""Whole trajectories beside those of diffusers' schedulers, with a made-up network that is smooth but not linear."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction, draw_noise, generator, scalings
from mezzotint.sampling.samplers import SAMPLERS

diffusers = pytest.importorskip("diffusers")

ZERO_SNR = NoiseSchedule()
STABLE_DIFFUSION = NoiseSchedule(
    rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON, timestep_spacing="leading"
)
LINSPACE_V = NoiseSchedule(rescale_betas_zero_snr=False, timestep_spacing="linspace")

# Theirs is fp32 from the betas on, products of 1000 factors; ours is fp64 up to the picture's arithmetic. 2e-6 is seen.
CLOSE = 1e-5

# Their x + slope * step loses digits at sigma 4096, where fp32 resolves 2.4e-4; ours does not (tests/sampling).
LOST_DIGITS = 5e-4


def network(x, t):
    """A prediction [B ...] of unit size for the scaled latent x at timestep t."""
    return torch.sin(1.5 * x + t / 400) - 0.2 * x


def ours(name, schedule, noise, walk, start, seed=0):
    """Our latents after every step, in the variance-preserving form."""
    stream = generator(seed)
    x = start * noise
    sampler = SAMPLERS[name].walk(x, walk, lambda: torch.randn(x.shape, generator=stream))
    queries, query = [], next(sampler)
    while True:
        queries.append(query)
        c_skip, c_out, c_in = scalings(schedule.prediction_type, query.sigma)
        prediction = network(c_in * query.x.double(), schedule.timestep(query.sigma)).float()
        try:
            query = sampler.send((c_skip * query.x + c_out * prediction).float())
        except StopIteration as end:
            return queries, end.value


def theirs(scheduler, steps, noise, seed=0, **extra):
    """Diffusers' latents before every call of the network, as it sees them, and the last one."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    seen = []
    stream = generator(seed)
    if isinstance(scheduler, diffusers.EulerAncestralDiscreteScheduler):
        extra["generator"] = stream
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        seen.append(scaled)
        x = scheduler.step(network(scaled.double(), float(t)).float(), t, x, **extra).prev_sample
    return seen, x


def assert_same_walk(mine, their, tolerance=CLOSE):
    """The network was shown the same latents, and the same latent came out, relative to its deviation."""
    queries, latent = mine
    seen, last = their
    assert len(queries) == len(seen)
    for query, theirs_seen in zip(queries, seen, strict=True):
        scaled = query.x / math.hypot(1, query.sigma)
        assert float((scaled - theirs_seen).norm() / theirs_seen.norm()) < tolerance
    assert float((latent - last).norm() / last.norm()) < tolerance


def start_of(scheduler, walk, steps):
    """The deviation that diffusers' Euler kin start from; DDIM and DPM-Solver++ start at one, variance preserving."""
    scheduler.set_timesteps(steps)
    initial = float(scheduler.init_noise_sigma)
    return initial if initial > 1 else math.hypot(1, walk[0])


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("schedule", [ZERO_SNR, STABLE_DIFFUSION], ids=["zero-snr", "leading"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_ddim(name, schedule, steps):
    ddim = diffusers.DDIMScheduler.from_config(schedule.to_dict())
    noise = draw_noise([3], (4, 8, 8))
    walk = schedule.walk(steps, ddim=name == "ddim")
    mine = ours(name, schedule, noise, walk, math.hypot(1, walk[0]))
    if schedule is ZERO_SNR:
        # Theirs has no cap: at alpha bar 0 it takes x for epsilon, where ours is x less x0 / sigma, 65536 or 4096.
        assert_same_walk(mine, theirs(ddim, steps, noise), tolerance=3e-5 if name == "ddim" else 5e-4)
        ddim.alphas_cumprod[-1] = 1 / (1 + walk[0] ** 2)
    assert_same_walk(mine, theirs(ddim, steps, noise))


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_ddim_as_stable_diffusion_was_published(steps, offset):
    """It ends at the sigma of timestep 0, and the decoder is given what is left of the noise."""
    schedule = dataclasses.replace(STABLE_DIFFUSION, set_alpha_to_one=False, steps_offset=offset)
    ddim = diffusers.DDIMScheduler.from_config(schedule.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps, ddim=True)
    queries, latent = ours("ddim", schedule, noise, walk, math.hypot(1, walk[0]))
    assert_same_walk((queries, latent / math.hypot(1, walk[-1])), theirs(ddim, steps, noise))


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 30])
@pytest.mark.parametrize("schedule", [ZERO_SNR, STABLE_DIFFUSION], ids=["zero-snr", "leading"])
def test_euler(schedule, steps):
    euler = diffusers.EulerDiscreteScheduler.from_config(schedule.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps)
    mine = ours("euler", schedule, noise, walk, start_of(euler, walk, steps))
    assert_same_walk(mine, theirs(euler, steps, noise), LOST_DIGITS if schedule is ZERO_SNR else CLOSE)


@pytest.mark.parametrize("steps", [5, 20, 30])
@pytest.mark.parametrize("schedule", [STABLE_DIFFUSION, LINSPACE_V], ids=["leading", "linspace"])
def test_heun(schedule, steps):
    # HeunDiscreteScheduler knows no zero terminal SNR; its two steps shrink sigma 50 times, which is Euler's here.
    heun = diffusers.HeunDiscreteScheduler.from_config(schedule.to_dict())
    heun.set_timesteps(steps)
    walk = schedule.walk(steps)
    if schedule is LINSPACE_V:
        # It keeps fractions of timesteps under linspace, so the sigmas are its own.
        walk = [float(heun.sigmas[0]), *(float(sigma) for sigma in heun.sigmas[1::2])]
    noise = draw_noise([3], (4, 8, 8))
    mine = ours("heun", schedule, noise, walk, start_of(heun, walk, steps))
    assert_same_walk(mine, theirs(heun, steps, noise))


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 30])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_dpmpp_2m(steps, zero_snr):
    # Trailing only: DPMSolverMultistepScheduler spaces the other two for one step more than asked.
    schedule = NoiseSchedule(rescale_betas_zero_snr=zero_snr)
    dpm = diffusers.DPMSolverMultistepScheduler.from_config(schedule.to_dict(), algorithm_type="dpmsolver++")
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps)
    mine = ours("dpmpp-2m", schedule, noise, walk, math.hypot(1, walk[0]))
    assert_same_walk(mine, theirs(dpm, steps, noise))


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("schedule", [ZERO_SNR, STABLE_DIFFUSION], ids=["zero-snr", "leading"])
def test_euler_ancestral(schedule, steps):
    ancestral = diffusers.EulerAncestralDiscreteScheduler.from_config(schedule.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps)
    mine = ours("euler-ancestral", schedule, noise, walk, start_of(ancestral, walk, steps), seed=5)
    assert_same_walk(mine, theirs(ancestral, steps, noise, seed=5), LOST_DIGITS if schedule is ZERO_SNR else CLOSE)
