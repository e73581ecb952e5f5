"""What latent diffusion's own text encoder is made of, in the keys of diffusers' LDMBertConfig. Imports no torch.

A transformer over BERT's word pieces, trained together with the U-Net (Rombach et al. 2022, arXiv:2112.10752, E.2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from mezzotint.types import UserError


@dataclass(frozen=True, kw_only=True)
class LDMBertConfig:
    """The encoder's sizes; defaults are those of the published model of 1.4 billion parameters."""

    MODEL_TYPE: ClassVar[str] = "ldmbert"

    vocab_size: int = 30522
    """Tokens in the vocabulary."""
    max_position_embeddings: int = 77
    """The longest sequence."""
    encoder_layers: int = 32
    """Transformer blocks."""
    encoder_ffn_dim: int = 5120
    """Width inside the feed-forward branch."""
    encoder_attention_heads: int = 8
    """Heads of the attention."""
    head_dim: int = 64
    """Width of a head; all heads together need not be as wide as a token."""
    d_model: int = 1280
    """Width D of a token."""
    pad_token_id: int = 0
    """Kept for diffusers; the tokenizer pads by its own files."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        for key in fields(self):
            value = getattr(self, key.name)
            if not isinstance(value, int) or value < (0 if key.name == "pad_token_id" else 1):
                raise UserError(f"The LDMBert config has {key.name} {value!r}; it must be a whole number from 1.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LDMBertConfig:
        """The config that a config.json of diffusers' LDMBertModel holds; keys that change no weight are not read.

        Raises UserError where it describes another kind of model or another activation than gelu.
        """
        if values.get("model_type", cls.MODEL_TYPE) != cls.MODEL_TYPE:
            raise UserError(f"The config describes a {values['model_type']!r} model; this needs a {cls.MODEL_TYPE!r}.")
        if values.get("activation_function", "gelu") != "gelu":
            raise UserError(f"The LDMBert config has activation_function {values['activation_function']!r}, not gelu.")
        known = {key.name for key in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def to_dict(self) -> dict[str, Any]:
        """The contents of a config.json that diffusers' LDMBertModel loads."""
        return {"architectures": ["LDMBertModel"], "model_type": self.MODEL_TYPE, **asdict(self)}
