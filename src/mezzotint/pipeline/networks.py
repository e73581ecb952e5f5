"""Who denoises: a model's own denoiser, what is made of it for some pictures, and other models that some rows ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.perturbed import perturbed
from mezzotint.denoise.picture_layers import PictureLayers
from mezzotint.denoise.unet import UNet
from mezzotint.denoise.variants import with_modules
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.sampling.loop import Denoises
from mezzotint.sampling.upscale import reaching
from mezzotint.types import UserError

if TYPE_CHECKING:
    from mezzotint.conditioning.text import Conditioner


class Wanted(NamedTuple):
    """A denoiser that a row asks for."""

    schedule: NoiseSchedule
    """What noise the model is taken to know; another model's is its own."""
    way: str
    """How it reaches beyond the size that it knows: see `sampling.upscale`."""
    trained: tuple[int, int]
    """That size, height and width of a latent."""
    perturbed: bool = False
    """Whether its coarsest self-attention is taken away."""
    model: str = ""
    """Another model, by its name."""
    hinted: bool = False
    """Whether it reads hints beside the latent."""
    pictured: bool = False
    """Whether it reads pictures beside the words."""


@dataclass(frozen=True)
class Other:
    """Another model, for rows that a worse one is asked for."""

    denoiser: Denoiser
    conditioner: Conditioner


class Networks:
    """The denoisers around one U-Net, each made when it is first asked for; all share the U-Net's parameters."""

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        load: Callable[[str], Other],
        hinted: Callable[[], UNet],
        picture_layers: Callable[[], PictureLayers],
        max_rows: int,
    ) -> None:
        """`load` reads another model, by its name; `hinted` makes the U-Net that reads hints, and `picture_layers` what
        reads pictures beside the words. No call of a network has more than `max_rows` rows.
        """
        self._own = denoiser
        self._load = load
        self._hinted = cache(hinted)
        self._picture_layers = cache(picture_layers)
        self._max_rows = max_rows
        self._made: dict[Wanted, Denoises] = {}
        self._others: dict[str, Other] = {}

    def other(self, name: str) -> Other:
        """Another model. Raises UserError where there is none, or its latents have other channels."""
        if name not in self._others:
            other = self._load(name)
            have, want = other.denoiser.unet.config, self._own.unet.config
            if (have.in_channels, have.out_channels) != (want.in_channels, want.out_channels):
                raise UserError(
                    f"The model {name} denoises latents of {have.in_channels} channels, and this one those of "
                    f"{want.in_channels}: choose another to guide by."
                )
            self._others[name] = other
        return self._others[name]

    def get(self, wanted: Wanted) -> Denoises | None:
        """The denoiser, the same object at every call; none where it is the model's own."""
        changed = wanted.perturbed or wanted.model or wanted.hinted or wanted.pictured
        if wanted.way == "none" and not changed and wanted.schedule == self._own.schedule:
            return None
        if wanted not in self._made:
            self._made[wanted] = self._make(wanted)
        return self._made[wanted]

    def _make(self, wanted: Wanted) -> Denoises:
        if wanted.model:
            base = self.other(wanted.model).denoiser
        else:
            unet = self._hinted() if wanted.hinted else self._own.unet
            if wanted.pictured:
                unet = with_modules(unet, {"pictures": self._picture_layers()})
            base = Denoiser(unet, wanted.schedule)
        unet = perturbed(base.unet) if wanted.perturbed else base.unet
        return reaching(Denoiser(unet, base.schedule), wanted.way, wanted.trained, self._max_rows)
