"""A noise-aware classifier of latents: log p(so many solids of a kind | x, sigma), to steer a picture by its gradient.

It is the front half of a U-Net: ResNet blocks that are told the noise level, with attention between those of the
coarsest resolution. The last layer says how much every cell speaks for there being n solids of a kind, e_n(cell), a
sum of what it says of the shape, of the colour and of the pair of both. With prior_n the logarithm of how much more
often scenes have n of that kind than none,

    logit_0 = 0,    logit_n = prior_n + w(sigma) * log(mean over cells of exp(e_n)),    w(sigma) = 1 / sqrt(1 + sigma^2)

and log p is their logarithmic softmax. The weight w is what keeps guidance finite: x tells of x0 by <x, x0> / sigma^2,
which falls like 1 / sigma for an x of unit variance, so at a sigma of 4096 the answer is the prior, and the shift of
the clean estimate, sigma^2 d/dx log p, stays as large as the gradient of e (see `sampling.classify`).

Legend: B rows, C channels, h w the latent's height and width, S and K one more than the shapes and the colours (0 is
any of them), N the most that is counted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.attention import Attention
from mezzotint.denoise.blocks import Downsample, Embedding, ResNetBlock
from mezzotint.denoise.classifier_config import ClassifierConfig, Target
from mezzotint.layers import GroupNorm, sinusoid

STEM = "model"
"""What the files of its weights are called, as those of text encoders are."""


class _Mixing(nn.Module):
    """Attention of every cell to all others, added to its input: [B C h w] -> [B C h w]."""

    def __init__(self, dim: int, config: ClassifierConfig) -> None:
        super().__init__()
        self.norm = GroupNorm(config.norm_num_groups, dim, eps=config.norm_eps)
        self.attention = Attention(dim, config.heads)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x."""
        mixed = self.attention(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        return x + mixed.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class _Level(nn.Module):
    """One resolution: ResNet blocks, attention between them at the coarsest, and the step to the next elsewhere."""

    def __init__(self, level: int, config: ClassifierConfig) -> None:
        super().__init__()
        width, last = config.widths[level], level == len(config.widths) - 1
        inputs = [config.widths[max(level - 1, 0)]] + [width] * (config.blocks[level] - 1)
        self.resnets = nn.ModuleList([ResNetBlock(dim, width, config) for dim in inputs])
        self.attentions = nn.ModuleList([_Mixing(width, config) for _ in inputs[1:]]) if last else None
        self.downsampler = None if last else Downsample(width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Refine x [B C h w], told the embedded noise level [B E]."""
        for place, resnet in enumerate(self.resnets):
            if self.attentions is not None and place > 0:
                x = self.attentions[place - 1](x)
            x = resnet(x, emb)
        return x if self.downsampler is None else self.downsampler(x)


class Classifier(nn.Module):
    """How many solids of every kind a noisy latent becomes."""

    prior: Tensor
    """[S K N] log of how much more often there are n = 1 .. N of a kind than none."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.kinds = (1 + len(config.shapes), 1 + len(config.colours))
        shapes, colours = self.kinds
        width = config.widths[-1]
        self.conv_in = nn.Conv2d(config.in_channels, config.widths[0], 3, padding=1)
        self.time_embedding = Embedding(config.widths[0], config.time_embed_dim)
        self.levels = nn.ModuleList([_Level(level, config) for level in range(len(config.widths))])
        self.norm_out = GroupNorm(config.norm_num_groups, width, eps=config.norm_eps)
        self.shape = nn.Conv2d(width, config.most * shapes, 1)
        self.colour = nn.Conv2d(width, config.most * colours, 1)
        self.pair = nn.Conv2d(width, config.most * shapes * colours, 1)
        self.register_buffer("prior", torch.zeros(shapes, colours, config.most))

    def features(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B C h' w'] of the noisy latents x [B c h w] scaled to unit variance, and their sigmas [B]."""
        # The angle between signal and noise, as a timestep of 1000; log sigma has no end at a sigma of 4096.
        level = sinusoid(torch.atan(sigma.float()) * (2000 / math.pi), self.config.widths[0])
        emb = F.silu(self.time_embedding(level.to(self.conv_in.weight.dtype)))
        h = self.conv_in(x)
        for part in self.levels:
            h = part(h, emb)
        return F.silu(self.norm_out(h))

    def answers(self, features: Tensor, sigma: Tensor) -> Tensor:
        """The log p [B S K 1+N], fp32, of 0 .. N solids of a kind, from features [B C h' w'] at sigmas [B]."""
        shapes, colours = self.kinds

        def says(head: nn.Module, *kinds: int) -> Tensor:  # [B N S K h'w'], S or K or both of them 1
            return head(features).float().flatten(2).unflatten(1, (self.config.most, *kinds))

        cells = says(self.shape, shapes, 1) + says(self.colour, 1, colours) + says(self.pair, shapes, colours)
        weight = (1 + sigma.float() ** 2).rsqrt()[:, None, None, None]
        evidence = cells.logsumexp(dim=-1) - math.log(cells.shape[-1])
        logits = self.prior.float() + weight * evidence.permute(0, 2, 3, 1)
        return F.pad(logits, (1, 0)).log_softmax(dim=-1)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The log p [B S K 1+N], fp32, of x [B C h w] = c_in * (x0 + sigma * n), of unit variance, at sigmas [B].

        c_in is 1 / sqrt(1 + sigma^2). Any h and w will do.
        """
        return self.answers(self.features(x.to(self.conv_in.weight.dtype), sigma), sigma)


def log_likelihood(answers: Tensor, target: Target) -> Tensor:
    """The log p(target | x) [B] from what the classifier answers, [B S K 1+N]."""
    counts = answers[:, target.shape, target.colour]
    return counts[:, 1:].logsumexp(dim=1) if target.number is None else counts[:, target.number]


def init_for_training(classifier: Classifier, prior: Tensor) -> None:
    """Make a fresh classifier answer by the prior [S K N], and every residual branch the identity."""
    for module in classifier.modules():
        last = module.conv2 if isinstance(module, ResNetBlock) else None
        last = module.attention.to_out[0] if isinstance(module, _Mixing) else last
        for parameter in [] if last is None else last.parameters():
            nn.init.zeros_(parameter)
    for head in (classifier.shape, classifier.colour, classifier.pair):
        nn.init.zeros_(head.weight)
        assert head.bias is not None
        nn.init.zeros_(head.bias)
    classifier.prior.copy_(prior)
