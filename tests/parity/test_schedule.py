"""The schedule's tables and spacing beside those of diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction, Spacing
from mezzotint.noise.spacing import AYS

diffusers = pytest.importorskip("diffusers")

SHAPES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
SPACINGS = ["leading", "linspace", "trailing"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables(shape, zero_snr):
    ours = NoiseSchedule(beta_schedule=shape, rescale_betas_zero_snr=zero_snr)
    # Theirs are products of 1000 factors in fp32, each with an error of 6e-8; the rescaling subtracts nearly equal
    # roots at the end of the table, so the tolerance is on the root of alpha bar, which is what multiplies a picture.
    ddim = diffusers.DDIMScheduler.from_config(ours.to_dict())
    roots = ours.alphas_cumprod[:-1].sqrt()
    torch.testing.assert_close(ddim.alphas_cumprod[:-1].sqrt().double(), roots, rtol=1e-5, atol=2e-5)
    euler = diffusers.EulerDiscreteScheduler.from_config(ours.to_dict())
    sigmas = euler.sigmas.flip(0)[1:].double()
    torch.testing.assert_close(torch.atan(sigmas), torch.atan(ours.sigmas), rtol=1e-5, atol=2e-5)
    if zero_snr:
        assert float(sigmas[-1]) == pytest.approx(ours.sigma_max, rel=1e-7)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_of_ddim(spacing):
    ours = NoiseSchedule(timestep_spacing=spacing)
    ddim = diffusers.DDIMScheduler.from_config(ours.to_dict())
    for steps in range(1, 1001):
        ddim.set_timesteps(steps)
        theirs = ddim.timesteps.tolist()
        if (spacing, steps) == ("leading", 1000):
            # Theirs begin at timestep 1000, which their tables do not have.
            assert ours.timesteps(steps) == list(range(999, -1, -1))
        elif (spacing, steps) == ("linspace", 1):
            # Theirs is timestep 0, where there is no noise to begin from.
            assert ours.timesteps(steps) == [999]
        else:
            # Trailing, theirs may be one too many: numpy's arange overshoots for 61 steps and others.
            assert ours.timesteps(steps) == theirs[:steps]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_walks_of_euler(spacing, zero_snr):
    ours = NoiseSchedule(timestep_spacing=spacing, rescale_betas_zero_snr=zero_snr)
    euler = diffusers.EulerDiscreteScheduler.from_config(ours.to_dict())
    for steps in (2, 5, 20, 30):
        euler.set_timesteps(steps)
        # Under linspace EulerDiscreteScheduler alone keeps fractions of timesteps; the networks were trained on whole
        # ones, so we round as DDIM does.
        slack = 0.5 if spacing == "linspace" else 0.0
        assert np.abs(euler.timesteps.numpy() - ours.timesteps(steps)).max() <= slack
        if slack == 0.0:
            theirs = torch.atan(euler.sigmas.double())
            torch.testing.assert_close(theirs, torch.atan(torch.tensor(ours.walk(steps)).double()), rtol=0, atol=2e-5)


def test_the_file_makes_the_same_scheduler():
    ours = NoiseSchedule()
    ddim = diffusers.DDIMScheduler.from_config(ours.to_dict())
    assert NoiseSchedule.from_dict(dict(ddim.config)) == ours
    euler = diffusers.EulerDiscreteScheduler.from_config(ours.to_dict())
    assert NoiseSchedule.from_dict(dict(euler.config)) == ours
    for name in ("prediction_type", "timestep_spacing", "rescale_betas_zero_snr", "clip_sample", "set_alpha_to_one"):
        assert ddim.config[name] == ours.to_dict()[name]


def test_epsilon_with_zero_terminal_snr_begins_where_diffusers_begins():
    theirs = NoiseSchedule().to_dict() | {"prediction_type": "epsilon", "_class_name": "EulerDiscreteScheduler"}
    ours = NoiseSchedule.from_dict(theirs)
    for values in (theirs, ours.to_dict()):
        euler = diffusers.EulerDiscreteScheduler.from_config(values)
        euler.set_timesteps(20)
        # Their products of a thousand factors are in fp32.
        torch.testing.assert_close(euler.sigmas.double(), torch.tensor(ours.walk(20)).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["karras", "exponential"])
@pytest.mark.parametrize("shape", ["linear", "scaled_linear"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100])
def test_spacings_of_sigma(name, shape, steps):
    # DPMSolverMultistepScheduler, whose range is that of the whole table, as k-diffusion's; the classes of Euler's kin
    # take that of the timesteps which their other spacing visits.
    ours = NoiseSchedule(beta_schedule=shape, rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON)
    config = ours.to_dict() | {f"use_{name}_sigmas": True}
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config, final_sigmas_type="zero")
    theirs.set_timesteps(steps)
    # Their table is fp32, a product of 1000 factors.
    assert Spacing.parse(name).walk(ours, steps) == pytest.approx(theirs.sigmas.tolist(), rel=2e-5)


def test_aligned_steps():
    from diffusers.schedulers import AysSchedules

    assert list(AYS["ays"][:-1]) == AysSchedules["StableDiffusionSigmas"][:-1]
    assert list(AYS["ays-sdxl"][:-1]) == AysSchedules["StableDiffusionXLSigmas"][:-1]


def test_beta_is_dense_where_theirs_is_by_timestep_and_not_by_sigma():
    """Theirs puts quantiles between the ends of sigma; the paper, and ours, between those of the timesteps."""
    ours = NoiseSchedule(rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON)
    config = ours.to_dict() | {"use_beta_sigmas": True}
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config, final_sigmas_type="zero")
    theirs.set_timesteps(21)
    sigmas = theirs.sigmas[:-1].double().numpy()
    quantiles = (sigmas - ours.sigma_min) / (ours.sigma_max - ours.sigma_min)
    # Theirs end with the quantile of 0, which ours leave to sigma 0; the rest are ours, but for a rounded timestep.
    walk = Spacing.parse("beta").walk(ours, 20)[:-1]
    assert [ours.timestep(sigma) / 999 for sigma in walk] == pytest.approx(list(quantiles[:-1]), abs=1e-3)
