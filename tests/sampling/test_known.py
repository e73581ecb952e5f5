"""Walks that begin in a picture, and known regions."""

from __future__ import annotations

import pytest
import torch

from mezzotint.noise import draw_noise
from mezzotint.sampling import SAMPLERS, ClassifierFree, Query
from mezzotint.sampling.known import Known, begun

SIGMAS = (4096.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.0)


@pytest.mark.parametrize(
    ("strength", "steps"),
    [(0.0, 0), (0.01, 1), (0.1, 1), (0.19, 1), (0.3, 3), (0.7, 7), (0.75, 7), (0.999, 9), (1, 10)],
)
def test_a_share_of_the_steps_is_taken(strength, steps):
    walk = begun(SIGMAS, strength)
    assert len(walk) - 1 == steps
    assert walk == SIGMAS[len(SIGMAS) - len(walk) :]


def test_more_strength_never_begins_lower():
    starts = [begun(SIGMAS, share / 50)[0] for share in range(51)]
    assert starts == sorted(starts)
    assert (starts[0], starts[-1]) == (0.0, 4096.0)


def test_the_known_part_is_held_to_the_bit_and_the_rest_is_the_guidances():
    latent, own = draw_noise([1, 2], (4, 6, 6)).split(1)
    repaint = torch.zeros(1, 1, 6, 6)
    repaint[..., 2:] = 1
    repaint[..., 3, 3] = 0.25
    guidance = Known(ClassifierFree(1.0), [(latent, repaint)])
    assert guidance.rows(3.0) == ("cond",)
    x0 = guidance.combine({"cond": own}, Query(own, 3.0, 0, 0.5))
    assert torch.equal(x0[..., :2], latent[..., :2])
    assert torch.equal(x0[..., 4:], own[..., 4:])
    torch.testing.assert_close(x0[..., 3, 3], 0.75 * latent[..., 3, 3] + 0.25 * own[..., 3, 3])


def test_a_walk_of_several_sizes_holds_what_is_known_at_each():
    known = [(draw_noise([side], (4, side, side)), torch.zeros(1, 1, side, side)) for side in (4, 6)]
    guidance = Known(ClassifierFree(1.0), known)
    for latent, _ in known:
        assert torch.equal(guidance.combine({"cond": 0 * latent}, Query(latent, 3.0, 0, 0.5)), latent)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_ends_at_what_is_known(name):
    latent, start = draw_noise([1, 2], (4, 4, 4)).split(1)
    repaint = torch.zeros(1, 1, 4, 4)
    repaint[..., 2:] = 1
    guidance = Known(ClassifierFree(1.0), [(latent, repaint)])
    run = SAMPLERS[name].begin(8 * start, [8.0, 2.0, 0.5, 0.1, 0.0], lambda: draw_noise([3], (4, 4, 4)))
    query = next(run)
    while True:
        try:
            query = run.send(guidance.combine({"cond": query.x / (1 + query.sigma**2)}, query))
        except StopIteration as end:
            left = end.value[..., :2]
            # Multistep samplers end with a mixture of slopes, which is right to rounding where all estimates are one.
            torch.testing.assert_close(left, latent[..., :2], rtol=0, atol=1e-5)
            return
