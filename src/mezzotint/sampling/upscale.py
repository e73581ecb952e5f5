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


def way(upscale: str, size: Size, trained: Sequence[Size]) -> str:
    """What `upscale` comes to for a picture of this size: none, two-pass, tiles or dilated.

    Sizes are (width, height) in pixels; `trained` are those that the model knows.
    """
    if not is_large(size, trained):
        return "none"
    return AUTO if upscale == "auto" else upscale


def passes(
    chosen: str, size: Size, trained: Sequence[Size], factor: int, sigmas: Sequence[float], schedule: NoiseSchedule
) -> list[Pass]:
    """The passes of a picture drawn in the way `chosen` along `sigmas`, `factor` being pixels a place of a latent.

    A walk that begins where the later pass would has that one alone.
    """
    if chosen not in ("two-pass", "tiles") or len(sigmas) == 1 or sigmas[0] <= start(schedule, sigmas):
        return [Pass(places(size, factor), tuple(sigmas))]
    first = native(size, nearest(size, trained), factor)
    return plan(places(first, factor), places(size, factor), sigmas, start(schedule, sigmas))


def places(size: Size, factor: int) -> tuple[int, int]:
    """Height and width of the latents of a size in pixels."""
    return size[1] // factor, size[0] // factor


def reaching(denoiser: Denoiser, chosen: str, trained: tuple[int, int], max_rows: int) -> AnyDenoiser:
    """What answers all passes of a picture drawn in the way `chosen`; at latents of size `trained` (h, w) `denoiser`.

    No call of it has more than `max_rows` rows.
    """
    if chosen == "none":
        return denoiser
    if chosen == "tiles":
        return Tiled(denoiser, trained, min(trained) // 2, max_rows=max_rows)
    seeing = Denoiser(shrunk(denoiser.unet, trained), denoiser.schedule)
    if chosen == "two-pass":
        return seeing
    return ByNoise(seeing, denoiser, sigma_at(denoiser.schedule, SETTLED))


def start(schedule: NoiseSchedule, sigmas: Sequence[float]) -> float:
    """The sigma where a later pass begins: that of STRENGTH, or the least above the end of a walk that ends higher."""
    wanted = sigma_at(schedule, STRENGTH)
    return wanted if wanted > sigmas[-1] else min(sigma for sigma in sigmas if sigma > sigmas[-1])


def sigma_at(schedule: NoiseSchedule, place: float) -> float:
    """The sigma at a place on the schedule from 0 to 1."""
    return schedule.sigma(place * (schedule.num_train_timesteps - 1))
