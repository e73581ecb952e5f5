"""What CLIP's towers are made of, in the keys of transformers' config.json. Imports no torch.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (arXiv:2103.00020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from mezzotint.types import UserError

ACTIVATION_NAMES = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh")

INERT_KEYS = frozenset(
    {
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "bad_words_ids",
        "begin_suppress_tokens",
        "chunk_size_feed_forward",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "prefix",
        "problem_type",
        "pruned_heads",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "use_bfloat16",
        "use_cache",
    }
)
"""Keys that transformers writes for every model and that change nothing in what CLIP computes."""


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """What the two towers have in common: a transformer with its norms before its branches."""

    MODEL_TYPE: ClassVar[str] = ""
    CLASS_NAME: ClassVar[str] = ""

    hidden_size: int
    """Width D of a token."""
    intermediate_size: int
    """Width inside the feed-forward branch."""
    num_hidden_layers: int = 12
    """Transformer blocks."""
    num_attention_heads: int
    """Heads of the attention; divides hidden_size."""
    projection_dim: int = 512
    """Width P of the space where texts and pictures meet."""
    hidden_act: str = "quick_gelu"
    """Activation of the feed-forward branch: quick_gelu in OpenAI's models, gelu in OpenCLIP's."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every layer norm."""
    with_projection: bool = False
    """Whether the tower, standing alone, has its projection to P (transformers' ...ModelWithProjection)."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        for key in fields(self):
            value = getattr(self, key.name)
            if key.type == "int" and not key.name.endswith("_token_id") and (not isinstance(value, int) or value < 1):
                raise UserError(f"The CLIP config has {key.name} {value!r}; it must be a whole number from 1.")
        if self.hidden_size % self.num_attention_heads != 0:
            raise UserError(
                f"The CLIP config has hidden_size {self.hidden_size}, "
                f"which its num_attention_heads {self.num_attention_heads} must divide."
            )
        if self.hidden_act not in ACTIVATION_NAMES:
            known = ", ".join(ACTIVATION_NAMES)
            raise UserError(f"The CLIP config has hidden_act {self.hidden_act!r}; it must be one of {known}.")

    @classmethod
    def taken_from(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments from a config.json. Raises UserError naming a key that is unknown and set."""
        if values.get("model_type", cls.MODEL_TYPE) != cls.MODEL_TYPE:
            raise UserError(f"The config describes a {values['model_type']!r} model; this needs a {cls.MODEL_TYPE!r}.")
        known = {key.name for key in fields(cls)} - {"with_projection"}
        for key, value in values.items():
            if key not in known | INERT_KEYS and not key.startswith("_") and value is not None:
                raise UserError(f"The CLIP config has an unknown key {key!r}; this program cannot run that model.")
        architectures: list[str] = values.get("architectures") or []
        taken = {key: value for key, value in values.items() if key in known and value is not None}
        return taken | {"with_projection": f"{cls.CLASS_NAME}WithProjection" in architectures}

    def to_dict(self) -> dict[str, Any]:
        """The contents of a transformers config.json that makes the same network."""
        name = f"{self.CLASS_NAME}WithProjection" if self.with_projection else self.CLASS_NAME
        values = {key.name: getattr(self, key.name) for key in fields(self) if key.name != "with_projection"}
        return {"architectures": [name], "model_type": self.MODEL_TYPE, **values}


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TowerConfig):
    """The text tower; defaults are those of transformers, which are OpenAI's ViT-B."""

    MODEL_TYPE: ClassVar[str] = "clip_text_model"
    CLASS_NAME: ClassVar[str] = "CLIPTextModel"

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    """Tokens in the vocabulary."""
    max_position_embeddings: int = 77
    """The longest sequence."""
    pad_token_id: int = 1
    """Kept for transformers; the tokenizer pads by its own files."""
    bos_token_id: int = 49406
    """Kept for transformers; the tokenizer begins by its own files."""
    eos_token_id: int = 49407
    """Where the text is read out: at its first place; 2, an old error in published files, means the highest id."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPTextConfig:
        """The config that a transformers config.json holds. Raises UserError naming what is unknown in it."""
        return cls(**cls.taken_from(values))


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(TowerConfig):
    """The image tower; defaults are those of transformers, which are OpenAI's ViT-B/32."""

    MODEL_TYPE: ClassVar[str] = "clip_vision_model"
    CLASS_NAME: ClassVar[str] = "CLIPVisionModel"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    """Channels of a picture."""
    image_size: int = 224
    """Side of a picture in pixels."""
    patch_size: int = 32
    """Side of a patch in pixels; every patch is a token."""

    def __post_init__(self) -> None:
        """Raise UserError for sizes that make no network."""
        super().__post_init__()
        if self.image_size < self.patch_size:
            raise UserError(
                f"The CLIP config has image_size {self.image_size}; it must be at least patch_size {self.patch_size}."
            )

    @property
    def num_patches(self) -> int:
        """Patches of a picture; with the class token, one more tokens."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPVisionConfig:
        """The config that a transformers config.json holds. Raises UserError naming what is unknown in it."""
        return cls(**cls.taken_from(values))


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """Both towers and the space where they meet."""

    text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    vision: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 512
    """Width P of the space where texts and pictures meet."""
    logit_scale_init_value: float = 2.6592
    """Logarithm of the inverse temperature at the start of training: ln(1 / 0.07) (arXiv:2103.00020, section 2.5)."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CLIPConfig:
        """The config that a transformers config.json of a whole CLIP holds. Raises UserError naming what is unknown."""
        if values.get("model_type", "clip") != "clip":
            raise UserError(f"The config describes a {values['model_type']!r} model; this needs a 'clip'.")
        towers = {"text_config", "vision_config", "text_config_dict", "vision_config_dict"}
        own = {"projection_dim", "logit_scale_init_value"}
        for key, value in values.items():
            if key not in towers | own | INERT_KEYS and not key.startswith("_") and value is not None:
                raise UserError(f"The CLIP config has an unknown key {key!r}; this program cannot run that model.")
        # The ..._dict keys, which old files have, come before the others: so it is in transformers.
        text, vision = (
            {**(values.get(f"{name}_config") or {}), **(values.get(f"{name}_config_dict") or {})}
            for name in ("text", "vision")
        )
        return cls(
            text=CLIPTextConfig.from_dict(text),
            vision=CLIPVisionConfig.from_dict(vision),
            **{key: values[key] for key in own if values.get(key) is not None},
        )

    def to_dict(self) -> dict[str, Any]:
        """The contents of a transformers config.json that makes the same network."""
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.projection_dim,
            "logit_scale_init_value": self.logit_scale_init_value,
            "text_config": self.text.to_dict(),
            "vision_config": self.vision.to_dict(),
        }
