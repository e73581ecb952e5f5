"""Properties of the U-Net that need no reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mezzotint.denoise.attention import Projected, attend
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet, init_for_training
from mezzotint.layers import sinusoid

CONFIG = UNetConfig(
    block_out_channels=(16, 32, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=(2, 2, 4),
    transformer_layers_per_block=(1, 1, 2),
    norm_num_groups=4,
)


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(CONFIG).eval()


def batch(rows: int = 2, size: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(rows, 4, *size), torch.rand(rows) * 999, torch.randn(rows, 5, 12)


def test_text_projected_once_gives_the_same_bits(unet: UNet) -> None:
    x, t, sequence = batch()
    with torch.inference_mode():
        assert torch.equal(unet(x, t, projected=unet.project(sequence)), unet(x, t, sequence))


def test_projected_prompts_lie_side_by_side(unet: UNet) -> None:
    x, t, sequence = batch(3)
    with torch.inference_mode():
        parts = [unet.project(sequence[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(unet(x, t, projected=Projected.cat(parts)), unet(x, t, sequence))


def test_every_row_has_its_own_timestep_and_text(unet: UNet) -> None:
    x, t, sequence = batch(2)
    with torch.inference_mode():
        alone = torch.cat([unet(x[i : i + 1], t[i : i + 1], sequence[i : i + 1]) for i in range(2)])
        torch.testing.assert_close(unet(x, t, sequence), alone)
        assert not torch.allclose(unet(x, t.flip(0), sequence), alone)
        assert not torch.allclose(unet(x, t, sequence.flip(0)), alone)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 10), (13, 3)])
def test_any_latent_size_works(unet: UNet, size: tuple[int, int]) -> None:
    x, t, sequence = batch(1, size)
    with torch.inference_mode():
        assert unet(x, t, sequence).shape == x.shape


def test_training_and_drawing_agree(unet: UNet) -> None:
    """Attention is written out where gradients are kept; it is the same attention."""
    x, t, sequence = batch()
    kept = unet(x, t, sequence)
    with torch.inference_mode():
        torch.testing.assert_close(unet(x, t, sequence), kept.detach())


def test_a_fresh_network_predicts_zero_and_its_branches_are_identities(unet: UNet) -> None:
    init_for_training(unet)
    x, t, sequence = batch()
    with torch.inference_mode():
        assert torch.equal(unet(x, t, sequence), torch.zeros_like(x))
        mid = unet.mid_block
        assert mid is not None
        h = torch.randn(2, 32, 4, 4)
        assert torch.equal(mid(h, unet.embed(t), iter(unet.project(sequence).reads[2:])), h)


def test_a_fresh_network_learns(unet: UNet) -> None:
    """Zeros at the ends of branches must not stop the gradient for good: three steps move every weight."""
    init_for_training(unet)
    before = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    optimiser = torch.optim.Adam(unet.parameters(), lr=1e-2)
    x, t, sequence = batch()
    losses: list[float] = []
    for _ in range(4):
        loss = (unet(x, t, sequence) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name, parameter in unet.named_parameters() if torch.equal(parameter, before[name])] == []


def test_autocast_to_bf16_stays_near(unet: UNet) -> None:
    x, t, sequence = batch()
    expected = unet(x, t, sequence)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = unet(x, t, sequence)
    # bf16 keeps 8 bits, so each product is right to 2^-9; the sum of some dozens of branches to a few times that.
    assert (actual.float() - expected).abs().max() < 0.05 * expected.abs().max()
    (actual.float() - x).square().mean().backward()


def test_attention_of_equal_keys_is_the_mean_of_values() -> None:
    q, k, v = torch.randn(2, 3, 8), torch.ones(2, 5, 8), torch.randn(2, 5, 8)
    torch.testing.assert_close(attend(q, k, v, heads=2), v.mean(1, keepdim=True).expand(2, 3, 8))


@pytest.mark.parametrize("grad", [False, True], ids=["drawing", "training"])
def test_attention_is_its_definition(grad: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    with torch.set_grad_enabled(grad):
        actual = attend(q, k, v, heads=2)
    for head in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[..., head] @ k[..., head].mT / 2, dim=-1)
        torch.testing.assert_close(actual[..., head], weights @ v[..., head])


def test_sinusoid_of_zero() -> None:
    assert sinusoid(torch.zeros(1), 6).tolist() == [[1, 1, 1, 0, 0, 0]]
    assert sinusoid(torch.zeros(1), 6, flip_sin_to_cos=False).tolist() == [[0, 0, 0, 1, 1, 1]]


def test_text_is_needed(unet: UNet) -> None:
    x, t, _ = batch()
    with pytest.raises(ValueError, match="text"):
        unet(x, t)
