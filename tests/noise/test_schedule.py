"""The schedule against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mezzotint.noise import NoiseSchedule, Prediction
from mezzotint.noise.schedule import FAR
from mezzotint.types import UserError

SHAPES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_are_float64_and_monotone(shape, zero_snr):
    schedule = NoiseSchedule(beta_schedule=shape, rescale_betas_zero_snr=zero_snr)
    assert schedule.sigmas.dtype == schedule.alphas_cumprod.dtype == torch.float64
    assert schedule.sigmas.shape == (1000,)
    assert bool((schedule.sigmas.diff() > 0).all())
    torch.testing.assert_close(1 / (1 + schedule.sigmas**2), schedule.alphas_cumprod, rtol=1e-12, atol=0)


def test_linear_alpha_bar_is_the_product_of_alphas():
    schedule = NoiseSchedule(
        num_train_timesteps=3, beta_start=0.1, beta_end=0.3, beta_schedule="linear", rescale_betas_zero_snr=False
    )
    assert schedule.alphas_cumprod.tolist() == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7], rel=1e-14)


def test_scaled_linear_is_linear_in_the_root():
    schedule = NoiseSchedule(num_train_timesteps=3, beta_start=0.01, beta_end=0.09, rescale_betas_zero_snr=False)
    assert schedule.betas.tolist() == pytest.approx([0.01, 0.04, 0.09], rel=1e-14)


def test_cosine_alpha_bar_is_the_cosine_until_the_cap():
    schedule = NoiseSchedule(beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=False)

    def f(t):
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 100, 500, 998):
        assert float(schedule.alphas_cumprod[t]) == pytest.approx(f(t + 1) / f(0), rel=1e-10)
    assert float(schedule.betas[-1]) == 0.999


def test_zero_terminal_snr_keeps_the_first_root_and_scales_the_rest():
    plain = NoiseSchedule(rescale_betas_zero_snr=False).alphas_cumprod.sqrt()
    rescaled = NoiseSchedule().alphas_cumprod.sqrt()
    assert float(rescaled[0]) == pytest.approx(float(plain[0]), rel=1e-14)
    ratio = rescaled[:-1] / (plain[:-1] - plain[-1])
    torch.testing.assert_close(ratio, ratio[:1].expand(999), rtol=1e-10, atol=0)


def test_the_terminal_sigma_is_capped():
    assert float(NoiseSchedule().alphas_cumprod[-1]) == 2.0**-24
    assert NoiseSchedule().sigma_max == pytest.approx(4096.0, abs=2e-4)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_timestep_and_sigma_are_inverse(zero_snr):
    schedule = NoiseSchedule(rescale_betas_zero_snr=zero_snr)
    whole = torch.arange(1000)
    assert float((schedule.timestep(schedule.sigmas.float()) - whole).abs().max()) < 1e-4
    for t in (0.0, 0.25, 17.5, 998.9, 999.0):
        assert schedule.timestep(schedule.sigma(t)) == pytest.approx(t, abs=1e-9)
    middle = math.sqrt(schedule.sigma(4.0) * schedule.sigma(5.0))
    assert schedule.sigma(4.5) == pytest.approx(middle, rel=1e-12)


def test_timestep_is_clamped_and_keeps_the_shape():
    schedule = NoiseSchedule()
    assert schedule.timestep(0.0) == 0.0
    assert schedule.timestep(1e9) == 999.0
    t = schedule.timestep(torch.tensor([[1e-9, 1.0, 1e9]]))
    assert t.shape == (1, 3)
    assert t.dtype == torch.float32
    assert t[0, 0] == 0
    assert t[0, 2] == 999


def test_timestep_does_not_decrease():
    t = NoiseSchedule().timestep(torch.logspace(-3, 5, 5000))
    assert bool((t.diff() >= 0).all())


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("count", [10, 1000])
def test_every_walk_descends_to_zero(spacing, count):
    schedule = NoiseSchedule(timestep_spacing=spacing, num_train_timesteps=count)
    for steps in {1, 2, 3, 5, 7, 20, 48, 61, 999, 1000} & set(range(1, count + 1)):
        walk = schedule.walk(steps)
        assert len(walk) == steps + 1
        assert walk[-1] == 0.0
        assert all(after < before for before, after in pairwise(walk))
    if spacing != "leading":
        assert schedule.walk(5)[0] == schedule.sigma_max


def test_a_walk_of_ddim_ends_where_the_file_says():
    published = NoiseSchedule(rescale_betas_zero_snr=False, set_alpha_to_one=False)
    assert published.walk(5, ddim=True) == [*published.walk(5)[:-1], published.sigma_min]
    assert published.walk(5)[-1] == 0.0
    assert NoiseSchedule().walk(5, ddim=True)[-1] == 0.0


def test_a_walk_of_ddim_from_zero_terminal_snr_begins_nearer_to_infinity():
    schedule = NoiseSchedule()
    assert schedule.walk(5, ddim=True) == [FAR, *schedule.walk(5)[1:]]
    leading = NoiseSchedule(timestep_spacing="leading")  # It does not begin at the last timestep.
    assert leading.walk(5, ddim=True) == leading.walk(5)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_outside_the_schedule_are_the_users_error(steps):
    with pytest.raises(UserError, match="from 1 to 1000"):
        NoiseSchedule().walk(steps)


def test_the_file_round_trips():
    schedule = NoiseSchedule(
        num_train_timesteps=3,
        trained_betas=(0.1, 0.2, 0.3),
        prediction_type=Prediction.EPSILON,
        rescale_betas_zero_snr=False,
        timestep_spacing="leading",
    )
    for each in (schedule, NoiseSchedule()):
        assert NoiseSchedule.from_dict(each.to_dict()) == each


def test_a_file_of_stable_diffusion_is_read_with_its_classes_defaults():
    pndm = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "clip_sample": False,
    }
    schedule = NoiseSchedule.from_dict(pndm)
    assert schedule.timestep_spacing == "leading"
    assert schedule.prediction_type is Prediction.EPSILON
    assert not schedule.rescale_betas_zero_snr
    assert not schedule.set_alpha_to_one
    assert schedule.sigma_max == pytest.approx(14.6146, abs=1e-4)
    assert NoiseSchedule.from_dict(pndm | {"_class_name": "EulerDiscreteScheduler"}).timestep_spacing == "linspace"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "sigmoid"),
        ({"timestep_spacing": "karras"}, "karras"),
        ({"prediction_type": "noise"}, "noise"),
        ({"beta_end": 1.5}, "between 0 and 1"),
        ({"beta_end": -1}, "between 0 and 1"),
        ({"trained_betas": [0.1]}, "1 trained_betas"),
        ({"num_train_timesteps": 1}, "at least 2"),
        ({"prediction_type": "epsilon"}, "rescale_betas_zero_snr"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "EDMDPMSolver"),
    ],
)
def test_a_file_that_makes_no_schedule_is_the_users_error(changes, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule.from_dict(NoiseSchedule().to_dict() | changes)


def test_epsilon_says_nothing_of_a_picture_that_is_pure_noise():
    with pytest.raises(UserError, match="turn rescale_betas_zero_snr off first"):
        NoiseSchedule(prediction_type=Prediction.EPSILON)
    with pytest.raises(UserError, match="epsilon"):
        replace(NoiseSchedule(), prediction_type=Prediction.EPSILON)


@pytest.mark.parametrize(
    "theirs",
    [
        {"_class_name": "EulerDiscreteScheduler"},
        {"_class_name": "UniPCMultistepScheduler", "timestep_spacing": "linspace"},
        {"_class_name": "DDIMScheduler", "timestep_spacing": "leading"},
    ],
)
def test_a_file_that_diffusers_draws_by_is_read_as_the_table_that_it_caps(theirs):
    values = NoiseSchedule().to_dict() | {"prediction_type": "epsilon"} | theirs
    schedule = NoiseSchedule.from_dict(values)
    assert schedule.prediction_type is Prediction.EPSILON
    torch.testing.assert_close(schedule.sigmas, NoiseSchedule().sigmas, rtol=1e-12, atol=0)
    assert NoiseSchedule.from_dict(schedule.to_dict()) == schedule
