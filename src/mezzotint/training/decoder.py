"""The decoder once more, in the same latent space: finer detail, and firm edges from latents as a U-Net draws them.

What a U-Net draws is a little off what an encoder gives, most of all along edges. So part of the latents are noised and
walked down again by the U-Net first; what is to come out of them is still the picture that they were made of, or, where
scenes are known, the true one nearest to what the U-Net drew (`training.walks`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.conditioning.text import TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.training.adversary import Adversary, balance
from mezzotint.training.data import Pictures
from mezzotint.training.latents import LatentCache
from mezzotint.training.vae import lively_corners, psnr, row_errors
from mezzotint.training.walks import Ends
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


class _Contested(nn.Module):
    """The autoencoder whose decoder learns, and its adversary."""

    def __init__(self, autoencoder: Autoencoder, adversary: Adversary) -> None:
        super().__init__()
        self.autoencoder, self.adversary = autoencoder, adversary


def trained_autoencoder(network: nn.Module) -> Autoencoder:
    """That of a task's network."""
    autoencoder = network.autoencoder if isinstance(network, _Contested) else network
    assert isinstance(autoencoder, Autoencoder)
    return autoencoder


class DecoderTask:
    """Pictures out of their latents, some of them redrawn, by the errors that autoencoders learn by.

    A redrawn latent counts the less the further it was noised, 1 / (1 + sigma^2), as its picture is the less the truth;
    the end of a walk, whose truth was sought, counts in full. Squared errors, which would blur what cannot be known,
    are those of the others alone.
    """

    def __init__(
        self,
        codec: Codec,
        pictures: Pictures,
        crop: int,
        *,
        redraw: Redraw | None = None,
        ends: Ends | None = None,
        share: float = 0.0,
        adversary: float = 0.0,
        cache: Path | None = None,
    ) -> None:
        """`share` of the pictures of every batch are redrawn, or ends of walks, but for one at least; `adversary`: how
        much the gradient of one weighs against that of the errors; `cache`: a folder for latents.
        """
        autoencoder = codec.autoencoder
        assert isinstance(autoencoder, Autoencoder)
        assert redraw is None or ends is None
        self._codec, self._pictures, self._crop = codec, pictures, crop
        self._redraw, self._ends = redraw, ends
        self._share = 0.0 if redraw is None and ends is None else share
        self._latents = LatentCache(pictures, codec, cache)
        self._adversary, self._weight = Adversary() if adversary > 0 else None, adversary
        autoencoder.requires_grad_(False)
        for part in (autoencoder.decoder, autoencoder.post_quant_conv):
            part.requires_grad_(True)
        self.network = autoencoder if self._adversary is None else _Contested(autoencoder, self._adversary)
        self.network.to(next(autoencoder.parameters()).device)

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        device = next(self.network.parameters()).device
        clean = max(1, len(index) - int(self._share * len(index)))
        own = index if self._ends is None else index[:clean]
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            latents = self._latents(own).to(device)
        pixels, counts = self._pictures.pixels(own), torch.ones(len(index))
        if self._ends is not None:
            chosen = torch.randint(len(self._ends), (len(index) - clean,), generator=generator)
            latents = torch.cat([latents, self._ends.end[chosen].to(latents)])
            pixels = torch.cat([pixels, self._ends.pixels[chosen] / 127.5 - 1])
        elif self._redraw is not None and clean < len(index):
            latents[clean:], sigma = self._redraw(index[clean:], latents[clean:], generator)
            counts[clean:] = 1 / (1 + sigma.square())
        pixels, latents = windows(pixels.to(device), latents, self._crop, generator)
        drawn = self._codec.autoencoder.decode(self._codec.unscale(latents)).float()
        loss = (row_errors(drawn, pixels) * counts.to(device)).mean()
        loss = loss + 2 * (drawn[:clean] - pixels[:clean]).square().mean() * clean / len(index)
        figures = {"psnr": psnr(drawn[:clean].detach(), pixels[:clean])}
        if self._adversary is not None:
            drawing, adversary, told = self._adversary.contest(drawn, pixels, generator)
            figures |= {"errors": loss.detach(), "told_apart": told}
            loss = loss + self._weight * balance(loss, drawing, drawn) * drawing + adversary
        return loss, figures


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
