"""An adversary of a decoder: it learns to tell drawn pictures from true ones, place by place, and the decoder to pass.

Of all that a latent could mean, errors ask for the mean, and the mean of straight edges is a round one. An adversary
asks for what is like the truth at all (Goodfellow et al. 2014, arXiv:1406.2661), as the autoencoder of Rombach et al.
2022 (arXiv:2112.10752, section 3.1) was taught.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mezzotint.training.fit import channels_last

WIDTHS = (32, 64, 128, 192)
SLOPE = 0.2
NOISE, STEADY = 0.02, 0.5
"""The deviation of noise that should not change a score, and the weight of how much it does."""


class Adversary(nn.Module):
    """Scores of places of a picture, higher where it looks true, from 38 and from 78 pixels around each.

    Without normalisation, which would tell every place of all others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.halvings = nn.ModuleList([nn.Conv2d(dim, out, 4, 2, 1) for dim, out in pairwise((3, *WIDTHS))])
        self.wide = nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1)
        self.scores = nn.ModuleList([nn.Conv2d(WIDTHS[-2], 1, 3, padding=1), nn.Conv2d(WIDTHS[-1], 1, 1)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity="leaky_relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        channels_last(self)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B 1 H/8 W/8] and [B 1 H/16 W/16] of pictures [B 3 H W] in [-1, 1], of 16 pixels a side at least."""
        fine = x = pixels
        for halving in self.halvings:
            fine, x = x, F.leaky_relu(halving(x), SLOPE)
        x = F.leaky_relu(self.wide(x), SLOPE)
        return self.scores[0](fine).float(), self.scores[1](x).float()

    def contest(self, drawn: Tensor, truth: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Of pictures [B 3 H W] and their truth: the loss of what draws them, which does not teach the adversary; the
        adversary's, which does not teach what draws; and the share of places where it finds the truth truer, 0.5 where
        it cannot tell.

        Every place is scored against the same place of the truth (Jolicoeur-Martineau 2018, arXiv:1807.00734), so that
        what both show has no part in it; and scores should not change with a little noise, which takes the place of a
        penalty of their gradient.
        """
        both = torch.cat([truth, drawn.detach()]).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(both.shape, generator=generator).to(both)
        scores, noised = self(both), self(both + NOISE * noise)
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        drawing = adversary = told = drawn.new_zeros(())
        for score, other, own in zip(scores, noised, functional_call(self, fixed, (drawn,)), strict=True):
            true, false = score.chunk(2)
            adversary = adversary + F.softplus(false - true).mean() + STEADY * (score - other).square().mean()
            drawing = drawing + F.softplus(true.detach() - own).mean()
            told = told + ((true - false).sign() + 1).mean() / 2 / len(scores)
        return drawing, adversary, told.detach()


def balance(errors: Tensor, other: Tensor, drawn: Tensor) -> Tensor:
    """What makes the gradient of another loss as large as that of `errors`, where both reach the pictures `drawn`.

    As in Esser et al. 2021 (arXiv:2012.09841, equation 7), but at the pictures.
    """
    wanted, there = (torch.autograd.grad(loss, drawn, retain_graph=True)[0].norm() for loss in (errors, other))
    return wanted / there.clamp(min=1e-8)
