"""The noise schedule of a discrete-time diffusion model, told in sigmas.

A schedule is T betas; abar_t is the product of (1 - beta) up to t (Ho et al. 2020, arXiv 2006.11239, equation 4), and
sigma_t = sqrt((1 - abar_t) / abar_t), so that x = x0 + sigma * n, and x / sqrt(1 + sigma^2) is the form
sqrt(abar) * x0 + sqrt(1 - abar) * n. Tables are float64 on the CPU; timesteps run from 0 to T - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from mezzotint.noise.parameterisation import Prediction
from mezzotint.types import UserError

SHAPES = ("linear", "scaled_linear", "squaredcos_cap_v2")
MOST_TIMESTEPS = 1_000_000
"""Beyond this a file is damaged; the tables of all published schedules have 1000 rows."""
SPACINGS = ("leading", "linspace", "trailing")

TERMINAL_ALPHA_BAR = 2.0**-24
"""Stands for the zero of a zero-terminal-SNR schedule, so that its last sigma is not infinite but 4096 (less 1e-4)."""
FAR = 2.0**16
"""The sigma that stands for infinity in walks of DDIM, which diffusers does not cap."""

SPACED_LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
"""The diffusers classes whose spacing, when their file does not say, is "leading"; the others' is "linspace"."""

