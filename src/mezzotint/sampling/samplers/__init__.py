"""Samplers: the walk from noise to latent, each a coroutine that reads like its paper. Imports no torch.

A sampler asks for a clean estimate by yielding a Query and is sent the estimate; it never calls the network, so whoever
drives it decides about batches, progress, previews and cancelling (see `loop`).

    x        [B ...] any shape and floating dtype, x = x0 + sigma * n throughout
    sigmas   descending floats, the first that of x, the last 0 (or any sigma to stop at); where one is repeated, that
             step asks and stays
    noise    gives a fresh tensor of x's shape and unit variance; only samplers that add noise call it
    eta      how much noise those add, as a share of what their paper has

Every update is written as clean estimate plus what noise remains, x0 + (sigma' / sigma) * (x - x0), never as x plus a
slope times a step: from a sigma of 4096, where a zero-terminal-SNR walk begins, the latter loses all of x0's digits
in fp32. Ratios of sigmas are Python floats, so nothing overflows.
"""

from __future__ import annotations

from mezzotint.sampling.samplers.base import Noise, Query, Sampler, Walk
from mezzotint.sampling.samplers.dpmpp import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_2s_ancestral,
    dpmpp_3m_sde,
    dpmpp_sde,
    unipc,
)
from mezzotint.sampling.samplers.er_sde import er_sde
from mezzotint.sampling.samplers.first import ddim, ddpm, euler, euler_ancestral, lcm, tcd
from mezzotint.sampling.samplers.multistep import deis, lms, plms
from mezzotint.sampling.samplers.second import dpm2, dpm2_ancestral, heun, restart
from mezzotint.types import UserError

__all__ = ["SAMPLERS", "Noise", "Query", "Sampler", "Walk", "sampler_named"]

_TABLE = (
    Sampler(name="ddpm", walk=ddpm, order=1, eta=1.0, about="the first: much fresh noise, and many steps"),
    Sampler(name="ddim", walk=ddim, order=1, eta=0.0, about="euler by the name people know, with noise if eta says so"),
    Sampler(name="plms", walk=plms, order=2, about="Stable Diffusion's first; looks twice in the first step"),
    Sampler(name="euler", walk=euler, order=1, about="the plain walk"),
    Sampler(name="euler-ancestral", walk=euler_ancestral, order=1, eta=1.0, about="with fresh noise; the same as ddpm"),
    Sampler(name="heun", walk=heun, order=2, evaluations=2, about="the mean of the slopes at both ends of a step"),
    Sampler(name="lms", walk=lms, order=2, about="remembers up to four slopes"),
    Sampler(name="dpm2", walk=dpm2, order=2, evaluations=2, about="the slope in the middle of a step"),
    Sampler(name="dpm2-ancestral", walk=dpm2_ancestral, order=2, evaluations=2, eta=1.0, about="dpm2 with fresh noise"),
    Sampler(
        name="dpmpp-2s-ancestral",
        walk=dpmpp_2s_ancestral,
        order=2,
        evaluations=2,
        eta=1.0,
        about="the estimate in the middle of a step, with fresh noise",
    ),
    Sampler(name="dpmpp-2m", walk=dpmpp_2m, order=2, about="remembers an estimate; good in few steps"),
    Sampler(name="dpmpp-sde", walk=dpmpp_sde, order=2, evaluations=2, eta=1.0, about="noise in both halves of a step"),
    Sampler(name="dpmpp-2m-sde", walk=dpmpp_2m_sde, order=2, eta=1.0, about="dpmpp-2m with fresh noise"),
    Sampler(name="dpmpp-3m-sde", walk=dpmpp_3m_sde, order=2, eta=1.0, about="remembers two estimates; fresh noise"),
    Sampler(name="unipc", walk=unipc, order=3, about="dpmpp-2m, corrected by the next estimate for nothing"),
    Sampler(name="deis", walk=deis, order=2, about="remembers a slope; good in few steps"),
    Sampler(
        name="restart",
        walk=restart,
        order=2,
        evaluations=2,
        eta=1.0,
        most_eta=1.0,
        about="heun, and once more from sigma 0.1 up to 2 and down",
    ),
    Sampler(name="er-sde", walk=er_sde, order=2, eta=1.0, about="little fresh noise; remembers two estimates"),
    Sampler(
        name="lcm", walk=lcm, order=1, eta=1.0, most_eta=1.0, about="all noise fresh; for consistency models, 4 steps"
    ),
    Sampler(
        name="tcd",
        walk=tcd,
        order=1,
        eta=0.3,
        most_eta=1.0,
        in_timesteps=True,
        about="eta is gamma; for trajectory consistency models",
    ),
)

SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _TABLE}
"""Every sampler by the name that a request carries."""


def sampler_named(name: str) -> Sampler:
    """The sampler of that name. Raises UserError listing the names."""
    if name not in SAMPLERS:
        raise UserError(f'There is no sampler "{name}": choose one of {", ".join(SAMPLERS)}.')
    return SAMPLERS[name]
