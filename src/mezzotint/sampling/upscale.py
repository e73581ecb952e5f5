"""How a picture beyond the trained size keeps one scene: what `Request.upscale` means, in one table.

| upscale  | passes                           | denoiser                                                     |
|----------|----------------------------------|--------------------------------------------------------------|
| none     | one, at the size                 | the model's own                                              |
| two-pass | at the trained size, then larger | shrunk features in the larger pass (`denoise.shrunk`)        |
| tiles    | at the trained size, then larger | fused tiles of the trained size in the larger pass (`tiles`) |
| dilated  | one, at the size                 | shrunk features at high noise, then the model's own          |

`auto` is none up to `sizes.NEAR` times a trained area and AUTO beyond. The numbers were measured (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.shrunk import ByNoise, shrunk
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.sampling.sizes import Size, is_large, native, nearest
from mezzotint.sampling.tiles import Tiled
from mezzotint.sampling.two_pass import Pass, plan

AUTO = "two-pass"
"""What `auto` is for large pictures."""
STRENGTH = 0.1
"""Where on the schedule a later pass begins: 0 at no noise, 1 at the last timestep."""
SETTLED = 0.1
"""Below this place on the schedule "dilated" draws with the model's own network."""

AnyDenoiser = Denoiser | Tiled | ByNoise


class Upscaler:
    """The ways to draw large with one model."""

    def __init__(self, denoiser: Denoiser, trained: Sequence[Size], factor: int, *, max_rows: int = 16) -> None:
        """`trained` are the sizes (width, height) in pixels that the model knows, `factor` pixels a place of a latent.

        No call of the denoiser has more than `max_rows` rows.
        """
        self._denoiser, self._trained, self._factor, self._max_rows = denoiser, tuple(trained), factor, max_rows
        self._unet = denoiser.unet
        self._made: dict[tuple[str, tuple[int, int]], AnyDenoiser] = {}

    def way(self, upscale: str, size: Size) -> str:
        """What `upscale` comes to for a picture of this size: none, two-pass, tiles or dilated."""
        if not is_large(size, self._trained):
            return "none"
        return AUTO if upscale == "auto" else upscale

    def native(self, size: Size) -> Size:
        """The size of the first of several passes, in pixels, for a picture of `size`."""
        return native(size, nearest(size, self._trained), self._factor)

    def passes(self, upscale: str, size: Size, sigmas: Sequence[float]) -> list[Pass]:
        """The passes of a picture of `size`, (width, height) in pixels and multiples of the factor, along `sigmas`."""
        large = self._places(size)
        if self.way(upscale, size) not in ("two-pass", "tiles"):
            return [Pass(large, tuple(sigmas))]
        return plan(self._places(self.native(size)), large, sigmas, start(self._denoiser.schedule, sigmas))

    def denoiser(self, upscale: str, size: Size) -> AnyDenoiser:
        """What answers all passes of such a picture; the same object for all pictures that it can answer together."""
        way = self.way(upscale, size)
        if way == "none":
            return self._denoiser
        trained = self._places(nearest(size, self._trained))
        if self._unet is not self._denoiser.unet:  # another network was put in its place
            self._unet, self._made = self._denoiser.unet, {}
        if (way, trained) not in self._made:
            self._made[way, trained] = self._make(way, trained)
        return self._made[way, trained]

    def _make(self, way: str, trained: tuple[int, int]) -> AnyDenoiser:
        own = self._denoiser
        if way == "tiles":
            return Tiled(own, trained, min(trained) // 2, max_rows=self._max_rows)
        seeing = Denoiser(shrunk(own.unet, trained), own.schedule)
        if way == "two-pass":
            return seeing  # at the trained size it is the model's own
        return ByNoise(seeing, own, sigma_at(own.schedule, SETTLED))

    def _places(self, size: Size) -> tuple[int, int]:
        """Height and width of the latents of a size in pixels."""
        return size[1] // self._factor, size[0] // self._factor


def start(schedule: NoiseSchedule, sigmas: Sequence[float]) -> float:
    """The sigma where a later pass begins: that of STRENGTH, or the least above the end of a walk that ends higher."""
    wanted = sigma_at(schedule, STRENGTH)
    return wanted if wanted > sigmas[-1] else min(sigma for sigma in sigmas if sigma > sigmas[-1])


def sigma_at(schedule: NoiseSchedule, place: float) -> float:
    """The sigma at a place on the schedule from 0 to 1."""
    return schedule.sigma(place * (schedule.num_train_timesteps - 1))
