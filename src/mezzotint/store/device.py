"""Where a model runs and in what precision, from what a user types."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mezzotint.types import UserError

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""The precisions that a model can run in, by the names people use."""


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; none is the accelerator if there is one, else the CPU.

    Raises UserError for a name that is no device, or one that this machine does not have.
    """
    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"There is no device {str(device)!r} here: use cpu, or one that torch finds.") from error
    if chosen.type == "meta":
        raise UserError("The device meta holds no numbers: use cpu, or one that torch finds.")
    return chosen


def first_device(names: Iterable[str | None]) -> torch.device:
    """The first of these devices that this machine has; none is as in `choose_device`.

    Raises UserError where it has none of them.
    """
    error = UserError("No device is asked for: name one.")
    for name in names:
        try:
            return choose_device(name)
        except UserError as its_own:
            error = its_own
    raise error


def hardware(device: torch.device) -> str:
    """What a device is, as far as it decides how sums are rounded: a GPU's name, or a CPU's vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type


def choose_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of that name; none stays none. Raises UserError for one that a model cannot run in."""
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise UserError(f"There is no dtype {dtype!r}: use one of {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if dtype is not None and dtype not in DTYPES.values():
        raise UserError(f"A model cannot run in {dtype}: use one of {', '.join(DTYPES)}.")
    return dtype
