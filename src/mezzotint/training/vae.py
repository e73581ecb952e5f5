"""Learn the latent space: an autoencoder with a small Kullback-Leibler term (arXiv:2112.10752, section 3.1).

A U-Net leaves a little noise in what it draws, most of all around edges. Where latents are noised while the autoencoder
learns, its encoder comes to say what matters in a way that such noise leaves legible. So do Yang et al. 2025
(arXiv:2507.15856), with more noise and with patches masked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.training.data import Pictures
from mezzotint.types import UserError
from mezzotint.vae.autoencoder import Autoencoder


class AutoencoderTask:
    """Reconstruct square crops, from noised latents if so wished.

    The loss adds up absolute error, error of the picture's gradients at three scales, and squared error (what the
    signal-to-noise ratio counts); edges at several scales stand in for a perceptual network.
    """

    KL = 1e-4
    CLEAN = 0.2
    """Of the pictures the share, by chance, whose latents are not noised where others are."""

    def __init__(self, autoencoder: Autoencoder, pictures: Pictures, crop: int, *, noise: float = 0.0) -> None:
        """`noise`: of what size noise is added to latents, against their own deviation; that of each picture is
        half-normal, and the more it is the less the picture counts, 1 / (1 + (its size / noise)^2).
        """
        self.network: nn.Module = autoencoder
        self._autoencoder, self._pictures, self._crop, self._noise = autoencoder, pictures, crop, noise

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        device = next(self._autoencoder.parameters()).device
        pixels = random_crops(self._pictures.pixels(index), self._crop, generator).to(device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        moments = self._autoencoder.encode(pixels)
        noise = torch.randn(moments.mean.shape, generator=generator).to(device)
        latents, counts = moments.sample(noise), torch.ones(len(index), device=device)
        if self._noise > 0:
            size = torch.randn(len(index), generator=generator).abs().to(device)
            size[torch.rand(len(index), generator=generator).to(device) < self.CLEAN] = 0
            counts = 1 / (1 + size.square())
            # It follows the latents, gradient and all: there is nothing to gain for them by growing.
            deviation = latents.std(dim=(0, 2, 3), keepdim=True, correction=0)
            noise = torch.randn(latents.shape, generator=generator).to(device)
            latents = latents + self._noise * size[:, None, None, None] * deviation * noise
        drawn = self._autoencoder.decode(latents).float()
        kl = moments.kl().float().mean() / moments.mean[0].numel()
        loss = reconstruction_loss(drawn, pixels, counts) + self.KL * kl
        return loss, {"psnr": psnr(drawn.detach(), pixels), "kl": kl.detach()}


def random_crops(pixels: Tensor, size: int, generator: torch.Generator, *, tries: int = 3) -> Tensor:
    """[B 3 H W] -> [B 3 size size] at `lively_corners` that are multiples of 8."""
    corners = lively_corners(pixels, size, 8, generator, tries=tries)
    return torch.stack(
        [picture[:, y : y + size, x : x + size] for picture, (y, x) in zip(pixels, corners, strict=True)]
    )


def lively_corners(
    pixels: Tensor, size: int, multiple: int, generator: torch.Generator, *, tries: int = 3
) -> list[tuple[int, int]]:
    """Where in each picture [B 3 H W] to cut out `size` x `size` pixels: of `tries` random places the liveliest, which
    teaches most.

    Top and left are multiples of `multiple`; how lively a place is, the deviation of its pixels says.
    """
    room = (pixels.shape[2] - size) // multiple + 1
    corners = torch.randint(room, (len(pixels), tries, 2), generator=generator) * multiple

    def liveliest(picture: Tensor, places: list[list[int]]) -> tuple[int, int]:
        y, x = max(places, key=lambda place: float(picture[:, place[0] :, place[1] :][:, :size, :size].std()))
        return y, x

    return [liveliest(picture, places) for picture, places in zip(pixels, corners.tolist(), strict=True)]


def reconstruction_loss(drawn: Tensor, pixels: Tensor, counts: Tensor | float = 1.0) -> Tensor:
    """Error of [B 3 H W] against the truth, one number; `counts` [B] is what each counts."""
    absolute = row_errors(drawn, pixels)
    squared = (drawn - pixels).square().flatten(1).mean(dim=1)
    return ((absolute + 2 * squared) * counts).mean()


def row_errors(drawn: Tensor, pixels: Tensor) -> Tensor:
    """The absolute errors of every picture [B], of its pixels and of its gradients at three scales."""
    total = (drawn - pixels).abs().flatten(1).mean(dim=1)
    for scale in range(3):
        if scale > 0:
            drawn, pixels = F.avg_pool2d(drawn, 2), F.avg_pool2d(pixels, 2)
        for axis in (2, 3):
            total = total + 0.25 * (drawn.diff(dim=axis) - pixels.diff(dim=axis)).abs().flatten(1).mean(dim=1)
    return total


def psnr(drawn: Tensor, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels of pictures in [-1, 1], the mean over [B]."""
    error = (drawn.clamp(-1, 1) - pixels).square().flatten(1).mean(dim=1).clamp(min=1e-10)
    return (10 * torch.log10(4 / error)).mean()


@torch.no_grad()
def standardise(autoencoder: Autoencoder, pictures: Pictures, count: int = 1024) -> None:
    """Give latents mean 0 and deviation 1, by a shift and a scale of every channel folded into the 1x1 convolutions.

    What the autoencoder draws does not change: quant_conv does (z - mean) / deviation and post_quant_conv undoes it.
    Raises UserError for an autoencoder without them.
    """
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    if not (isinstance(quant, nn.Conv2d) and isinstance(post, nn.Conv2d)):
        raise UserError("Training an autoencoder needs use_quant_conv and use_post_quant_conv: leave them true.")
    assert quant.bias is not None
    assert post.bias is not None
    device = next(autoencoder.parameters()).device
    index = torch.arange(min(count, len(pictures)))
    latents = torch.cat([autoencoder.encode(pictures.pixels(part).to(device)).mean.float() for part in index.split(64)])
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]
