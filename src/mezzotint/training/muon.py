"""Muon: of every matrix's momentum only the directions count, not how long it is along each.

An AdamW step is long along few directions of a matrix, those of most of the gradients, and the others hardly learn.
Here the momentum's singular values are made nearly alike (Jordan 2024, https://kellerjordan.github.io/posts/muon), and
the step about as long as AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that its learning rates serve.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LEAST_SIDE = 64
"""Matrices with a shorter side are AdamW's, as are the first and last layers of a U-Net and low-rank changes."""
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of Jordan 2024: the weights of x, its third power and its fifth, which bring singular values near 1 in `ROUNDS`."""
ROUNDS = 5
LENGTH = 0.2
"""The root mean square of a step, in learning rates: about that of AdamW's."""


def matrices(network: nn.Module) -> list[nn.Parameter]:
    """Those that learn, with both sides `LEAST_SIDE` or longer, convolutions as [out, in * kernel]; no embeddings."""
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
    """The optimiser of the matrices that `matrices` finds."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        """`bf16`: whether steps are computed in bfloat16; momentum and weights stay as they are."""
        self._dtype = torch.bfloat16 if bf16 else torch.float32
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
                for parameter, directions in zip(parameters, orthogonal(ahead.to(self._dtype)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(directions.view(parameter.shape).to(parameter), alpha=-length)

    def _ahead(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        kept: Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(kept, momentum)


def orthogonal(batch: Tensor) -> Tensor:
    """Matrices [N m n] with the singular vectors of these. Singular values of 0.003 of a matrix's norm or more come to
    0.68 to 1.2; smaller ones stay smaller. By the iteration of Newton and Schulz, in the dtype given.
    """
    upright = batch.shape[1] > batch.shape[2]
    x = batch.mT if upright else batch
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    first, third, fifth = POLYNOMIAL
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.mT if upright else x
