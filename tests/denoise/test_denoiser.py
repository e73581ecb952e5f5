"""The denoiser's arithmetic, with a network whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import Projected, UNet, init_for_training
from mezzotint.noise import NoiseSchedule, Prediction, target
from mezzotint.types import Conditioning

CONFIG = UNetConfig(
    block_out_channels=(8, 8),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=6,
    attention_head_dim=2,
    norm_num_groups=4,
)
TEXT = Conditioning(sequence=torch.ones(3, 2, 6))
SIGMAS = torch.tensor([0.05, 1.0, 4095.0])


class Oracle(UNet):
    """A network that answers rightly, and remembers what it was shown."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__(CONFIG)
        self.answer = answer
        self.seen: list[Tensor] = []

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        sequence: Tensor | None = None,
        pooled: Tensor | None = None,
        projected: Projected | None = None,
    ) -> Tensor:
        self.seen += [x, t]
        return self.answer


@pytest.mark.parametrize("prediction", list(Prediction))
def test_a_right_network_gives_the_clean_latent(prediction: Prediction) -> None:
    torch.manual_seed(0)
    x0, n = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    x = x0 + SIGMAS[:, None, None, None] * n
    schedule = NoiseSchedule(prediction_type=prediction, rescale_betas_zero_snr=prediction is not Prediction.EPSILON)
    oracle = Oracle(target(prediction, x0, n, SIGMAS))
    estimate = Denoiser(oracle, schedule)(x, SIGMAS, TEXT)
    # At sigma = 4095 the latent holds x0 only in its last bits, so eps- and flow-prediction lose what fp32 loses.
    error = (estimate - x0).abs().amax(dim=(1, 2, 3))
    assert bool((error <= 1e-6 * (1 + SIGMAS)).all())
    seen, t = oracle.seen
    assert 0.2 < seen[2].std() < 2  # the network sees unit variance whatever the sigma
    assert torch.equal(t, schedule.timestep(SIGMAS))


def test_a_zero_v_network_shrinks_the_latent() -> None:
    unet = UNet(CONFIG)
    init_for_training(unet)
    x = torch.randn(3, 4, 5, 7)
    with torch.inference_mode():
        estimate = Denoiser(unet, NoiseSchedule())(x, SIGMAS, TEXT)
    torch.testing.assert_close(estimate, x / (1 + SIGMAS**2)[:, None, None, None])


def test_a_bf16_network_is_wrapped_in_fp32() -> None:
    torch.manual_seed(0)
    unet = UNet(CONFIG)
    x = torch.randn(3, 4, 4, 4)
    with torch.inference_mode():
        expected = Denoiser(unet, NoiseSchedule())(x, SIGMAS, TEXT)
        actual = Denoiser(unet.bfloat16(), NoiseSchedule())(x, SIGMAS, TEXT)
    assert actual.dtype == torch.float32
    # Only the network's part is rounded to bf16's 8 bits.
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()


def test_spatial_conditioning_joins_the_channels_unscaled() -> None:
    oracle = Oracle(torch.zeros(3, 4, 4, 4))
    spatial = torch.full((3, 5, 4, 4), 7.0)
    conditioning = Conditioning(sequence=TEXT.sequence, spatial=spatial)
    Denoiser(oracle, NoiseSchedule())(torch.randn(3, 4, 4, 4), SIGMAS, conditioning)
    assert torch.equal(oracle.seen[0][:, 4:], spatial)


def test_projected_text_is_read_instead_of_the_sequence() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(UNet(CONFIG), NoiseSchedule())
    x = torch.randn(3, 4, 4, 4)
    with torch.inference_mode():
        projected = denoiser.project(TEXT)
        assert torch.equal(denoiser(x, SIGMAS, Conditioning(), projected), denoiser(x, SIGMAS, TEXT))


def test_text_is_needed() -> None:
    with pytest.raises(ValueError, match="sequence"):
        Denoiser(UNet(CONFIG), NoiseSchedule())(torch.randn(3, 4, 4, 4), SIGMAS, Conditioning())
