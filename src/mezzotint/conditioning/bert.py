"""The text encoder of latent diffusion's text-to-image model (Rombach et al. 2022, arXiv:2112.10752, appendix E.2.1).

A transformer over BERT's word pieces, trained with the U-Net: every token sees every other, padding included. B rows,
L tokens, D their width, N heads of width d. Parameters carry the names of diffusers' LDMBertModel.
"""

from __future__ import annotations

from torch import Tensor, nn

from mezzotint.conditioning.clip_transformer import ACTIVATIONS, attend, chosen
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.types import UserError


class Attention(nn.Module):
    """Self-attention with N heads, whose queries, keys and values have no biases."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.heads = config.encoder_attention_heads
        inner = self.heads * config.head_dim
        self.q_proj = nn.Linear(config.d_model, inner, bias=False)
        self.k_proj = nn.Linear(config.d_model, inner, bias=False)
        self.v_proj = nn.Linear(config.d_model, inner, bias=False)
        self.out_proj = nn.Linear(inner, config.d_model)

    def forward(self, x: Tensor, unseen: Tensor | None = None) -> Tensor:
        """[B L D] -> [B L D]; `unseen` as in `attend`."""
        q, k, v = (
            projection(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B N L d]
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(q, k, v, causal=False, unseen=unseen).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One transformer block, its norms before its branches."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.activation_function]
        self.self_attn = Attention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, unseen: Tensor | None = None) -> Tensor:
        """[B L D] -> [B L D]; `unseen` as in `attend`."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), unseen)
        return x + self.fc2(self.act(self.fc1(self.final_layer_norm(x))))


class Encoder(nn.Module):
    """Embeddings, the blocks in a row, and a last norm."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, ids: Tensor, unseen: Tensor | None = None) -> list[Tensor]:
        """The embeddings of ids [B L] and the output of every block, each [B L D] before the last norm.

        Tokens where `unseen` [B L] is true change no other. Raises UserError if L exceeds the positions.
        """
        length, most = ids.shape[1], self.embed_positions.num_embeddings
        if length > most:
            raise UserError(f"The text has {length} tokens; this text encoder reads at most {most}: shorten it.")
        states: list[Tensor] = [self.embed_tokens(ids) + self.embed_positions.weight[:length]]
        for layer in self.layers:
            states.append(layer(states[-1], unseen))
        return states


class LDMBertModel(nn.Module):
    """The text encoder, and a layer `to_logits` that nothing reads and that files have."""

    def __init__(self, config: LDMBertConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)
        self.to_logits = nn.Linear(config.d_model, config.vocab_size)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)

    def read(
        self, ids: Tensor, *, layer: int = -1, final_norm: bool = True, unseen: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The tokens [B L D] that leave one block, and nothing that stands for the whole text.

        Layer -1 is the last block; `unseen` [B L] is true for tokens that no other sees. Raises UserError for a layer
        that is not there, or too long a text.
        """
        return chosen(self.model(ids, unseen), self.model.layer_norm, layer=layer, final_norm=final_norm), None

    def forward(self, ids: Tensor) -> Tensor:
        """What ids [B L] say: the last block's tokens [B L D] after the last norm."""
        return self.read(ids)[0]
