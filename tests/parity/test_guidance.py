"""Guidance beside diffusers' guiders, on random predictions, and the perturbed U-Net beside its attention processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import PAGIdentitySelfAttnProcessor2_0

from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.perturbed import perturbed
from mezzotint.denoise.unet import UNet
from mezzotint.noise import Prediction, scalings
from mezzotint.sampling import ClassifierFree, Query
from mezzotint.sampling.around import AwayFrom
from mezzotint.sampling.guidance import Projected
from mezzotint.sampling.guides import guided

guiders = pytest.importorskip("diffusers.guiders")
guider_utils = pytest.importorskip("diffusers.guiders.guider_utils")

SHAPE = (1, 4, 8, 8)
NOWHERE = Query(torch.zeros(SHAPE), 1.0, 0, 0.5)
# fp32 products and sums of 256 values, theirs in part in fp64.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def estimates(*names: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random prediction for each name; what a guider makes of predictions it makes of clean estimates too."""
    torch.manual_seed(seed)
    return {name: torch.randn(SHAPE) for name in names}


@pytest.mark.parametrize("scale", [1.0, 2.0, 7.5])
def test_classifier_free(scale):
    e = estimates("uncond", "cond")
    theirs = guiders.ClassifierFreeGuidance(guidance_scale=scale).forward(e["cond"], e["uncond"]).pred
    torch.testing.assert_close(ClassifierFree(scale).combine(e, NOWHERE), theirs, **CLOSE)


@pytest.mark.parametrize(("eta", "threshold", "momentum"), [(0.0, 15.0, -0.5), (0.5, 0.0, 0.3), (1.0, 5.0, 0.0)])
def test_adaptive_projected(eta, threshold, momentum):
    """Theirs adds the changed difference to uncond, unless told to be as the paper has it, with a scale less by 1."""
    ours = Projected(ClassifierFree(7.5), eta, threshold, momentum)
    theirs = guiders.AdaptiveProjectedGuidance(
        guidance_scale=6.5,
        adaptive_projected_guidance_momentum=momentum,
        adaptive_projected_guidance_rescale=threshold,
        eta=eta,
        use_original_formulation=True,
    )
    theirs.set_state(step=0, num_inference_steps=3, timestep=torch.tensor(0))
    theirs.momentum_buffer = guiders.adaptive_projected_guidance.MomentumBuffer(momentum)
    for step in range(3):
        e = estimates("uncond", "cond", seed=step)
        torch.testing.assert_close(ours.combine(e, NOWHERE), theirs.forward(e["cond"], e["uncond"]).pred, **CLOSE)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_perturbed_attention(scale):
    """Without classifier-free guidance theirs is the paper's in the original formulation alone."""
    e = estimates("uncond", "cond", "perturbed")
    base = ClassifierFree(scale)
    theirs = guiders.PerturbedAttentionGuidance(
        guidance_scale=scale,
        perturbed_guidance_scale=3.0,
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
        perturbed_guidance_layers=[0],
        use_original_formulation=scale == 1.0,
    )
    if scale == 1.0:
        theirs.guidance_scale = 0.0  # how the original formulation says off
    theirs.set_state(step=1, num_inference_steps=10, timestep=torch.tensor(0))
    expected = theirs.forward(e["cond"], e["uncond"], e["perturbed"]).pred
    ours = AwayFrom(base, base.unguided, "perturbed", 3.0)
    torch.testing.assert_close(ours.combine(e, NOWHERE), expected, **CLOSE)


def test_autoguidance():
    e = estimates("cond", "weak")
    theirs = guiders.AutoGuidance(guidance_scale=2.5, auto_guidance_layers=[0], dropout=1.0)
    ours = guided(["auto:weak:2.5"], 1.0, prediction="epsilon")
    expected = theirs.forward(e["cond"], e["weak"]).pred
    torch.testing.assert_close(ours.combine(e, NOWHERE), expected, **CLOSE)


@pytest.mark.parametrize("prediction", list(Prediction))
@pytest.mark.parametrize("sigma", [0.1, 1.0, 14.0])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_rescale(prediction, sigma, share):
    """Theirs rescales the network's output, ours the estimate: the same, whatever the network predicts."""
    torch.manual_seed(0)
    said = {name: torch.randn(SHAPE, dtype=torch.float64) for name in ("uncond", "cond")}
    x = (1 + sigma) * torch.randn(SHAPE, dtype=torch.float64)
    c_skip, c_out, _ = scalings(prediction, sigma)
    guided_output = said["uncond"] + 7.5 * (said["cond"] - said["uncond"])
    theirs = guider_utils.rescale_noise_cfg(guided_output, said["cond"], share)
    ours = guided([f"rescale:{share}"], 7.5, prediction=prediction)
    e = {name: c_skip * x + c_out * output for name, output in said.items()}
    actual = ours.combine(e, Query(x, sigma, 0, 0.5))
    # fp64; c_out is up to 14.
    torch.testing.assert_close(actual, c_skip * x + c_out * theirs, rtol=1e-9, atol=1e-9)


@torch.inference_mode()
def test_the_perturbed_network():
    """Theirs takes a batch of plain rows and then perturbed ones, and perturbs the self-attention that it is put on."""
    values: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "norm_num_groups": 8,
        "attention_head_dim": 4,
    }
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**values).eval()
    ours = UNet(UNetConfig.from_dict(values)).eval()
    ours.load_state_dict(theirs.state_dict())
    place = theirs.mid_block.attentions[0].transformer_blocks[0].attn1
    place.set_processor(PAGIdentitySelfAttnProcessor2_0())
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([7.0, 500.0]), torch.randn(2, 5, 24)
    both = theirs(torch.cat([x, x]), torch.cat([t, t]), torch.cat([text, text])).sample
    plain, worse = both.chunk(2)
    torch.testing.assert_close(ours(x, t, text), plain, **CLOSE)
    torch.testing.assert_close(perturbed(ours)(x, t, text), worse, **CLOSE)
    assert (worse - plain).abs().max() > 1e-3, "or the tolerance says nothing"
