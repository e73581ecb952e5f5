"""D(x, sigma, conditioning) -> x0: the one contract for whatever denoises, in training and in drawing (decision 1).

x = x0 + sigma * n everywhere. The network sees c_in * x at a timestep, and its prediction F gives
x0 = c_skip * x + c_out * F (Karras et al. 2022, equation 7).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mezzotint.denoise.unet import Projected, UNet
from mezzotint.noise.parameterisation import scalings
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.types import Conditioning


class Denoiser(nn.Module):
    """A U-Net and the noise schedule that it was trained on."""

    def __init__(self, unet: UNet, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule

    def project(self, conditioning: Conditioning) -> Projected:
        """What every step reads of the conditioning's sequence and pictures, computed once."""
        if conditioning.sequence is None:
            raise ValueError("The U-Net needs the text: the conditioning has no sequence.")
        pictures, weights = (
            None if slot is None else slot.to(self.unet.dtype) for slot in (conditioning.pictures, conditioning.weights)
        )
        return self.unet.project(conditioning.sequence.to(self.unet.dtype), pictures, weights)

    def forward(
        self, x: Tensor, sigma: Tensor, conditioning: Conditioning, projected: Projected | None = None
    ) -> Tensor:
        """The clean estimate x0 [B C h w], fp32, of the noisy latent x [B C h w] at sigmas [B] above zero.

        Each row has a sigma of its own. The conditioning has B rows; `projected`, what `project` made of it, saves
        time. Arithmetic around the network is fp32 whatever the network's dtype.
        """
        if projected is None:
            projected = self.project(conditioning)
        x = x.float()
        c_skip, c_out, c_in = (
            c.to(x)[:, None, None, None] for c in scalings(self.schedule.prediction_type, sigma.cpu().double())
        )
        seen = c_in * x
        if conditioning.spatial is not None:
            seen = torch.cat([seen, conditioning.spatial.to(seen)], dim=1)
        t = self.schedule.timestep(sigma).to(x.device)
        pooled = None if conditioning.pooled is None else conditioning.pooled.to(self.unet.dtype)
        prediction = self.unet(seen.to(self.unet.dtype), t, None, pooled, projected)
        return c_skip * x + c_out * prediction.float()
