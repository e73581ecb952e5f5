"""Names in single files against the converters of diffusers: what they read under our foreign names is our own module.

Nothing is computed, so there is no tolerance: tensors are moved, cut and transposed, and must be the same to the bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig as TheirBertConfig
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from diffusers.pipelines.stable_diffusion.convert_from_ckpt import convert_ldm_bert_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from mezzotint.conditioning.clip import CLIPTextConfig, CLIPTextModel
from mezzotint.conditioning.ldm_bert_config import LDMBertConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.denoise.unet import UNet
from mezzotint.store.families import recognise
from mezzotint.store.keymap import KeyMap, given, prefixed, taken
from mezzotint.store.ldm import bert, clip, ema, unet, vae
from mezzotint.store.weights import Unfilled
from mezzotint.vae import Autoencoder, AutoencoderConfig

D, CD, U, CU = "DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"
LDM_PREFIX = "model.diffusion_model."

SD_1: dict[str, Any] = {"cross_attention_dim": 768}
SD_2: dict[str, Any] = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (D, CD, CD),
    "up_block_types": (CU, CU, U),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": (D, CD, CD, D),
    "up_block_types": (U, CU, CU, U),
    "cross_attention_dim": 1280,
    "attention_head_dim": (6, 12, 24, 24),
    "transformer_layers_per_block": 4,
    "projection_class_embeddings_input_dim": 2560,
}
# KOALA 700M: one ResNet block at each resolution, and no middle.
KOALA = SDXL | {"transformer_layers_per_block": (1, 2, 5), "layers_per_block": 1, "mid_block_type": None}
REAL_UNETS = {
    "LDM 1.4B": UNetConfig(cross_attention_dim=1280),
    "SD 1.5": UNetConfig(**SD_1),
    "SD 1.5 inpainting": UNetConfig(**SD_1, in_channels=9),
    "InstructPix2Pix": UNetConfig(**SD_1, in_channels=8),
    "SD 2.1": UNetConfig(**SD_2),
    "SD 2 depth": UNetConfig(**SD_2, in_channels=5),
    "SD 2.1 unCLIP": UNetConfig(**SD_2, class_embed_type="projection", projection_class_embeddings_input_dim=2048),
    "SDXL": UNetConfig(**SDXL),
    "SDXL inpainting": UNetConfig(**SDXL, in_channels=9),
    "SDXL refiner": UNetConfig(**REFINER),
    "KOALA": UNetConfig(**KOALA),
}
TINY: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "down_block_types": (CD, D),
    "up_block_types": (U, CU),
    "layers_per_block": 2,
    "cross_attention_dim": 24,
}
TINY_XL: dict[str, Any] = {
    "down_block_types": (D, CD),
    "up_block_types": (CU, U),
    "use_linear_projection": True,
    "attention_head_dim": (1, 1),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
}
POOLED_TEXT = 16
TINY_UNETS = {
    "SD 1": UNetConfig(**TINY),
    "SD 1 inpainting": UNetConfig(**TINY, in_channels=9),
    "SD 2": UNetConfig(**TINY, use_linear_projection=True, attention_head_dim=(1, 1)),
    "SDXL": UNetConfig(
        **TINY | TINY_XL, transformer_layers_per_block=3, projection_class_embeddings_input_dim=16 + 6 * 8
    ),
    "SDXL refiner": UNetConfig(
        **TINY | TINY_XL, transformer_layers_per_block=2, projection_class_embeddings_input_dim=16 + 5 * 8
    ),
    "one layer, no middle, three levels": UNetConfig(
        **TINY
        | {
            "layers_per_block": 1,
            "mid_block_type": None,
            "block_out_channels": (32, 32, 64),
            "down_block_types": (CD, CD, D),
            "up_block_types": (U, CU, CU),
        }
    ),
    "one level": UNetConfig(**TINY | {"block_out_channels": (64,), "down_block_types": (CD,), "up_block_types": (CU,)}),
    "attention up and not down": UNetConfig(**TINY | {"down_block_types": (D, D), "up_block_types": (U, CU)}),
}
TINY_VAES = {
    "two levels": AutoencoderConfig.of_widths(32, 64),
    "four levels": AutoencoderConfig.of_widths(32, 32, 64, 64, layers_per_block=2),
    "one level": AutoencoderConfig.of_widths(32),
    "bare": AutoencoderConfig.of_widths(
        32, 64, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False, latent_channels=16
    ),
}
REAL_VAE = AutoencoderConfig.of_widths(128, 256, 512, 512, layers_per_block=2)
TINY_TEXT = CLIPTextConfig(
    vocab_size=40,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=1,
    projection_dim=64,
    bos_token_id=38,
    eos_token_id=39,
)
VIT_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
VIT_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 1024,
    "hidden_act": "gelu",
    "with_projection": True,
}
BIG_G: dict[str, Any] = VIT_H | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
REAL_TEXTS = {
    "ViT-L": (CLIPTextConfig(**VIT_L), clip.TRANSFORMERS),
    "ViT-L, old names": (CLIPTextConfig(**VIT_L), clip.BARE),
    "ViT-H": (CLIPTextConfig(**VIT_H), clip.OPEN_CLIP),
    "ViT-bigG": (CLIPTextConfig(**BIG_G), clip.OPEN_CLIP),
}
TINY_BERT: dict[str, Any] = {
    "vocab_size": 30,
    "max_position_embeddings": 7,
    "encoder_layers": 3,
    "encoder_ffn_dim": 20,
    "head_dim": 4,
    "d_model": 24,
}


def hollow(make: type[nn.Module], config: Any) -> dict[str, Tensor]:
    """The names and shapes of a module, without memory."""
    with torch.device("meta"), Unfilled():
        return make(config).state_dict()


@cache
def real_unet(name: str) -> dict[str, Tensor]:
    return hollow(UNet, REAL_UNETS[name])


@cache
def real_vae() -> dict[str, Tensor]:
    return hollow(Autoencoder, REAL_VAE)


@cache
def real_text(name: str) -> dict[str, Tensor]:
    return hollow(CLIPTextModel, REAL_TEXTS[name][0])


def random_of(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of these names and shapes, filled by chance."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def assert_same(found: dict[str, Any], expected: dict[str, Tensor]) -> None:
    """The same names and the same bits."""
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


def assert_comes_back(tensors: dict[str, Tensor], places: KeyMap) -> None:
    """Given and taken again is the same, and so is the file."""
    file = given(tensors, places)
    again = {name: taken(piece, file[piece.source]) for name, piece in places.items()}
    assert_same(again, tensors)
    assert_same(given(again, places), file)


@pytest.mark.parametrize("name", REAL_UNETS)
def test_real_unets(name: str) -> None:
    config, ours = REAL_UNETS[name], real_unet(name)
    file = given(ours, prefixed(unet.places(config), LDM_PREFIX))
    found = convert_ldm_unet_checkpoint(file, config.to_dict())
    assert shapes(found) == shapes(ours)
    assert unet.config({key.removeprefix(LDM_PREFIX): shape for key, shape in shapes(file).items()}) == config
    averages = ema.places(prefixed(unet.places(config), LDM_PREFIX))
    assert len({piece.source for piece in averages.values()}) == len(ours)


@pytest.mark.parametrize("name", ["LDM 1.4B", "KOALA"])
def test_real_unets_that_no_other_test_compares(name: str) -> None:
    with torch.device("meta"):
        theirs = UNet2DConditionModel.from_config(REAL_UNETS[name].to_dict())
    assert shapes(real_unet(name)) == shapes(theirs.state_dict())


@pytest.mark.parametrize("config", TINY_UNETS.values(), ids=TINY_UNETS.keys())
def test_tiny_unets(config: UNetConfig) -> None:
    ours = random_of(hollow(UNet, config))
    places = prefixed(unet.places(config), LDM_PREFIX)
    assert_same(convert_ldm_unet_checkpoint(given(ours, places), config.to_dict()), ours)
    assert_comes_back(ours, places)
    file = shapes(given(ours, unet.places(config)))
    assert unet.config(file, pooled_text=POOLED_TEXT) == config


def test_averaged_weights() -> None:
    config = TINY_UNETS["SD 1"]
    plain, average = random_of(hollow(UNet, config)), random_of(hollow(UNet, config), seed=1)
    places = prefixed(unet.places(config), LDM_PREFIX)
    file = given(plain, places) | given(average, ema.places(places)) | {"model_ema.decay": torch.tensor(0.9999)}
    assert_same(convert_ldm_unet_checkpoint(file, config.to_dict(), extract_ema=True), average)
    assert_same(convert_ldm_unet_checkpoint(file, config.to_dict()), plain)


@pytest.mark.parametrize("prefix", vae.PREFIXES)
@pytest.mark.parametrize("config", TINY_VAES.values(), ids=TINY_VAES.keys())
def test_tiny_vaes(config: AutoencoderConfig, prefix: str) -> None:
    ours = random_of(hollow(Autoencoder, config))
    places = prefixed(vae.places(config), prefix)
    file = given(ours, places)
    assert_same(convert_ldm_vae_checkpoint(dict(file), config.to_dict()), ours)
    assert_comes_back(ours, places)
    assert vae.find(shapes(file)) == (prefix, vae.LDM)
    assert vae.config({name.removeprefix(prefix): shape for name, shape in shapes(file).items()}) == config


@pytest.mark.parametrize("names", [vae.DIFFUSERS, vae.OLD])
@pytest.mark.parametrize("config", TINY_VAES.values(), ids=TINY_VAES.keys())
def test_vaes_of_diffusers(config: AutoencoderConfig, names: str, tmp_path: Path) -> None:
    ours = random_of(hollow(Autoencoder, config))
    places = vae.places(config, names)
    file = given(ours, places)
    save_file(file, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    theirs, info = AutoencoderKL.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same(theirs.state_dict(), ours)
    assert_comes_back(ours, places)
    attends = config.mid_block_add_attention
    assert vae.find(shapes(file)) == ("", names if attends else vae.DIFFUSERS)
    assert vae.config(shapes(file), names) == config


def test_the_real_vae() -> None:
    ours = real_vae()
    file = given(ours, vae.places(REAL_VAE))
    assert shapes(convert_ldm_vae_checkpoint(dict(file), REAL_VAE.to_dict())) == shapes(ours)
    assert file["encoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert len(file) == 248
    assert vae.config(shapes(file), scaling_factor=0.13025, sample_size=1024).scaling_factor == 0.13025
    assert vae.config(shapes(file)) == REAL_VAE


def test_attention_of_linear_layers_is_read_in_both_forms() -> None:
    config = TINY_VAES["two levels"]
    ours = random_of(hollow(Autoencoder, config))
    places = vae.places(config)
    file = {
        name: tensor[:, :, 0, 0] if tensor.shape[2:] == (1, 1) and ".attn_1." in name else tensor
        for name, tensor in given(ours, places).items()
    }
    assert file["decoder.mid.attn_1.q.weight"].shape == (64, 64)
    assert_same({name: taken(piece, file[piece.source]) for name, piece in places.items()}, ours)
    assert vae.config(shapes(file)) == config


def their_text(config: CLIPTextConfig) -> Any:
    kind = transformers.CLIPTextModelWithProjection if config.with_projection else transformers.CLIPTextModel
    return kind(transformers.CLIPTextConfig(**config.to_dict()))


@pytest.mark.parametrize("prefix", ["cond_stage_model.model.", "conditioner.embedders.1.model."])
@pytest.mark.parametrize("projected", [False, True])
def test_tiny_open_clip(prefix: str, projected: bool) -> None:
    config = CLIPTextConfig(**vars(TINY_TEXT) | {"hidden_act": "gelu", "with_projection": projected})
    ours = random_of(hollow(CLIPTextModel, config))
    places = prefixed(clip.places(config, clip.OPEN_CLIP), prefix)
    file = given(ours, places)
    found = convert_open_clip_checkpoint(their_text(config), file, prefix=prefix)
    # SD 2's prefix makes diffusers leave out the projection, which SD 2 does not read.
    unread = {"text_projection.weight"} if prefix.startswith("cond_stage") else set[str]()
    assert_same(found, {name: tensor for name, tensor in ours.items() if name not in unread})
    assert_comes_back(ours, places)
    assert clip.find(shapes(file), prefix) == clip.OPEN_CLIP
    stripped = {name.removeprefix(prefix): shape for name, shape in shapes(file).items()}
    assert clip.config(stripped, clip.OPEN_CLIP) == config


@pytest.mark.parametrize("names", [clip.TRANSFORMERS, clip.BARE])
def test_tiny_clip(names: str) -> None:
    prefix = "cond_stage_model.transformer."
    ours = random_of(hollow(CLIPTextModel, TINY_TEXT))
    places = prefixed(clip.places(TINY_TEXT, names), prefix)
    file = given(ours, places)
    found = convert_ldm_clip_checkpoint(file)
    assert_same({f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in found.items()}, ours)
    assert_comes_back(ours, places)
    assert clip.find(shapes(file), prefix) == names
    stripped = {name.removeprefix(prefix): shape for name, shape in shapes(file).items()}
    assert clip.config(stripped, names) == TINY_TEXT


@pytest.mark.parametrize("name", REAL_TEXTS)
def test_real_text_encoders(name: str) -> None:
    config, names = REAL_TEXTS[name]
    ours = real_text(name)
    with torch.device("meta"):
        theirs = their_text(config).state_dict()
    wrapped = any(key.startswith("text_model.") for key in theirs)  # transformers 5 has it only beside a projection.
    assert {key if wrapped else f"text_model.{key}": value for key, value in shapes(theirs).items()} == shapes(ours)
    file = given(ours, clip.places(config, names))
    if names == clip.OPEN_CLIP:
        with torch.device("meta"):
            model = their_text(config)
        assert shapes(convert_open_clip_checkpoint(model, file, prefix="")) == shapes(ours)
        assert file["transformer.resblocks.0.attn.in_proj_weight"].shape[0] == 3 * config.hidden_size
    assert clip.config(shapes(file), names) == config


REAL_FILES: dict[str, tuple[str, float, dict[str, str]]] = {
    "SD 1.5": ("SD 1.5", 0.18215, {"cond_stage_model.transformer.": "ViT-L"}),
    "SD 1.4, old names": ("SD 1.5", 0.18215, {"cond_stage_model.transformer.": "ViT-L, old names"}),
    "SD 1.5 inpainting": ("SD 1.5 inpainting", 0.18215, {"cond_stage_model.transformer.": "ViT-L"}),
    "InstructPix2Pix": ("InstructPix2Pix", 0.18215, {"cond_stage_model.transformer.": "ViT-L"}),
    "SD 2.1": ("SD 2.1", 0.18215, {"cond_stage_model.model.": "ViT-H"}),
    "SD Turbo": ("SD 2.1", 0.18215, {"conditioner.embedders.0.model.": "ViT-H"}),
    "SD 2 depth": ("SD 2 depth", 0.18215, {"cond_stage_model.model.": "ViT-H"}),
    "SDXL": (
        "SDXL",
        0.13025,
        {"conditioner.embedders.0.transformer.": "ViT-L", "conditioner.embedders.1.model.": "ViT-bigG"},
    ),
    "SDXL inpainting": (
        "SDXL inpainting",
        0.13025,
        {"conditioner.embedders.0.transformer.": "ViT-L", "conditioner.embedders.1.model.": "ViT-bigG"},
    ),
    "SDXL refiner": ("SDXL refiner", 0.13025, {"conditioner.embedders.0.model.": "ViT-bigG"}),
}


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_checkpoints(name: str) -> None:
    network, scale, texts = REAL_FILES[name]
    file = given(real_unet(network), prefixed(unet.places(REAL_UNETS[network]), LDM_PREFIX))
    file |= given(real_vae(), prefixed(vae.places(REAL_VAE), "first_stage_model."))
    for prefix, text in texts.items():
        config, names = REAL_TEXTS[text]
        file |= given(real_text(text), prefixed(clip.places(config, names), prefix))
    began = time.process_time()
    family = recognise(shapes(file), {}, lambda _: [0.0])
    assert time.process_time() - began < 0.3  # `inspect` has half a second for this and for reading the header.
    assert (family.refusal, family.missing, family.unused) == (None, (), ())
    side = family.training.size[0]
    assert [part.config for part in family.parts] == [
        replace(REAL_UNETS[network], sample_size=side // 8),
        replace(REAL_VAE, sample_size=side, scaling_factor=scale),
        *(REAL_TEXTS[text][0] for text in texts.values()),
    ]


def test_the_vit_h_that_diffusers_makes_is_ours_without_what_is_never_read() -> None:
    config = REAL_TEXTS["ViT-H"][0]
    prefix = "cond_stage_model.model."
    file = given(real_text("ViT-H"), prefixed(clip.places(config, clip.OPEN_CLIP), prefix))
    file |= given(real_unet("SD 2.1"), prefixed(unet.places(REAL_UNETS["SD 2.1"]), LDM_PREFIX))
    part = recognise(shapes(file), {}, lambda _: [0.0]).part("text_encoder")
    assert part is not None
    with torch.device("meta"):
        theirs = their_text(replace(config, num_hidden_layers=23, with_projection=False))
    found = convert_open_clip_checkpoint(theirs, file, prefix=prefix)
    # Of 24 blocks the last but one is read, without a projection.
    unread = ("text_model.encoder.layers.23.", "text_projection.")
    assert {name for name in part.places if not name.startswith(unread)} == found.keys()


class Branch(nn.Module):
    """An attention or a feed-forward, with the names that x-transformers gives its layers."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def x_transformer(config: LDMBertConfig) -> nn.Module:
    """The layers of x-transformers' TransformerWrapper around an Encoder, as diffusers' converter walks them."""
    width, inner = config.d_model, config.encoder_attention_heads * config.head_dim

    def layers() -> Iterable[nn.Module]:
        for _ in range(config.encoder_layers):
            to = {f"to_{role}": nn.Linear(width, inner, bias=False) for role in "qkv"}
            yield nn.ModuleList([nn.LayerNorm(width), Branch(**to, to_out=nn.Linear(inner, width))])
            wider, narrower = nn.Linear(width, config.encoder_ffn_dim), nn.Linear(config.encoder_ffn_dim, width)
            net = nn.Sequential(nn.Sequential(wider, nn.GELU()), nn.Dropout(), narrower)
            yield nn.ModuleList([nn.LayerNorm(width), Branch(net=net)])

    return Branch(
        token_emb=nn.Embedding(config.vocab_size, width),
        pos_emb=Branch(emb=nn.Embedding(config.max_position_embeddings, width)),
        attn_layers=Branch(layers=nn.ModuleList(layers())),
        norm=nn.LayerNorm(width),
        to_logits=nn.Linear(width, config.vocab_size),
    )


def test_bert() -> None:
    config = LDMBertConfig(**TINY_BERT)
    wrapper = x_transformer(config)
    file = random_of(wrapper.state_dict())
    wrapper.load_state_dict(file, strict=True)
    places = bert.places(config)
    assert {piece.source for piece in places.values()} == file.keys()
    theirs = convert_ldm_bert_checkpoint(Branch(transformer=wrapper), TheirBertConfig(**TINY_BERT))
    assert_same({name: taken(piece, file[piece.source]) for name, piece in places.items()}, theirs.state_dict())
    assert_comes_back(theirs.state_dict(), places)
    assert bert.config(shapes(file)) == config
    assert bert.find({f"x.{name}": () for name in file}, "x.")


def test_the_real_bert() -> None:
    with torch.device("meta"):
        theirs = LDMBertModel(TheirBertConfig())
        file = shapes(x_transformer(LDMBertConfig()).state_dict())
    places = bert.places(LDMBertConfig())
    assert places.keys() == theirs.state_dict().keys()
    assert {name: file[piece.source] for name, piece in places.items()} == shapes(theirs.state_dict())
    assert bert.config(file) == LDMBertConfig()
    assert LDMBertConfig.from_dict(TheirBertConfig().to_dict()) == LDMBertConfig()
