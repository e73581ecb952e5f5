"""Whole trajectories beside those of diffusers' schedulers, with a made-up network that is smooth but not linear."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction, draw_noise, generator, scalings
from mezzotint.sampling import sample
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


def dummy(x, t):
    """The prediction that diffusers' own tests of schedulers use."""
    return x * t / (t + 1)


def ours(name, schedule, noise, walk, start, seed=0, eta=None, network=network):
    """What our sampler asked, and our latent."""
    stream = generator(seed)
    x = start * noise
    sampler = SAMPLERS[name].begin(x, walk, lambda: torch.randn(x.shape, generator=stream), eta, schedule)
    queries, query = [], next(sampler)
    while True:
        queries.append(query)
        c_skip, c_out, c_in = scalings(schedule.prediction_type, query.sigma)
        prediction = network(c_in * query.x.double(), schedule.timestep(query.sigma)).float()
        try:
            query = sampler.send((c_skip * query.x + c_out * prediction).float())
        except StopIteration as end:
            return queries, end.value


def theirs(scheduler, steps, noise, seed=0, start=None, network=network, **extra):
    """Diffusers' latents before every call of the network, as it sees them, and the last one."""
    scheduler.set_timesteps(steps)
    x = noise * (scheduler.init_noise_sigma if start is None else start)
    seen = []
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = generator(seed)
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
    # HeunDiscreteScheduler knows no zero terminal SNR; two steps shrink sigma 1 and more fifty times: Euler's here.
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


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
@pytest.mark.parametrize("schedule", [LINSPACE_V, STABLE_DIFFUSION], ids=["linspace", "leading"])
def test_ddpm(schedule, steps):
    ddpm = diffusers.DDPMScheduler.from_config(schedule.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps)
    mine = ours("ddpm", schedule, noise, walk, math.hypot(1, walk[0]), seed=5)
    # One step of linspace is timestep 0 to them, where there is no noise to begin from.
    if (schedule, steps) != (LINSPACE_V, 1):
        assert_same_walk(mine, theirs(ddpm, steps, noise, seed=5))


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise(eta, steps):
    ddim = diffusers.DDIMScheduler.from_config(STABLE_DIFFUSION.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), STABLE_DIFFUSION.walk(steps)
    mine = ours("ddim", STABLE_DIFFUSION, noise, walk, math.hypot(1, walk[0]), seed=5, eta=eta)
    assert_same_walk(mine, theirs(ddim, steps, noise, seed=5, eta=eta))


@pytest.mark.parametrize("steps", [1, 5, 10, 20])
def test_plms(steps):
    pndm = diffusers.PNDMScheduler.from_config(STABLE_DIFFUSION.to_dict(), skip_prk_steps=True)
    noise, walk = draw_noise([3], (4, 8, 8)), STABLE_DIFFUSION.walk(steps)
    mine = ours("plms", STABLE_DIFFUSION, noise, walk, math.hypot(1, walk[0]))
    assert_same_walk(mine, theirs(pndm, steps, noise))


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_lms(steps):
    lms = diffusers.LMSDiscreteScheduler.from_config(STABLE_DIFFUSION.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), STABLE_DIFFUSION.walk(steps)
    mine = ours("lms", STABLE_DIFFUSION, noise, walk, start_of(lms, walk, steps))
    assert_same_walk(mine, theirs(lms, steps, noise))


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("name", ["dpm2", "dpm2-ancestral"])
def test_dpm2(name, steps):
    classes = {"dpm2": diffusers.KDPM2DiscreteScheduler, "dpm2-ancestral": diffusers.KDPM2AncestralDiscreteScheduler}
    dpm2 = classes[name].from_config(STABLE_DIFFUSION.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), STABLE_DIFFUSION.walk(steps)
    mine = ours(name, STABLE_DIFFUSION, noise, walk, start_of(dpm2, walk, steps), seed=5)
    # Their middles' timesteps are found in tables of fp32, a thousandth of a timestep off.
    assert_same_walk(mine, theirs(dpm2, steps, noise, seed=5), tolerance=1e-4)


