"""Forward diffusion: noise of a known level is added to a latent, and the denoiser learns to take it away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.noise.parameterisation import scalings
from mezzotint.training.data import Pictures
from mezzotint.types import Conditioning
from mezzotint.vae.codec import Codec


class LatentCache:
    """The latents of pictures, each encoded when it is first asked for and kept in half precision."""

    def __init__(self, pictures: Pictures, codec: Codec) -> None:
        self._pictures, self._codec = pictures, codec
        side = pictures.size // codec.factor
        self._latents = torch.zeros(len(pictures), codec.channels, side, side, dtype=torch.float16)
        self._known = torch.zeros(len(pictures), dtype=torch.bool)

    def __call__(self, index: Tensor) -> Tensor:
        """Latents [B z h w], fp32, of the pictures at these places [B]."""
        new = index[~self._known[index]].unique()
        if len(new) > 0:
            self._latents[new] = self._codec.encode(self._pictures.pixels(new)).to(self._latents)
            self._known[new] = True
        return self._latents[index].float()


class DenoiserTask:
    """D(x0 + sigma n, sigma, tau(y)) should be x0, at every sigma of the schedule.

    The error is divided by c_out, which makes it that of the network's own prediction (Karras et al. 2022, equation 8):
    for v-prediction the plain squared error of v (Salimans and Ho 2022, appendix D).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: TextConditioner,
        codec: Codec,
        pictures: Pictures,
        *,
        caption_dropout: float = 0.1,
    ) -> None:
        """`caption_dropout`: the share of pictures shown with the empty caption, for classifier-free guidance."""
        self.network: nn.Module = denoiser
        self._denoiser, self._conditioner, self._pictures = denoiser, conditioner, pictures
        self._dropout = caption_dropout
        self._latents = LatentCache(pictures, codec)
        self._sigmas = denoiser.schedule.sigmas.clone()

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        device = next(self._denoiser.parameters()).device
        # What is learned from stays in 32 bits, as it is when drawing; only the denoiser is worth 16.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            x0 = self._latents(index)
            captions = self._pictures.captions(index, int(torch.randint(2**31, (1,), generator=generator)))
            dropped = (torch.rand(len(index), generator=generator) < self._dropout).tolist()
            conditioning = self._conditioner(["" if d else c for c, d in zip(captions, dropped, strict=True)])
        # Levels spread evenly over the schedule, so that a batch sees all of it (Kingma et al. 2021, appendix I.1).
        spread = (torch.arange(len(index)) / len(index) + torch.rand(1, generator=generator)) % 1
        sigma = self._sigmas[(spread * len(self._sigmas)).long()]
        noise = torch.randn(x0.shape, generator=generator)
        x = x0 + sigma.to(x0)[:, None, None, None] * noise
        x0, x, sigma = x0.to(device), x.to(device), sigma.to(device)
        assert conditioning.sequence is not None
        estimate = self._denoiser(x, sigma, Conditioning(sequence=conditioning.sequence.detach()))
        _, c_out, _ = scalings(self._denoiser.schedule.prediction_type, sigma)
        error = ((estimate - x0) / c_out.to(x0)[:, None, None, None]).square().flatten(1).mean(dim=1)
        half = len(index) // 2
        order = spread.to(device).argsort()
        low, high = error[order[:half]].mean().detach(), error[order[half:]].mean().detach()
        return error.mean(), {"low_noise": low, "high_noise": high}
