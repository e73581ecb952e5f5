"""Schedules by name against their closed forms."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import pytest

from mezzotint.noise import SPACINGS, TABLES, NoiseSchedule, Prediction, Spacing
from mezzotint.noise.schedule import FAR
from mezzotint.noise.spacing import AYS, TOP, distinct, quantile
from mezzotint.types import UserError

ZERO_SNR = NoiseSchedule()
PLAIN = NoiseSchedule(rescale_betas_zero_snr=False, prediction_type=Prediction.EPSILON, timestep_spacing="leading")
SHORT = NoiseSchedule(num_train_timesteps=7, beta_start=0.01, beta_end=0.3, rescale_betas_zero_snr=False)


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("table", ["", "cosine", "linear", "zsnr", "scaled-linear+zsnr"])
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 333])
def test_walks_descend_to_0_from_where_the_table_ends(name, table, steps):
    asked = Spacing.parse("+".join(filter(None, [table, name])))
    walk = asked.walk(ZERO_SNR, steps)
    assert len(walk) == steps + 1
    assert walk[-1] == 0
    assert all(after < before for before, after in pairwise(walk))
    if name not in ("leading", "linspace"):
        assert walk[0] == asked.table(ZERO_SNR).sigma_max


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("schedule", [PLAIN, SHORT], ids=["1000", "7"])
def test_no_two_sigmas_are_equal_in_as_many_steps_as_there_are_timesteps(name, schedule):
    steps = schedule.num_train_timesteps
    for count in (steps - 1, steps):
        walk = Spacing.parse(name).walk(schedule, count)
        assert len(walk) == count + 1
        assert all(after < before for before, after in pairwise(walk))
    for count in (0, steps + 1):
        with pytest.raises(UserError, match=f"takes from 1 to {steps}"):
            Spacing.parse(name).walk(schedule, count)


@pytest.mark.parametrize("name", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("ddim", [False, True])
def test_the_models_own_spacings_stay_what_they_are(name, ddim):
    own = NoiseSchedule(timestep_spacing=name, set_alpha_to_one=False)
    assert Spacing.parse(name).walk(NoiseSchedule(set_alpha_to_one=False), 20, ddim=ddim) == own.walk(20, ddim=ddim)
    assert Spacing.parse("").walk(own, 20, ddim=ddim) == own.walk(20, ddim=ddim)


def test_each_spacing_is_even_in_something():
    def steps_of(name, form, schedule=PLAIN):
        walk = Spacing.parse(name).walk(schedule, 10)[:-1]
        return [form(after) - form(before) for before, after in pairwise(walk)]

    for name, form in {
        "karras": lambda sigma: sigma ** (1 / 7),
        "exponential": math.log,
        "kl-optimal": math.atan,
        "sgm-uniform": PLAIN.timestep,
    }.items():
        lengths = steps_of(name, form)
        assert lengths == pytest.approx([lengths[0]] * 9, rel=1e-6), name
    walk = Spacing.parse("kl-optimal").walk(PLAIN, 10)
    assert walk[-2] == pytest.approx(PLAIN.sigma_min)
    assert Spacing.parse("sgm-uniform").walk(PLAIN, 10)[-2] == pytest.approx(PLAIN.sigma(99.9))
    assert [PLAIN.timestep(sigma) for sigma in Spacing.parse("simple").walk(PLAIN, 3)[:-1]] == pytest.approx(
        [999, 666, 333]
    )


@pytest.mark.parametrize("name", AYS)
def test_ten_aligned_steps_are_those_published(name):
    walk = Spacing.parse(name).walk(PLAIN, 10)
    # Three digits were published, and 0.029 and 14.615 are the ends 0.02917 and 14.6146 of the table.
    assert walk[:-1] == pytest.approx(AYS[name][:-1], rel=6e-3)
    twenty = Spacing.parse(name).walk(PLAIN, 20)
    assert twenty[:-1:2] == pytest.approx(walk[:-1])
    assert twenty[1] == pytest.approx(math.sqrt(walk[0] * walk[1]))


@pytest.mark.parametrize("name", ["karras", "exponential", "ays", "ays-sdxl"])
@pytest.mark.parametrize("table", [ZERO_SNR, NoiseSchedule(beta_schedule="squaredcos_cap_v2")], ids=["4096", "cosine"])
def test_no_step_is_spent_beyond_the_top(name, table):
    walk = Spacing.parse(name).walk(table, 10)
    assert walk[0] == table.sigma_max
    assert walk[1] < TOP
    steps = [math.log(after / before) for before, after in pairwise([TOP, *walk[1:-1]])]
    if name == "exponential":
        assert steps == pytest.approx([steps[0]] * 9)


def test_ddim_begins_far_and_ends_at_0():
    walk = Spacing.parse("karras").walk(NoiseSchedule(set_alpha_to_one=False), 10, ddim=True)
    assert walk[0] == FAR
    assert walk[1:] == Spacing.parse("karras").walk(ZERO_SNR, 10)[1:]
    assert Spacing.parse("karras").walk(PLAIN, 10, ddim=True) == Spacing.parse("karras").walk(PLAIN, 10)


def test_quantiles_of_the_beta_distribution():
    # scipy.stats.beta.ppf(p, 0.6, 0.6).
    known = {0.0: 0.0, 0.05: 0.012554457, 0.3: 0.234017004, 0.5: 0.5, 0.9: 0.960415594, 1.0: 1.0}
    for share, x in known.items():
        assert quantile(share) == pytest.approx(x, abs=1e-8)


def test_timesteps_are_told_apart_where_there_is_room():
    assert distinct([9, 9, 9, 5, 5, 1, 0]) == [9, 8, 7, 5, 4, 1, 0]
    assert distinct([5, 2, 0, 0, 0]) == [5, 3, 2, 1, 0]
    assert distinct([9, 7, 7, 6, 0]) == [9, 7, 6, 5, 0]
    assert distinct([3, 3, 3, 3]) == [3, 2, 1, 0]


def test_tables():
    assert Spacing.parse("").table(ZERO_SNR) is ZERO_SNR
    assert Spacing.parse("karras").table(PLAIN) is PLAIN
    cosine = Spacing.parse("cosine+linspace").table(PLAIN)
    assert cosine.beta_schedule == "squaredcos_cap_v2"
    assert cosine.prediction_type is PLAIN.prediction_type
    assert not cosine.rescale_betas_zero_snr
    linear = Spacing.parse(" linear + zsnr ").table(ZERO_SNR)
    assert float(linear.betas[1] - linear.betas[0]) == pytest.approx(float(linear.betas[-1] - linear.betas[-2]))
    assert linear.sigma_max == pytest.approx(4096.0, abs=2e-4)
    trained = NoiseSchedule(num_train_timesteps=3, trained_betas=(0.1, 0.2, 0.3), rescale_betas_zero_snr=False)
    assert Spacing.parse("zsnr").table(trained).sigma_max == pytest.approx(4096.0, abs=2e-4)
    assert Spacing.parse("scaled-linear").table(trained).trained_betas is None


def test_bad_names_are_the_users_error():
    with pytest.raises(UserError, match=r'no schedule "karas": .* leading, linspace, .* zsnr'):
        Spacing.parse("karas+zsnr")
    for text, most in (
        ("karras+beta", "one spacing"),
        ("karras+karras", "one spacing"),
        ("linear+cosine", "one table"),
        ("zsnr+zsnr", "zsnr once"),
    ):
        with pytest.raises(UserError, match=most):
            Spacing.parse(text)
    for text in ("+", "karras+", "karras zsnr"):
        with pytest.raises(UserError, match="no schedule"):
            Spacing.parse(text)
    with pytest.raises(UserError, match="predicts epsilon"):
        Spacing.parse("zsnr+trailing").walk(PLAIN, 10)


def test_the_names_cost_no_torch():
    code = "import sys; from mezzotint.noise import Spacing; Spacing.parse('ays'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not set(SPACINGS) & set(TABLES)