@pytest.mark.parametrize("steps", [3, 9, 21])
def test_dpmpp_2s(steps):
    """Theirs takes every second level for the middle; ours makes it, so theirs are even in the logarithm here."""
    config = STABLE_DIFFUSION.to_dict() | {"use_exponential_sigmas": True, "final_sigmas_type": "zero"}
    dpm = diffusers.DPMSolverSinglestepScheduler.from_config(config, solver_order=2)
    dpm.set_timesteps(steps)
    # They round the timesteps of such levels, so the network here shall know none.
    walk = [float(sigma) for sigma in dpm.sigmas[:-1:2]] + [0.0]
    noise = draw_noise([3], (4, 8, 8))
    x, seen = noise.clone(), []
    for t in dpm.timesteps:
        seen.append(x)
        x = dpm.step(network(x.double(), 500.0).float(), t, x).prev_sample
    run = SAMPLERS["dpmpp-2s-ancestral"].begin(math.hypot(1, walk[0]) * noise, walk, lambda: noise, 0.0)
    queries, query = [], next(run)
    while True:
        queries.append(query)
        c_skip, c_out, c_in = scalings(Prediction.EPSILON, query.sigma)
        try:
            query = run.send((c_skip * query.x + c_out * network(c_in * query.x.double(), 500.0)).float())
        except StopIteration as end:
            assert_same_walk((queries, end.value), (seen, x))
            return


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 30])
def test_dpmpp_2m_sde(steps):
    schedule = NoiseSchedule(rescale_betas_zero_snr=False)
    dpm = diffusers.DPMSolverMultistepScheduler.from_config(schedule.to_dict(), algorithm_type="sde-dpmsolver++")
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps)
    mine = ours("dpmpp-2m-sde", schedule, noise, walk, math.hypot(1, walk[0]), seed=5)
    assert_same_walk(mine, theirs(dpm, steps, noise, seed=5))


@pytest.mark.parametrize(("steps", "eta"), [(3, 1.0), (20, 0.0), (30, 0.0)])
def test_dpmpp_3m_sde(steps, eta):
    # With noise only as far as the second order: theirs has the sign of the third difference's 1/2 wrong there
    # (docs/reference/samplers.md). Without noise their formula is another one, and right.
    schedule = NoiseSchedule(rescale_betas_zero_snr=False)
    dpm = diffusers.DPMSolverMultistepScheduler.from_config(
        schedule.to_dict(),
        algorithm_type="sde-dpmsolver++" if eta == 1 else "dpmsolver++",
        solver_order=3,
        solver_type="heun",
    )
    noise, walk = draw_noise([3], (4, 8, 8)), schedule.walk(steps)
    mine = ours("dpmpp-3m-sde", schedule, noise, walk, math.hypot(1, walk[0]), seed=5, eta=eta)
    assert_same_walk(mine, theirs(dpm, steps, noise, seed=5))


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_dpmpp_sde(steps, monkeypatch):
    sde = diffusers.DPMSolverSDEScheduler.from_config(STABLE_DIFFUSION.to_dict())
    noise, walk = draw_noise([3], (4, 8, 8)), STABLE_DIFFUSION.walk(steps)

    class Path:
        """Increments of one Brownian path over a step's two parts, as their tree gives them."""

        def __init__(self):
            self.stream, self.first = generator(5), None

        def __call__(self, sigma, sigma_next):
            drawn = torch.randn(noise.shape, generator=self.stream)
            if self.first is None:
                self.first = float(sigma - sigma_next), drawn
                return drawn
            (done, first), self.first = self.first, None
            part = done / float(sigma - sigma_next)
            return math.sqrt(part) * first + math.sqrt(1 - part) * drawn

    mine = ours("dpmpp-sde", STABLE_DIFFUSION, noise, walk, start_of(sde, walk, steps), seed=5)
    sde.set_timesteps(steps)
    sde.noise_sampler = Path()
    monkeypatch.setattr(sde, "set_timesteps", lambda steps: None)
    # Their middles' timesteps are found in tables of fp32, a thousandth of a timestep off.
    assert_same_walk(mine, theirs(sde, steps, noise), tolerance=1e-4)


@pytest.mark.parametrize("last", ["zero", "sigma_min"])
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 30])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_unipc(zero_snr, steps, last):
    if last == "sigma_min" and steps >= 15:
        pytest.skip(
            "Theirs ends with order 1 whatever the steps, and says that it does below 15; ours does as they say."
        )
    schedule = NoiseSchedule(rescale_betas_zero_snr=zero_snr)
    config = schedule.to_dict() | {"final_sigmas_type": last}
    unipc = diffusers.UniPCMultistepScheduler.from_config(config, solver_order=2)
    noise = draw_noise([3], (4, 8, 8))
    walk = [*schedule.walk(steps)[:-1], 0.0 if last == "zero" else schedule.sigma_min]
    queries, latent = ours("unipc", schedule, noise, walk, math.hypot(1, walk[0]))
    # Where their tensors of weights are 32 bits wide, their differences of exponentials lose digits.
    assert_same_walk((queries, latent / math.hypot(1, walk[-1])), theirs(unipc, steps, noise), tolerance=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 30])
