"""Which factors make a change of a weight, and the shape of what they make. Imports no torch.

Legend: o and i outputs and inputs of the layer, k its kernel (nothing, or height and width), r a rank.

LoRA   up [o r] down [r i k]; with lora_mid [r r k] between, down is [r i]  (Hu et al. 2021, arXiv:2106.09685)
LoHa   the elementwise product of two low ranks (Hyeon-Woo et al. 2021, FedPara, arXiv:2108.06098)
LoKr   the Kronecker product of two matrices, each whole or of low rank (Yeh et al. 2023, LyCORIS, arXiv:2309.14859)
full   the difference itself

A 1x1 kernel may be written as two sides of one. The letters and layouts are those of LyCORIS' files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from mezzotint.store.lora.names import Shape
from mezzotint.types import UserError

LORA, LOHA, LOKR, FULL = "LoRA", "LoHa", "LoKr", "full"

FACTORS: dict[str, tuple[frozenset[str], ...]] = {
    LORA: (frozenset({"lora_down", "lora_up"}), frozenset({"lora_down", "lora_up", "lora_mid"})),
    LOHA: (
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
    ),
    LOKR: tuple(
        first | second
        for first in (frozenset({"lokr_w1"}), frozenset({"lokr_w1_a", "lokr_w1_b"}))
        for second in (
            frozenset({"lokr_w2"}),
            frozenset({"lokr_w2_a", "lokr_w2_b"}),
            frozenset({"lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
        )
    ),
    FULL: (frozenset({"diff"}),),
}
"""What the factors of each algorithm are called; of several sets one is there."""
LENDS_RANK = {LORA: ("lora_down",), LOHA: ("hada_w1_b",), LOKR: ("lokr_w1_b", "lokr_w2_b"), FULL: ()}
"""The factors whose first side is the rank; LyCORIS gives both halves of LoKr the same."""


def algorithm_of(roles: Iterable[str]) -> str:
    """The algorithm whose factors these are. Raises UserError where they are none's, or not all of them."""
    given = frozenset(roles)
    for algorithm, choices in FACTORS.items():
        if given in choices:
            return algorithm
    known = frozenset().union(*(choice for choices in FACTORS.values() for choice in choices))
    if not given <= known:
        raise UserError(f"{', '.join(sorted(given - known))} is no factor that is known here")
    raise UserError(f"{', '.join(sorted(given)) or 'nothing'} alone makes no change: a factor is missing or too many")


def rank_of(shapes: Mapping[str, Shape]) -> int | None:
    """The rank of a change, or none where it has none: a whole difference, or two whole matrices of LoKr."""
    for role in LENDS_RANK[algorithm_of(shapes)]:
        if role in shapes:
            return shapes[role][0]
    return None


def change_shape(shapes: Mapping[str, Shape]) -> Shape:
    """The shape of the change that factors of these shapes make.

    Raises UserError, a clause to stand behind the layer's name, where they do not fit each other.
    """
    algorithm = algorithm_of(shapes)
    if any(len(shape) < 2 or 0 in shape for role, shape in shapes.items() if role != "diff"):
        raise _misfit(shapes)
    if algorithm == FULL:
        return shapes["diff"]
    if algorithm == LORA:
        up, down, mid = shapes["lora_up"], shapes["lora_down"], shapes.get("lora_mid")
        if mid is None:
            return _joined(shapes, _matrix(shapes, up), down)
        return _core(shapes, mid, _matrix(shapes, up)[::-1], _matrix(shapes, down))
    if algorithm == LOHA:
        halves = [_low_rank(shapes, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2)]
        if halves[0] != halves[1]:
            raise _misfit(shapes)
        return halves[0]
    first, second = (
        shapes[f"lokr_w{n}"]
        if f"lokr_w{n}" in shapes
        else _low_rank(shapes, f"lokr_w{n}_a", f"lokr_w{n}_b", f"lokr_t{n}")
        for n in (1, 2)
    )
    if len(first) != 2:
        raise _misfit(shapes)
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def fits(change: Shape, parameter: Shape) -> bool:
    """Whether a change of this shape is one of a parameter of that shape.

    A matrix may stand for a kernel that it holds row by row, and a 1x1 kernel for a matrix.
    """
    if change == parameter:
        return True
    if len(change) == 2 and len(parameter) == 4:
        return change == (parameter[0], prod(parameter[1:]))
    return len(change) == 4 and change[2:] == (1, 1) and change[:2] == parameter


def _low_rank(shapes: Mapping[str, Shape], a: str, b: str, core: str) -> Shape:
    """The shape of a [o r] b [r i k], or of core [r r k] between a [r o] and b [r i]."""
    if core in shapes:
        return _core(shapes, shapes[core], shapes[a], shapes[b])
    return _joined(shapes, shapes[a], shapes[b])


def _joined(shapes: Mapping[str, Shape], a: Shape, b: Shape) -> Shape:
    """The shape of a [o r] b [r i k]."""
    if len(a) != 2 or a[1] != b[0]:
        raise _misfit(shapes)
    return (a[0], *b[1:])


def _core(shapes: Mapping[str, Shape], core: Shape, a: Shape, b: Shape) -> Shape:
    """The shape of core [r s k] with a [r o] before it and b [s i] behind."""
    if len(a) != 2 or len(b) != 2 or core[:2] != (a[0], b[0]):
        raise _misfit(shapes)
    return (a[1], b[1], *core[2:])


def _matrix(shapes: Mapping[str, Shape], factor: Shape) -> Shape:
    """The shape of a factor that is a matrix, though it may be written as a 1x1 kernel."""
    if any(side != 1 for side in factor[2:]):
        raise _misfit(shapes)
    return factor[:2]


def _misfit(shapes: Mapping[str, Shape]) -> UserError:
    listed = ", ".join(f"{role} {list(shape)}" for role, shape in sorted(shapes.items()))
    return UserError(f"its factors do not fit each other: {listed}")
