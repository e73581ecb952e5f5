"""Latents at unit variance, and pixels: what stands between the pictures that people see and the U-Net.

B pictures, H W their height and width in pixels, z h w the latent's channels, height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.types import UserError
from mezzotint.vae import tiling
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.tiny import TinyAutoencoder

AnyAutoencoder = Autoencoder | TinyAutoencoder
WHOLE = 2**20
"""Pixels of the largest picture that goes through the autoencoder in one piece; larger ones go in bands (`tiling`)."""


class Codec:
    """An autoencoder with its scale: encoded pictures have about unit variance, as the noise schedule expects.

    The scale has one home, the autoencoder's config (scaling_factor, shift_factor).
    """

    def __init__(self, autoencoder: AnyAutoencoder) -> None:
        self.autoencoder = autoencoder

    @property
    def factor(self) -> int:
        """How many times the latent is smaller than the picture, along one side."""
        return self.autoencoder.config.factor

    @property
    def channels(self) -> int:
        """Channels z of a latent."""
        return self.autoencoder.config.latent_channels

    def encode(self, pixels: Tensor, *, bands: bool | None = None) -> Tensor:
        """The scaled mean latent [B z h w] of pixels [B 3 H W] in [-1, 1], in the dtype of the autoencoder.

        `bands`: whether to work in bands of rows, which takes little memory and gives the same but for rounding; by
        default for pictures of more than WHOLE pixels, where no gradient is wanted.
        Raises UserError unless H and W are multiples of `factor`, and for an autoencoder that has only a decoder.
        """
        height, width = pixels.shape[-2:]
        if height % self.factor != 0 or width % self.factor != 0:
            raise UserError(
                f"The picture is {width} by {height} pixels; both sides must be multiples of {self.factor}: crop it."
            )
        pixels = self._placed(pixels)
        if self._in_bands(height * width, bands):
            return self.scale(tiling.encode(self.autoencoder, pixels).mean)
        return self.scale(self.autoencoder.encode(pixels).mean)

    def decode(self, latent: Tensor, *, bands: bool | None = None) -> Tensor:
        """Pixels [B 3 H W], clamped to [-1, 1], of a scaled latent [B z h w], in the dtype of the autoencoder.

        `bands` is as in `encode`. Raises UserError for an autoencoder that has only an encoder.
        """
        z = self._placed(self.unscale(latent))
        if self._in_bands(z[0, 0].numel() * self.factor**2, bands):
            return tiling.decode(self.autoencoder, z).clamp(-1.0, 1.0)
        return self.autoencoder.decode(z).clamp(-1.0, 1.0)

    def enlarge(self, latent: Tensor, size: tuple[int, int]) -> Tensor:
        """The scaled latent [B z *size] of the picture of a scaled latent [B z h w], enlarged to that size.

        The picture is decoded, enlarged (bicubic) and encoded, since a latent that is itself enlarged decodes to
        something blurred and discoloured; that is what is done all the same where the autoencoder has no encoder.
        """
        if getattr(self.autoencoder, "encoder", None) is None:
            return F.interpolate(latent.float(), size=size, mode="bicubic").to(latent)
        height, width = (side * self.factor for side in size)
        pixels = F.interpolate(self.decode(latent).float(), size=(height, width), mode="bicubic").clamp(-1.0, 1.0)
        return self.encode(pixels).to(latent)

    def scale(self, z: Tensor) -> Tensor:
        """The autoencoder's own latent to one of about unit variance."""
        config = self.autoencoder.config
        return (z if config.shift_factor is None else z - config.shift_factor) * config.scaling_factor

    def unscale(self, latent: Tensor) -> Tensor:
        """The inverse of `scale`."""
        config = self.autoencoder.config
        z = latent / config.scaling_factor
        return z if config.shift_factor is None else z + config.shift_factor

    def _in_bands(self, pixels: int, asked: bool | None) -> bool:
        """Whether a picture of so many pixels goes through in bands."""
        return (pixels > WHOLE and not torch.is_grad_enabled()) if asked is None else asked

    def _placed(self, x: Tensor) -> Tensor:
        """On the device and in the dtype of the autoencoder."""
        return x.to(next(self.autoencoder.parameters()))


def to_uint8(pixels: Tensor) -> Tensor:
    """Bytes [B H W 3] on the CPU of pixels [B 3 H W] in [-1, 1]: (x + 1) / 2 * 255 rounded, what is outside clipped."""
    unit = (pixels.detach().float() / 2 + 0.5).clamp(0.0, 1.0)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def from_uint8(bytes_: Tensor) -> Tensor:
    """Pixels [B 3 H W] in [-1, 1], 32-bit floats, of bytes [B H W 3]; `to_uint8` brings the same bytes back."""
    return bytes_.permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1.0
