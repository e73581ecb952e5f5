"""Changes in closed form: matrices small enough to be written out, whole numbers that floats hold exactly."""

from __future__ import annotations

import pytest
import torch

from mezzotint.store.lora.algorithms import algorithm_of, change_shape, fits
from mezzotint.store.lora.delta import Delta, magnitude_along, rs_alpha
from mezzotint.types import UserError


def whole(*shape: int, seed: int = 0) -> torch.Tensor:
    """Small whole numbers."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_a_low_rank() -> None:
    delta = Delta.low_rank(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]]), alpha=2.0)
    assert (delta.rank, delta.scale, delta.shape) == (1, 2.0, (2, 3))
    change = delta.change(torch.zeros(2, 3))
    assert torch.equal(change, torch.tensor([[2.0, 4.0, 6.0], [-2.0, -4.0, -6.0]]))


def test_a_convolution_of_low_rank_is_two_convolutions_in_a_row() -> None:
    down, up = whole(2, 3, 3, 3), whole(5, 2, 1, 1, seed=1)
    change = Delta.low_rank(down, up, alpha=1.0).change(torch.zeros(5, 3, 3, 3))
    x = whole(1, 3, 4, 4, seed=2)
    expected = 0.5 * torch.conv2d(torch.conv2d(x, down, padding=1), up)
    assert torch.equal(torch.conv2d(x, change, padding=1), expected)


def test_a_convolution_with_a_middle_is_three_in_a_row() -> None:
    down, mid, up = whole(2, 3, 1, 1), whole(4, 2, 3, 3, seed=1), whole(5, 4, 1, 1, seed=2)
    delta = Delta.low_rank(down, up, mid=mid)
    assert delta.shape == (5, 3, 3, 3)
    x = whole(1, 3, 4, 4, seed=3)
    expected = torch.conv2d(torch.conv2d(torch.conv2d(x, down), mid, padding=1), up)
    assert torch.equal(torch.conv2d(x, delta.change(torch.zeros(5, 3, 3, 3)), padding=1), expected)


def test_a_pointwise_change_fits_a_matrix_and_a_kernel() -> None:
    down, up = whole(2, 3), whole(4, 2, seed=1)
    matrix = Delta.low_rank(down, up).change(torch.zeros(4, 3))
    kernel = Delta.low_rank(down[:, :, None, None], up[:, :, None, None]).change(torch.zeros(4, 3, 1, 1))
    assert torch.equal(matrix, kernel[:, :, 0, 0])
    assert torch.equal(matrix, up @ down)


def test_a_hadamard_product() -> None:
    a1, b1, a2, b2 = whole(4, 2), whole(2, 3, seed=1), whole(4, 2, seed=2), whole(2, 3, seed=3)
    delta = Delta({"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}, alpha=4.0)
    assert torch.equal(delta.change(torch.zeros(4, 3)), 2.0 * (a1 @ b1) * (a2 @ b2))


def test_a_hadamard_product_of_kernels() -> None:
    """Written flat, [o, i h w], and with cores [r r h w], as LyCORIS does with Tucker's decomposition."""
    a, b = whole(4, 2), whole(2, 3 * 9, seed=1)
    ones = {"hada_w2_a": torch.ones(4, 1), "hada_w2_b": torch.ones(1, 27)}
    flat = Delta({"hada_w1_a": a, "hada_w1_b": b, **ones}).change(torch.zeros(4, 3, 3, 3))
    assert torch.equal(flat, (a @ b).reshape(4, 3, 3, 3))
    core, a, b = whole(2, 2, 3, 3), whole(2, 4, seed=1), whole(2, 3, seed=2)
    delta = Delta(
        {"hada_w1_a": a, "hada_w1_b": b, "hada_t1": core, "hada_w2_a": a, "hada_w2_b": b, "hada_t2": core}, alpha=2.0
    )
    half = torch.zeros(4, 3, 3, 3)
    for o, i, r, s in ((o, i, r, s) for o in range(4) for i in range(3) for r in range(2) for s in range(2)):
        half[o, i] += core[r, s] * a[r, o] * b[s, i]
    assert torch.equal(delta.change(torch.zeros(4, 3, 3, 3)), half * half)


