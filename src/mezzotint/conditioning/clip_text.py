"""CLIP's text tower: ids [B L] to tokens [B L D], each knowing the text before it (arXiv:2103.00020, section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.conditioning.clip_transformer import Encoder, chosen
from mezzotint.types import UserError


@dataclass(frozen=True)
class TextOutput:
    """What the text tower says about ids [B L]."""

    last_hidden_state: Tensor
    """Tokens [B L D] after the final layer norm."""
    pooled: Tensor
    """The token at the first eos, [B D], after the final layer norm."""
    hidden_states: tuple[Tensor, ...] | None = None
    """If asked for: the embeddings and every block's output, each [B L D] before the final layer norm."""
    projected: Tensor | None = None
    """Pooled in the space shared with pictures, [B P], if the model has its projection; not normalised."""


class TextEmbeddings(nn.Module):
    """A vector for each token plus one for each position."""

    learned: Tensor | None
    """Vectors [n D] of learned words, for the ids from the vocabulary's end on; no part of the model's weights."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.register_buffer("learned", None, persistent=False)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        self.register_load_state_dict_pre_hook(drop_position_ids)

    def forward(self, ids: Tensor) -> Tensor:
        """[B L] -> [B L D]. Raises UserError if L exceeds the positions."""
        length, most = ids.shape[1], self.position_embedding.num_embeddings
        if length > most:
            raise UserError(f"The text has {length} tokens; this text encoder reads at most {most}: shorten it.")
        return self.tokens(ids) + self.position_embedding.weight[:length]

    def tokens(self, ids: Tensor) -> Tensor:
        """The vectors of tokens alone: [B L] -> [B L D]."""
        if self.learned is None:
            return self.token_embedding(ids)
        end = self.token_embedding.num_embeddings
        own = self.token_embedding(ids.clamp(max=end - 1))
        return torch.where((ids >= end).unsqueeze(-1), self.learned[(ids - end).clamp(min=0)], own)


class TextTransformer(nn.Module):
    """The text tower without a projection."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config, causal=True)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor, *, hidden_states: bool = False, unseen: Tensor | None = None) -> TextOutput:
        """What ids [B L] say, L up to max_position_embeddings; what follows a token never changes it.

        Tokens where `unseen` [B L] is true, which the first is not, change no other.
        """
        states = self.encoder(self.embeddings(ids), unseen)
        last: Tensor = self.final_layer_norm(states[-1])
        pooled = last[torch.arange(len(ids), device=ids.device), self.eos_place(ids)]
        return TextOutput(last, pooled, states if hidden_states else None)

    def eos_place(self, ids: Tensor) -> Tensor:
        """The place [B] of the first eos in ids [B L]."""
        if (
            self.config.eos_token_id == 2
        ):  # written into old files by mistake; eos has the highest id in their vocabulary
            return torch.where(ids < self.config.vocab_size, ids, -1).argmax(1)  # learned words stand above it
        return (ids == self.config.eos_token_id).int().argmax(1)


class CLIPTextModel(nn.Module):
    """The text tower by the names in published files (text_model. ...), with its projection if the config says so."""

    def __init__(self, config: CLIPTextConfig, transformer: TextTransformer | None = None) -> None:
        """Build new weights, or stand around those of a transformer (a CLIPModel's), which are then shared."""
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config) if transformer is None else transformer
        self.text_projection = None
        if config.with_projection:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
            nn.init.normal_(self.text_projection.weight, std=config.hidden_size**-0.5)

    def forward(self, ids: Tensor, *, hidden_states: bool = False, unseen: Tensor | None = None) -> TextOutput:
        """What ids [B L] say; hidden_states keeps every block's output too, `unseen` [B L] hides tokens from others."""
        found: TextOutput = self.text_model(ids, hidden_states=hidden_states, unseen=unseen)
        if self.text_projection is None:
            return found
        return TextOutput(
            found.last_hidden_state, found.pooled, found.hidden_states, self.text_projection(found.pooled)
        )

    def read(
        self, ids: Tensor, *, layer: int = -1, final_norm: bool = True, unseen: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens [B L D] that leave one block, and the projected text [B P] if the model has its projection.

        Layer -1 is the last block, -2 the one before it. Stable Diffusion 1 reads (-1, True), Stable Diffusion 2
        (-2, True), SDXL (-2, False). `unseen` [B L] is true for tokens that no other sees, never the first. Raises
        UserError for a layer that is not there.
        """
        found = self(ids, hidden_states=True, unseen=unseen)
        if layer == -1 and final_norm:
            return found.last_hidden_state, found.projected
        norm = self.text_model.final_layer_norm
        return chosen(found.hidden_states, norm, layer=layer, final_norm=final_norm), found.projected

    def tokens(self, ids: Tensor, *, layer: int = -1, final_norm: bool = True) -> Tensor:
        """The tokens alone of `read`."""
        return self.read(ids, layer=layer, final_norm=final_norm)[0]

    def cut(self, *, blocks: int, with_projection: bool) -> CLIPTextModel:
        """The tower of the first `blocks` blocks, with its projection if asked for, sharing these weights.

        It is this one where nothing is left out. Raises UserError where there are not so many blocks, or none is left.
        """
        config = replace(self.config, num_hidden_layers=blocks, with_projection=with_projection)
        if config == self.config:
            return self
        with torch.device("meta"):
            other = CLIPTextModel(config)
        own = self.state_dict()
        if not other.state_dict().keys() <= own.keys():
            raise UserError("The text encoder lacks layers or a projection that are asked of it: get it again.")
        other.load_state_dict({name: own[name] for name in other.state_dict()}, assign=True)
        return other.train(self.training)


def drop_position_ids(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Old files carry the constant 0, 1, 2, ... beside the weights; it is no parameter."""
    state.pop(f"{prefix}position_ids", None)
