"""The decoder once more, in the same latent space: finer detail, and firm edges from latents as a U-Net draws them.

What a U-Net draws is a little off what an encoder gives, most of all along edges. So part of the latents are noised and
walked down again by the U-Net first; what is to come out of them is still the picture that they were made of.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.training.data import Pictures
from mezzotint.training.latents import LatentCache
from mezzotint.training.vae import lively_corners, psnr, row_errors
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import Codec

LEAST, MOST = 0.3, 6.0
"""Between these sigmas, evenly in their logarithm, latents are noised to be redrawn: from where edges are lost to where
the solids of a scene are still those they were."""
LAST, STEPS = 0.05, 8
"""The last sigma that a latent is redrawn from, and the steps down to it and to nothing."""


class Redraw:
    """Latents as a U-Net draws them, of scenes that are known."""

    def __init__(self, denoiser: Denoiser, conditioner: TextConditioner, pictures: Pictures) -> None:
        self._denoiser, self._conditioner, self._pictures = denoiser, conditioner, pictures

    @torch.no_grad()
    def __call__(self, index: Tensor, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The latents [B z h w] of these pictures [B], redrawn, and the sigmas [B] that each was noised to."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        told = self._conditioner(self._pictures.captions(index, seed))
        projected = self._denoiser.project(told)
        top = LEAST * (MOST / LEAST) ** torch.rand(len(index), generator=generator)
        sigmas = [top * (LAST / top) ** (step / (STEPS - 1)) for step in range(STEPS)]

        def noise(sigma: Tensor) -> Tensor:
            return sigma[:, None, None, None] * torch.randn(x0.shape, generator=generator).to(x0)

        x = x0 + noise(top.to(x0))
        for now, after in zip(sigmas, [*sigmas[1:], torch.zeros_like(top)], strict=True):
            estimate = self._denoiser(x, now.to(x0), told, projected)
            # As euler-ancestral: the share of the noise that stays, and fresh noise for the rest (arXiv 2010.02502,
            # equation 16 with eta 1).
            fresh = after * (1 - (after / now) ** 2).sqrt()
            kept = ((after**2 - fresh**2).clamp(min=0).sqrt() / now).to(x0)[:, None, None, None]
            x = estimate + kept * (x - estimate) + noise(fresh.to(x0))
        return x, top


class DecoderTask:
    """Pictures out of their latents, some of them redrawn, by the errors that autoencoders learn by.

    A redrawn latent counts the less the further it was noised, 1 / (1 + sigma^2), as its picture is the less the truth.
    Its squared error, which would blur what cannot be known, does not count.
    """

    def __init__(
        self,
        codec: Codec,
        pictures: Pictures,
        crop: int,
        *,
        redraw: Redraw | None = None,
        share: float = 0.0,
        cache: Path | None = None,
    ) -> None:
        """`share` of the pictures of every batch are redrawn, but for one at least; `cache`: a folder for latents."""
        assert isinstance(codec.autoencoder, Autoencoder)
        self.network: nn.Module = codec.autoencoder
        self._codec, self._pictures, self._crop = codec, pictures, crop
        self._redraw, self._share = redraw, share
        self._latents = LatentCache(pictures, codec, cache)
        codec.autoencoder.requires_grad_(False)
        for part in (codec.autoencoder.decoder, codec.autoencoder.post_quant_conv):
            part.requires_grad_(True)

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        device = next(self.network.parameters()).device
        clean = len(index) if self._redraw is None else max(1, len(index) - int(self._share * len(index)))
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            latents = self._latents(index).to(device)
        sigma = torch.zeros(len(index))
        if self._redraw is not None and clean < len(index):
            redrawn, sigma[clean:] = self._redraw(index[clean:], latents[clean:], generator)
            latents = torch.cat([latents[:clean], redrawn])
        pixels, latents = windows(self._pictures.pixels(index).to(device), latents, self._crop, generator)
        drawn = self._codec.autoencoder.decode(self._codec.unscale(latents)).float()
        loss = (row_errors(drawn, pixels) / (1 + sigma.square()).to(device)).mean()
        loss = loss + 2 * (drawn[:clean] - pixels[:clean]).square().mean() * clean / len(index)
        return loss, {"psnr": psnr(drawn[:clean].detach(), pixels[:clean])}


def windows(pixels: Tensor, latents: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same place, of `size` x `size` pixels, in every picture [B 3 H W] and its latent [B z h w]."""
    factor = pixels.shape[-1] // latents.shape[-1]
    corners = lively_corners(pixels, size, factor, generator)
    side = size // factor
    return (
        torch.stack([picture[:, y : y + size, x : x + size] for picture, (y, x) in zip(pixels, corners, strict=True)]),
        torch.stack(
            [
                latent[:, y // factor : y // factor + side, x // factor : x // factor + side]
                for latent, (y, x) in zip(latents, corners, strict=True)
            ]
        ),
    )
