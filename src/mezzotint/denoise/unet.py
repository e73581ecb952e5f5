"""The U-Net of Stable Diffusion (Rombach et al. 2022, section 3.3), by the parameter names of diffusers.

x --conv_in--> down blocks --> mid block --> up blocks --> norm, SiLU, conv_out --> prediction
                   └────────── skips ──────────┘
The time embedding enters every ResNet block, the text every transformer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.denoise.attention import Projected, Transformer, cross_attentions
from mezzotint.denoise.blocks import DownBlock, Embedding, MidBlock, ResNetBlock, UpBlock
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.picture_layers import PictureLayers
from mezzotint.layers import GroupNorm, sinusoid

__all__ = ["Projected", "UNet", "UNetConfig", "init_for_training"]


class UNet(nn.Module):
    """The network inside the denoiser; a diffusers `UNet2DConditionModel` state_dict loads with strict=True."""

    pictures: PictureLayers | None
    """What reads pictures beside the text, where something was learned for it."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        levels = range(len(widths))
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = Embedding(widths[0], config.time_embed_dim)
        self.class_embedding = self._pooled_embedding(config.class_embed_type is not None)
        self.add_embedding = self._pooled_embedding(config.addition_embed_type is not None)
        self.down_blocks = nn.ModuleList([DownBlock(level, config) for level in levels])
        self.mid_block = MidBlock(config) if config.mid_block_type is not None else None
        self.up_blocks = nn.ModuleList([UpBlock(level, config) for level in reversed(levels)])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        self.register_module("pictures", None)

    def _pooled_embedding(self, present: bool) -> Embedding | None:
        dim = self.config.projection_class_embeddings_input_dim
        return Embedding(dim, self.config.time_embed_dim) if present and dim is not None else None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.conv_norm_out.weight.dtype

    def project(self, sequence: Tensor, pictures: Tensor | None = None, weights: Tensor | None = None) -> Projected:
        """The keys and values of every cross-attention for text tokens [B L D].

        Beside them, where the U-Net was taught to read pictures, those of the tokens [B N T D] of N pictures, each as
        much as its weight [B N].
        """
        text = Projected(tuple((attention.project(sequence),) for attention in cross_attentions(self.children())))
        if pictures is None or weights is None:
            return text
        if self.pictures is None:
            raise ValueError("This U-Net was given pictures and reads none.")
        return text.beside(self.pictures(pictures, weights))

    def embed(self, t: Tensor, pooled: Tensor | None = None) -> Tensor:
        """The time embedding [B E] after its SiLU, of timesteps t [B] and pooled conditioning [B P]."""
        config = self.config
        waves = sinusoid(t, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
        emb = self.time_embedding(waves.to(self.dtype))
        embedding = self.class_embedding if self.add_embedding is None else self.add_embedding
        if embedding is not None:
            if pooled is None:
                raise ValueError("This U-Net reads pooled conditioning and was given none.")
            emb = emb + embedding(pooled)
        return F.silu(emb)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        sequence: Tensor | None = None,
        pooled: Tensor | None = None,
        projected: Projected | None = None,
    ) -> Tensor:
        """Predict [B C' h w] from the scaled noisy latent x [B C h w] at timesteps t [B], float in [0, T).

        The text is a sequence [B L D], or what `project` made of it; pooled [B P] where the config has it.
        Any h and w of at least 1 will do.
        """
        if projected is None:
            if sequence is None:
                raise ValueError("The U-Net needs the text, as a sequence or projected.")
            projected = self.project(sequence)
        reads = iter(projected.reads)
        emb = self.embed(t, pooled)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, emb, reads, skips)
        if self.mid_block is not None:
            x = self.mid_block(x, emb, reads)
        for block in self.up_blocks:
            x = block(x, emb, reads, skips)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def init_for_training(unet: UNet) -> None:
    """Zero the last layer of every residual branch and of the network.

    A fresh U-Net then predicts zero and every residual branch is the identity, as in Ho et al. 2020.
    """
    last: list[nn.Module] = [unet.conv_out]
    for module in unet.modules():
        if isinstance(module, ResNetBlock):
            last.append(module.conv2)
        elif isinstance(module, Transformer):
            last.append(module.proj_out)
    for module in last:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