def test_deis(steps):
    schedule = NoiseSchedule(rescale_betas_zero_snr=False)
    deis = diffusers.DEISMultistepScheduler.from_config(schedule.to_dict(), solver_order=2)
    noise, walk = draw_noise([3], (4, 8, 8)), [*schedule.walk(steps)[:-1], schedule.sigma_min]
    queries, latent = ours("deis", schedule, noise, walk, math.hypot(1, walk[0]))
    assert_same_walk((queries, latent / math.hypot(1, walk[-1])), theirs(deis, steps, noise), tolerance=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm(steps):
    lcm = diffusers.LCMScheduler.from_config(STABLE_DIFFUSION.to_dict())
    lcm.set_timesteps(steps)
    noise = draw_noise([3], (4, 8, 8))
    walk = [STABLE_DIFFUSION.sigma(float(t)) for t in lcm.timesteps] + [0.0]
    mine = ours("lcm", STABLE_DIFFUSION, noise, walk, math.hypot(1, walk[0]), seed=5)
    # Theirs mixes a share of x in, 0.25 / ((10 t)^2 + 0.25), at these timesteps a ten-thousandth of a percent.
    assert_same_walk(mine, theirs(lcm, steps, noise, seed=5))


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_tcd(eta, steps):
    tcd = diffusers.TCDScheduler.from_config(STABLE_DIFFUSION.to_dict())
    tcd.set_timesteps(steps)
    noise = draw_noise([3], (4, 8, 8))
    walk = [STABLE_DIFFUSION.sigma(float(t)) for t in [*tcd.timesteps, 0]]
    queries, latent = ours("tcd", STABLE_DIFFUSION, noise, walk, math.hypot(1, walk[0]), seed=5, eta=eta)
    assert_same_walk((queries, latent / math.hypot(1, walk[-1])), theirs(tcd, steps, noise, seed=5, eta=eta))


LINEAR = NoiseSchedule(
    beta_start=1e-4, beta_end=0.02, beta_schedule="linear", rescale_betas_zero_snr=False,
    prediction_type=Prediction.EPSILON, timestep_spacing="leading",
)  # fmt: skip
"""The table that diffusers' own tests of schedulers use."""
PRINTED = [
    # Their class, its settings, our sampler, and the mean magnitude that their test has.
    ("DDIMScheduler", {}, "ddim", 172.0067 / 768),
    ("DPMSolverMultistepScheduler", {"lower_order_final": False}, "dpmpp-2m", 0.3301),
    ("UniPCMultistepScheduler", {}, "unipc", 0.2464),
    ("DEISMultistepScheduler", {}, "deis", 0.23916),
]


@pytest.mark.parametrize(("kind", "settings", "name", "printed"), PRINTED, ids=[row[0] for row in PRINTED])
def test_the_numbers_in_their_own_tests(kind, settings, name, printed):
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    if name not in ("ddim", "deis"):
        settings = settings | {"final_sigmas_type": "sigma_min"}
    scheduler = getattr(diffusers, kind)(**betas, **settings)
    x = (torch.arange(768) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)
    scheduler.set_timesteps(10)
    last = 0.0 if name == "ddim" else LINEAR.sigma_min
    walk = [LINEAR.sigma(float(t)) for t in scheduler.timesteps]
    mine = ours(name, LINEAR, x, [*walk, last], math.hypot(1, walk[0]), network=dummy)
    queries, latent = mine[0], mine[1] / math.hypot(1, last)
    assert_same_walk((queries, latent), theirs(scheduler, 10, x, network=dummy), tolerance=1e-4)
    assert float(latent.abs().mean()) == pytest.approx(printed, abs=1e-4)


KARRAS = {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
ENDS_TWICE = [
    ("DPMSolverMultistepScheduler", KARRAS | {"prediction_type": "v_prediction"}, "dpmpp-2m", 0.2092),
    ("UniPCMultistepScheduler", KARRAS, "unipc", 0.2925),
    ("UniPCMultistepScheduler", KARRAS | {"prediction_type": "v_prediction"}, "unipc", 0.1962),
    ("DEISMultistepScheduler", {"use_karras_sigmas": True}, "deis", 0.2458),
]


@pytest.mark.parametrize(("kind", "settings", "name", "size"), ENDS_TWICE)
def test_a_walk_whose_last_level_is_said_twice(kind, settings, name, size):
    """Karras's sigmas end at the table's least, and so do these schedulers: their last step stays."""
    scheduler = getattr(diffusers, kind)(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **settings)
    x = (torch.arange(768) / 768).reshape(3, 8, 8, 4).permute(3, 0, 1, 2)
    _, last = theirs(scheduler, 10, x, network=dummy)
    sigmas = [float(sigma) for sigma in scheduler.sigmas]
    assert sigmas[-1] == sigmas[-2]
    # They round the timesteps that they tell the network.
    timesteps = dict(zip(sigmas, scheduler.timesteps.tolist(), strict=False))

    def denoise(x, sigma):
        c_skip, c_out, c_in = scalings(Prediction(scheduler.config.prediction_type), float(sigma[0]))
        return c_skip * x + c_out * dummy(c_in * x, timesteps[float(sigma[0].double())])

    latent = sample(denoise, math.hypot(1, sigmas[0]) * x.double(), sigmas, sampler=name) / math.hypot(1, sigmas[-1])
    assert float((latent - last).norm() / last.norm()) < 1e-4
    assert float(latent.abs().mean()) == pytest.approx(size, abs=1e-4)
