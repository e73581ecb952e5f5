"""What latent diffusion's own text encoder is made of, in the keys of diffusers' LDMBertConfig. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mezzotint.conditioning.clip_config import ACTIVATION_NAMES, INERT_KEYS
from mezzotint.types import UserError

IDLE_KEYS = INERT_KEYS | {
    "activation_dropout",
    "classifier_dropout",
    "encoder_layerdrop",
    "init_std",
    "num_hidden_layers",
    "scale_embedding",
}
"""Keys of its config.json that change nothing in what diffusers computes from it."""


@dataclass(frozen=True, kw_only=True)
class LDMBertConfig:
    """What it is made of, in the keys of diffusers' LDMBertConfig; defaults are those of the released model."""

    vocab_size: int = 30522
    """Tokens in the vocabulary."""
    max_position_embeddings: int = 77
    """The longest sequence."""
    d_model: int = 1280
    """Width D of a token."""
    encoder_layers: int = 32
    """Transformer blocks."""
    encoder_ffn_dim: int = 5120
    """Width inside the feed-forward branch."""
    encoder_attention_heads: int = 8
    """Heads N of the attention."""
    head_dim: int = 64
    """Width d of a head; N times d need not be D."""
    activation_function: str = "gelu"
    """Activation of the feed-forward branch."""
    pad_token_id: int = 0
    """Kept for transformers; the tokenizer pads by its own files."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        for key in fields(self):
            value = getattr(self, key.name)
            if key.type == "int" and key.name != "pad_token_id" and (not isinstance(value, int) or value < 1):
                raise UserError(f"The BERT config has {key.name} {value!r}; it must be a whole number from 1.")
        if self.activation_function not in ACTIVATION_NAMES:
            known = ", ".join(ACTIVATION_NAMES)
            raise UserError(
                f"The BERT config has activation_function {self.activation_function!r}; it must be one of {known}."
            )

    @property
    def hidden_size(self) -> int:
        """Width D of a token, by the name that other text encoders have for it."""
        return self.d_model

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LDMBertConfig:
        """The config that a config.json of diffusers holds. Raises UserError naming what is unknown in it."""
        if values.get("model_type", "ldmbert") != "ldmbert":
            raise UserError(f"The config describes a {values['model_type']!r} model; this needs an 'ldmbert'.")
        known = {key.name for key in fields(cls)}
        for key, value in values.items():
            if key not in known | IDLE_KEYS and not key.startswith("_") and value is not None:
                raise UserError(f"The BERT config has an unknown key {key!r}; this program cannot run that model.")
        return cls(**{key: value for key, value in values.items() if key in known and value is not None})

    def to_dict(self) -> dict[str, Any]:
        """The contents of a config.json that diffusers makes the same network of."""
        values = {key.name: getattr(self, key.name) for key in fields(self)}
        return {"architectures": ["LDMBertModel"], "model_type": "ldmbert", **values}