CAPPED = (
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "UniPCMultistepScheduler",
)
"""The diffusers classes that put TERMINAL_ALPHA_BAR in the place of zero; DDIM and the others divide by it."""


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """How much noise there is at each timestep; the fields are those of diffusers' scheduler_config.json.

    Raises UserError for a shape, spacing or number that makes no schedule.
    """

    num_train_timesteps: int = 1000
    """T."""
    beta_start: float = 0.00085
    """beta_0, for the linear shapes."""
    beta_end: float = 0.012
    """beta_{T-1}, for the linear shapes."""
    beta_schedule: str = "scaled_linear"
    """linear in beta, scaled_linear (in its root), or squaredcos_cap_v2 (Nichol and Dhariwal 2021, equation 17)."""
    trained_betas: tuple[float, ...] | None = None
    """The betas themselves, where no formula gives them."""
    rescale_betas_zero_snr: bool = True
    """Whether the last timestep is pure noise (Lin et al. 2023, arXiv 2305.08891, algorithm 1)."""
    prediction_type: Prediction = Prediction.V
    """What the network that was trained on this schedule predicts."""
    timestep_spacing: str = "trailing"
    """Which timesteps a walk of few steps visits (Lin et al. 2023, table 2)."""
    steps_offset: int = 1
    """Added to the timesteps of "leading" spacing."""
    set_alpha_to_one: bool = True
    """Whether DDIM ends at sigma = 0, as all other walks do, or at the sigma of timestep 0, as it was published."""

    def __post_init__(self) -> None:
        """Check what no table could be made of."""
        if self.beta_schedule not in SHAPES:
            raise UserError(f'The beta_schedule is "{self.beta_schedule}"; it must be one of {", ".join(SHAPES)}.')
        if self.timestep_spacing not in SPACINGS:
            spacing = self.timestep_spacing
            raise UserError(f'The timestep_spacing is "{spacing}"; it must be one of {", ".join(SPACINGS)}.')
        if not 2 <= self.num_train_timesteps <= MOST_TIMESTEPS:
            steps = self.num_train_timesteps
            raise UserError(f"The schedule has {steps} timesteps; it needs at least 2 and at most {MOST_TIMESTEPS}.")
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise UserError(
                f"The schedule has {len(self.trained_betas)} trained_betas for {self.num_train_timesteps} timesteps."
            )
        if self.rescale_betas_zero_snr and self.prediction_type is Prediction.EPSILON:
            raise UserError(
                "A network that predicts epsilon says nothing of the picture at a last timestep of pure noise: "
                "turn rescale_betas_zero_snr off first, or let it predict v_prediction."
            )
        if min(self.beta_start, self.beta_end) < 0 or not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise UserError("The schedule's betas must be between 0 and 1: mend beta_start, beta_end or trained_betas.")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NoiseSchedule:
        """The schedule that a scheduler_config.json describes, with that file's class's defaults for what it omits.

        Keys that choose or tune a sampler (`solver_order`, `use_karras_sigmas`, `clip_sample`, ...) are not read,
        because the sampler is the request's choice. A file that joins epsilon with zero terminal SNR is read only where
        diffusers can draw by it: where the class is one of CAPPED, or its "leading" walks begin before the last
        timestep. Its table, capped, then becomes the schedule's `trained_betas`. Raises UserError where the file is of
        another kind of schedule.
        """
        name = str(values.get("_class_name", "DDIMScheduler"))
        if "num_train_timesteps" not in values or name.startswith("FlowMatch") or "sigma_data" in values:
            raise UserError(f"The scheduler {name} is not a schedule of betas, the only kind that can be read here.")
        defaults: dict[str, Any] = {
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "rescale_betas_zero_snr": False,
            "prediction_type": "epsilon",
            "timestep_spacing": "leading" if name in SPACED_LEADING else "linspace",
            "steps_offset": 0,
        }
        known = {field.name for field in fields(cls)}
        chosen = defaults | {key: value for key, value in values.items() if key in known}
        predictions = [str(prediction) for prediction in Prediction]
        if chosen["prediction_type"] not in predictions:
            prediction = chosen["prediction_type"]
            raise UserError(f'The prediction_type is "{prediction}"; it must be one of {", ".join(predictions)}.')
        chosen["prediction_type"] = Prediction(chosen["prediction_type"])
        if chosen.get("trained_betas") is not None:
            chosen["trained_betas"] = tuple(float(beta) for beta in chosen["trained_betas"])
        zero_snr = chosen["rescale_betas_zero_snr"] and chosen["prediction_type"] is Prediction.EPSILON
        if zero_snr and (name in CAPPED or chosen["timestep_spacing"] == "leading"):
            readable: dict[str, Any] = {**chosen, "prediction_type": Prediction.V}
            alpha_bar = cls(**readable).alphas_cumprod
            betas = 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
            chosen |= {"trained_betas": tuple(betas.tolist()), "rescale_betas_zero_snr": False}
        return cls(**chosen)

    def to_dict(self) -> dict[str, Any]:
        """The schedule as a diffusers DDIMScheduler's scheduler_config.json."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["prediction_type"] = str(self.prediction_type)
        if self.trained_betas is not None:
            values["trained_betas"] = list(self.trained_betas)
        return {"_class_name": "DDIMScheduler", **values, "clip_sample": False, "thresholding": False}

    @cached_property
    def betas(self) -> Tensor:
        """beta_t [T] float64, before any rescaling."""
        count = self.num_train_timesteps
        if self.trained_betas is not None:
            return torch.tensor(self.trained_betas, dtype=torch.float64)
        if self.beta_schedule == "linear":
            return torch.linspace(self.beta_start, self.beta_end, count, dtype=torch.float64)
        if self.beta_schedule == "scaled_linear":
            return torch.linspace(self.beta_start**0.5, self.beta_end**0.5, count, dtype=torch.float64) ** 2
        edges = torch.arange(count + 1, dtype=torch.float64) / count
        alpha_bar = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """abar_t [T] float64, descending, the last one 2^-24 when the terminal SNR is zero."""
        alpha_bar = (1 - self.betas).cumprod(0)
        if not self.rescale_betas_zero_snr:
            return alpha_bar
        # Shift the root so that it ends at zero, then scale it so that it begins where it began.
        root = alpha_bar.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return torch.cat([root[:-1] ** 2, root.new_tensor([TERMINAL_ALPHA_BAR])])

    @cached_property
    def sigmas(self) -> Tensor:
        """sigma_t [T] float64, ascending."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @property
    def sigma_min(self) -> float:
        """The sigma of timestep 0."""
        return float(self.sigmas[0])

    @property
    def sigma_max(self) -> float:
        """The sigma of timestep T - 1, where drawing begins."""
        return float(self.sigmas[-1])

    @overload
    def timestep(self, sigma: float) -> float: ...
    @overload
    def timestep(self, sigma: Tensor) -> Tensor: ...
    def timestep(self, sigma: float | Tensor) -> float | Tensor:
        """The c_noise of each sigma: its timestep, linear in log sigma between the table's entries.

        A sigma outside the table has the timestep of the nearer end. A tensor of any shape gives float32 of that shape
        on its device, worked out in float64 on the CPU.
        """
        return _interpolate(sigma, self._log_sigmas, torch.arange(len(self.sigmas), dtype=torch.float64), log=True)

    @overload
    def sigma(self, timestep: float) -> float: ...
    @overload
    def sigma(self, timestep: Tensor) -> Tensor: ...
    def sigma(self, timestep: float | Tensor) -> float | Tensor:
        """The inverse of `timestep`: the table's sigma at whole timesteps, linear in log sigma between them.

        A timestep outside [0, T - 1] has the sigma of the nearer end.
        """
        places = torch.arange(len(self.sigmas), dtype=torch.float64)
        return _interpolate(timestep, places, self._log_sigmas, exp=True)

    @cached_property
    def _log_sigmas(self) -> Tensor:
        return self.sigmas.log()

    def timesteps(self, steps: int) -> list[int]:
        """The `steps` timesteps of a walk, descending, as diffusers' DDIMScheduler spaces them.

        Differences, all at the edges: "leading" drops as much of `steps_offset` as would leave the table, one step of
        "linspace" begins at the last timestep, not the first, and "trailing" never gives a step too many. Raises
        UserError for more steps than the schedule has, or fewer than 1.
        """
        self.check_steps(steps)
        count = self.num_train_timesteps
        if self.timestep_spacing == "leading":
            stride = count // steps
            offset = min(self.steps_offset, count - 1 - (steps - 1) * stride)
            return [i * stride + offset for i in reversed(range(steps))]
        # numpy's linspace and arange, because their rounding decides the halves.
        if self.timestep_spacing == "linspace" and steps > 1:
            places = np.linspace(0, count - 1, steps)[::-1].round()
        else:
            places = np.arange(count, 0, -count / steps)[:steps].round() - 1
        return places.astype(int).tolist()

    def check_steps(self, steps: int) -> None:
        """Raise UserError for more steps than the schedule has timesteps, or fewer than 1."""
        if not 1 <= steps <= self.num_train_timesteps:
            count = self.num_train_timesteps
            raise UserError(f"The number of steps is {steps}; this model takes from 1 to {count}.")

    def first_sigma(self, sigma: float, *, ddim: bool) -> float:
        """Where a walk begins whose first sigma in the table is `sigma`: FAR for ddim at zero terminal SNR."""
        return FAR if ddim and self.rescale_betas_zero_snr and sigma == self.sigma_max else sigma

    def walk(self, steps: int, *, ddim: bool = False) -> list[float]:
        """The sigmas of a walk from noise to latent: steps + 1 of them, descending, the last 0.

        `ddim`: a walk that begins at zero terminal SNR begins at FAR, and where `set_alpha_to_one` is off the last is
        the sigma of timestep 0. Raises UserError for a number of steps below 1 or above the schedule's.
        """
        first, *rest = (float(self.sigmas[t]) for t in self.timesteps(steps))
        return [
            self.first_sigma(first, ddim=ddim),
            *rest,
            self.sigma_min if ddim and not self.set_alpha_to_one else 0.0,
        ]


def _interpolate(at: float | Tensor, x: Tensor, y: Tensor, *, log: bool = False, exp: bool = False) -> Any:
    """The value of y over ascending x [T] at `at` (or its log, or exp of it), linear, and constant beyond the ends."""
    place = (at.detach().cpu() if isinstance(at, Tensor) else torch.tensor(at, dtype=torch.float64)).double()
    place = (place.log() if log else place).clamp(x[0], x[-1])
    right = torch.searchsorted(x, place.contiguous(), right=True).clamp(1, len(x) - 1)
    weight = (place - x[right - 1]) / (x[right] - x[right - 1])
    value = torch.lerp(y[right - 1], y[right], weight)
    value = value.exp() if exp else value
    return value.to(at.device, torch.float32) if isinstance(at, Tensor) else float(value)
