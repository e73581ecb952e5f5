"""The four numbers against their definition."""

from __future__ import annotations

import pytest
import torch

from mezzotint.noise import Prediction, draw_noise, generator, scalings, target


@pytest.mark.parametrize("prediction", list(Prediction))
@pytest.mark.parametrize("sigma", [0.0, 0.03, 1.0, 14.6, 4096.0])
def test_the_target_gives_back_the_clean_latent(prediction, sigma):
    x0, n = draw_noise([1, 2], (2, 3, 4)).double()
    x0, n = x0[None], n[None]
    level = torch.tensor([sigma], dtype=torch.float64)
    c_skip, c_out, _ = scalings(prediction, sigma)
    x = x0 + sigma * n
    torch.testing.assert_close(c_skip * x + c_out * target(prediction, x0, n, level), x0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction", list(Prediction))
def test_every_row_has_its_own_sigma(prediction):
    x0, n = draw_noise([1, 2, 3], (4, 5)), draw_noise([4, 5, 6], (4, 5))
    sigma = torch.tensor([0.1, 1.0, 100.0])
    together = target(prediction, x0, n, sigma)
    for row in range(3):
        alone = target(prediction, x0[row : row + 1], n[row : row + 1], sigma[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)
    for number in scalings(prediction, sigma):
        assert number.shape == sigma.shape
        assert number.dtype == sigma.dtype


@pytest.mark.parametrize("prediction", [Prediction.EPSILON, Prediction.V, Prediction.SAMPLE])
def test_the_network_sees_unit_variance(prediction):
    sigma = torch.logspace(-2, 3.6, 20, dtype=torch.float64)
    c_in = scalings(prediction, sigma).c_in
    torch.testing.assert_close(c_in**2 * (1 + sigma**2), torch.ones_like(sigma))


def test_a_v_target_has_unit_variance_at_every_sigma():
    x0, n = torch.randn(2, 200_000, generator=generator(0), dtype=torch.float64)
    for sigma in (0.03, 1.0, 4096.0):
        v = target(Prediction.V, x0[None], n[None], torch.tensor([sigma], dtype=torch.float64))
        # The deviation of a variance estimated from 200 000 numbers is sqrt(2 / 200 000) = 0.003.
        assert float(v.var()) == pytest.approx(1.0, abs=0.015)


def test_flow_reads_the_straight_line():
    x0, n, s = 2.0, -1.0, 0.8
    sigma = s / (1 - s)
    c_in = scalings(Prediction.FLOW, sigma).c_in
    assert float(c_in) * (x0 + sigma * n) == pytest.approx((1 - s) * x0 + s * n)


def test_v_at_sigma_4096_keeps_the_latent_in_fp32():
    x0, n = draw_noise([1], (1000,)), draw_noise([2], (1000,))
    sigma = torch.tensor([4096.0])
    c_skip, c_out, _ = scalings(Prediction.V, sigma)
    estimate = c_skip * (x0 + sigma * n) + c_out * target(Prediction.V, x0, n, sigma)
    torch.testing.assert_close(estimate, x0, rtol=0, atol=1e-6)
