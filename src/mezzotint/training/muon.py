"""Muon: of every matrix's momentum only the directions count, not how long it is along each.

An AdamW step is long along few directions of a matrix, those of most of the gradients, and the others hardly learn.
Here the momentum's singular values are all made about one (Jordan 2024, https://kellerjordan.github.io/posts/muon),
and the step as long as AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that its learning rates serve.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LEAST_SIDE = 64
"""Matrices with a shorter side are AdamW's: first and last layers, whose rows are channels that mean something."""
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of Jordan 2024: its odd powers bring singular values between 0 and 1 close to 1 in `ROUNDS`."""
ROUNDS = 5
LENGTH = 0.2
"""The root mean square of AdamW's steps, in learning rates."""


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn and are matrices of enough sides, convolutions by [out, in * kernel]; no embeddings."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    return [
        parameter
        for parameter in network.parameters()
        if parameter.requires_grad
        and parameter.dim() > 1
        and id(parameter) not in tables
        and min(len(parameter), parameter[0].numel()) >= LEAST_SIDE
    ]


class Muon(torch.optim.Optimizer):
    """Of matrices as `matrices` finds them."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step along the directions of Nesterov's momentum; what evaluates a loss anew (`closure`) is not taken."""
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault((len(parameter), parameter[0].numel()), []).append(parameter)
            for (rows, columns), parameters in alike.items():
                ahead = torch.stack([self._ahead(each, group["momentum"]).flatten(1) for each in parameters])
                length = group["lr"] * LENGTH * max(rows, columns) ** 0.5
                for parameter, directions in zip(parameters, orthogonal(ahead), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(directions.view(parameter.shape), alpha=-length)

    def _ahead(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        kept: Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(kept, momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices [N m n] with the singular vectors of these and singular values of about 1, from 0.7 to 1.2, by the
    iteration of Newton and Schulz, in bfloat16.
    """
    x = matrices.bfloat16()
    upright = x.shape[1] > x.shape[2]
    if upright:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, third, fifth = POLYNOMIAL
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return (x.mT if upright else x).to(matrices.dtype)
