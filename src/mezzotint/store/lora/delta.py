"""The change of one weight: its factors as a file stores them, and the difference that they make. And many together.

Shapes are those of `algorithms`; W is the weight before the change, [o i] or [o i h w], or a vector [o].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mezzotint.store.lora.algorithms import LOHA, LOKR, LORA, algorithm_of, change_shape, rank_of
from mezzotint.store.lora.names import Place, Shape


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of one weight, by an algorithm of `algorithms`."""

    factors: Mapping[str, Tensor]
    """By role. They may be in any dtype; the change is computed in that of W."""
    alpha: float | None = None
    """The change is multiplied by alpha / rank; none leaves it as it is. A change without a rank has no alpha."""
    magnitude: Tensor | None = None
    """DoRA's m, of as many axes as W, all but one of length 1: the axis that is left keeps its rows' lengths."""

    def __post_init__(self) -> None:
        """Raise UserError where the factors make no change, or do not fit each other."""
        change_shape(self._shapes)

    @classmethod
    def low_rank(
        cls,
        down: Tensor,
        up: Tensor,
        alpha: float | None = None,
        *,
        mid: Tensor | None = None,
        magnitude: Tensor | None = None,
    ) -> Delta:
        """LoRA's change, alpha / r * up @ down, with its `mid` of a convolution and its magnitude of DoRA."""
        core = {} if mid is None else {"lora_mid": mid}
        return cls({"lora_down": down, "lora_up": up, **core}, alpha, magnitude)

    @classmethod
    def full(cls, difference: Tensor) -> Delta:
        """The difference itself."""
        return cls({"diff": difference})

    @property
    def _shapes(self) -> dict[str, Shape]:
        return {role: tuple(tensor.shape) for role, tensor in self.factors.items()}

    @property
    def algorithm(self) -> str:
        """LoRA, LoHa, LoKr or full."""
        return algorithm_of(self.factors)

    @property
    def shape(self) -> Shape:
        """The shape that the factors make, before W gives it its own."""
        return change_shape(self._shapes)

    @property
    def rank(self) -> int | None:
        """The rank, where the algorithm has one."""
        return rank_of(self._shapes)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def is_nothing(self) -> bool:
        """Whether it changes no weight whatever: a factor is zero, and there is no magnitude."""
        return self.magnitude is None and (
            self.scale == 0 or any(not bool(factor.any()) for factor in self.factors.values())
        )

    def change(self, weight: Tensor) -> Tensor:
        """What to add to `weight`, W without any change, in W's dtype, shape and place.

        With a magnitude it is DoRA's (Liu et al. 2024, arXiv:2402.09353, equation 5): with V = W + s BA, and the norm
        over all axes but the magnitude's, W' = m V / ||V||, and W' - W is what to add.
        """
        plain = (self.scale * self._product(weight)).reshape(weight.shape)
        if self.magnitude is None:
            return plain
        changed = weight + plain
        m = self.magnitude.to(weight)
        others = [axis for axis, side in enumerate(m.shape) if side == 1]
        # A row of zeros has no direction to keep; it stays zero.
        length = torch.linalg.vector_norm(changed, dim=others, keepdim=True).clamp_min(1e-30)
        return m * (changed / length) - weight

    def _product(self, like: Tensor) -> Tensor:
        """The factors' product."""
        f = {role: tensor.to(like) for role, tensor in self.factors.items()}
        if self.algorithm == LORA:
            up, down = f["lora_up"].flatten(1), f["lora_down"]
            if "lora_mid" in f:
                return _core(f["lora_mid"], up.T, down.flatten(1))
            return _joined(up, down)
        if self.algorithm == LOHA:
            first, second = (_low_rank(f, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2))
            return first * second
        if self.algorithm == LOKR:
            first, second = (
                f[f"lokr_w{n}"] if f"lokr_w{n}" in f else _low_rank(f, f"lokr_w{n}_a", f"lokr_w{n}_b", f"lokr_t{n}")
                for n in (1, 2)
            )
            # torch.kron reads its second factor through a view, which not every layout in memory allows.
            return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())
        return f["diff"]


def _no_metadata() -> dict[str, str]:
    return {}


@dataclass(frozen=True, eq=False)
class Adapter:
    """What one LoRA file changes of a model."""

    changes: Mapping[Place, Delta]
    """By part and by the parameter's name in our networks, such as ("unet", "conv_in.weight")."""
    metadata: Mapping[str, str] = field(default_factory=_no_metadata)
    """The text that its file carries."""
    name: str = "LoRA"
    """What errors call it: the file's name."""


def magnitude_along(axis: int, values: Tensor, shape: Shape) -> Tensor:
    """DoRA's magnitudes, one for each index of an axis of a weight of this shape, in the shape that Delta wants."""
    return values.reshape([-1 if place == axis else 1 for place in range(len(shape))])


def rs_alpha(alpha: float, rank: int) -> float:
    """The alpha that gives rank-stabilised LoRA's scale, alpha / sqrt(r) (Kalajdzievski 2023, arXiv:2312.03732)."""
    return alpha * math.sqrt(rank)


def _low_rank(f: Mapping[str, Tensor], a: str, b: str, core: str) -> Tensor:
    """The product a [o r] b [r i k], or that of a core [r s k] with a [r o] and b [s i]."""
    return _core(f[core], f[a], f[b]) if core in f else _joined(f[a], f[b])


def _joined(a: Tensor, b: Tensor) -> Tensor:
    """The product of a [o r] and b [r i k], [o i k]."""
    return (a @ b.flatten(1)).reshape(len(a), *b.shape[1:])


def _core(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Tucker's product of a core [r s k] with a [r o] and b [s i], [o i k]."""
    return torch.einsum("rs...,ro,si->oi...", core, a, b)