@pytest.mark.parametrize("first_whole", [True, False])
@pytest.mark.parametrize("second", ["whole", "low", "core"])
@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_kronecker_product(first_whole: bool, second: str, kernel: tuple[int, ...]) -> None:
    factors = {"lokr_w1": whole(2, 3)} if first_whole else {"lokr_w1_a": whole(2, 1), "lokr_w1_b": whole(1, 3, seed=1)}
    first = factors["lokr_w1"] if first_whole else factors["lokr_w1_a"] @ factors["lokr_w1_b"]
    if second == "whole":
        factors["lokr_w2"] = right = whole(4, 5, *kernel, seed=2)
    elif second == "low":
        factors["lokr_w2_a"], factors["lokr_w2_b"] = whole(4, 1, seed=2), whole(1, 5, *kernel, seed=3)
        right = (factors["lokr_w2_a"] @ factors["lokr_w2_b"].flatten(1)).reshape(4, 5, *kernel)
    else:
        core = factors["lokr_t2"] = whole(1, 1, *kernel, seed=4)
        factors["lokr_w2_a"], factors["lokr_w2_b"] = whole(1, 4, seed=2), whole(1, 5, seed=3)
        outer = (factors["lokr_w2_a"].T @ factors["lokr_w2_b"]).reshape(4, 5, *[1] * len(kernel))
        right = outer * core.reshape(1, 1, *kernel)
    delta = Delta(factors, alpha=3.0)
    change = delta.change(torch.zeros(8, 15, *kernel))
    # Two whole matrices have no rank, so nothing for alpha to be divided by.
    scale = 1.0 if first_whole and second == "whole" else 3.0
    for o, i in ((o, i) for o in range(8) for i in range(15)):
        assert torch.equal(change[o, i], scale * first[o // 4, i // 5] * right[o % 4, i % 5])


def test_a_kronecker_product_of_a_flat_kernel() -> None:
    """LyCORIS keeps w2_b of a convolution as [r, i h w]."""
    a, b = whole(4, 2), whole(2, 5 * 9, seed=1)
    flat = Delta({"lokr_w1": whole(2, 3, seed=2), "lokr_w2_a": a, "lokr_w2_b": b})
    kernel = Delta({"lokr_w1": whole(2, 3, seed=2), "lokr_w2_a": a, "lokr_w2_b": b.reshape(2, 5, 3, 3)})
    like = torch.zeros(8, 15, 3, 3)
    assert torch.equal(flat.change(like), kernel.change(like))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3, 3)])
def test_dora_gives_every_row_its_length(axis: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, m = torch.randn(shape), torch.rand(shape[axis]) + 0.5
    down, up = torch.randn(2, *shape[1:]), torch.randn(3, 2, *[1] * (len(shape) - 2))
    delta = Delta.low_rank(down, up, alpha=1.0, magnitude=magnitude_along(axis, m, shape))
    changed = weight + delta.change(weight)
    plain = weight + Delta.low_rank(down, up, alpha=1.0).change(weight)
    # Sums of up to 36 squares in fp32, in another order.
    torch.testing.assert_close(changed.transpose(0, axis).flatten(1).norm(dim=1), m, rtol=1e-5, atol=0)
    cosine = torch.cosine_similarity(changed.transpose(0, axis).flatten(1), plain.transpose(0, axis).flatten(1), dim=1)
    torch.testing.assert_close(cosine, torch.ones(shape[axis]), rtol=1e-5, atol=0)


def test_dora_of_a_row_of_zeros_is_zero() -> None:
    delta = Delta.low_rank(torch.zeros(1, 2), torch.zeros(2, 1), magnitude=torch.ones(2, 1))
    assert torch.equal(delta.change(torch.zeros(2, 2)), torch.zeros(2, 2))


def test_the_scale_of_rank_stabilised_lora() -> None:
    delta = Delta.low_rank(torch.zeros(16, 2), torch.zeros(2, 16), alpha=rs_alpha(8.0, 16))
    assert delta.scale == 2.0


@pytest.mark.parametrize(
    "factors",
    [
        {"lora_down": (2, 3), "lora_up": (4, 3)},
        {"lora_down": (2, 3, 3, 3), "lora_up": (4, 2, 3, 3)},
        {"lora_down": (2, 3, 1, 1), "lora_up": (4, 2, 1, 1), "lora_mid": (3, 2, 3, 3)},
        {"lora_down": (2,), "lora_up": (4, 2)},
        {"lora_down": (0, 3), "lora_up": (4, 0)},
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 3), "hada_w2_a": (5, 2), "hada_w2_b": (2, 3)},
        {"lokr_w1": (2, 3, 1), "lokr_w2": (2, 3)},
        {"lora_down": (2, 3)},
        {"lora_up": (4, 2), "lora_mid": (2, 2)},
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 3), "hada_w2_a": (4, 2), "hada_w2_b": (2, 3), "hada_t1": (2, 2)},
        {"lokr_w1": (2, 3)},
        {"lokr_w1": (2, 3), "lokr_w1_a": (2, 1), "lokr_w2": (2, 3)},
        {"diff": (2, 3), "lora_up": (2, 3)},
        {"glora_a": (2, 3)},
        {},
    ],
)
def test_factors_that_make_no_change_are_refused(factors: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UserError):
        change_shape(factors)
    with pytest.raises(UserError):
        Delta({role: torch.zeros(shape) for role, shape in factors.items()})


def test_the_algorithms_have_names() -> None:
    assert algorithm_of(["lora_up", "lora_down"]) == "LoRA"
    assert algorithm_of(["lokr_w1", "lokr_w2_a", "lokr_w2_b"]) == "LoKr"


@pytest.mark.parametrize(
    ("change", "parameter", "expected"),
    [
        ((4, 3), (4, 3), True),
        ((4, 3, 1, 1), (4, 3), True),
        ((4, 3), (4, 3, 1, 1), True),
        ((4, 27), (4, 3, 3, 3), True),
        ((4, 3), (3, 4), False),
        ((4, 3, 3, 3), (4, 27), False),
        ((4, 3, 3, 3), (4, 3, 1, 9), False),
        ((4,), (4, 1), False),
        ((12,), (4, 3), False),
    ],
)
def test_which_change_fits_which_parameter(change: tuple[int, ...], parameter: tuple[int, ...], expected: bool) -> None:
    assert fits(change, parameter) is expected
