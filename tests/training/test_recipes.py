"""Every recipe describes networks that fit together; settings change them, and only in ways that make sense."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mezzotint.conditioning.bert import LDMBertModel
from mezzotint.conditioning.clip import CLIPModel, CLIPTextModel, CLIPVisionModel
from mezzotint.denoise.unet import UNet
from mezzotint.noise.parameterisation import Prediction
from mezzotint.pipeline import Pipeline
from mezzotint.store.facts import Facts
from mezzotint.training.recipe import Recipe
from mezzotint.training.recipes import RECIPES, changed, debug, recipe_named
from mezzotint.types import UserError
from mezzotint.vae.autoencoder import Autoencoder

ROOM = 40 * 2**20
"""Bytes that a shipped model may take."""


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_networks_that_fit_together(name: str):
    recipe = recipe_named(name)
    assert recipe.name == name
    assert recipe.encoder == ("bert" if name.endswith("bert") else "clip")
    bert = recipe.bert.text(recipe.bert.vocab_size, 0)
    text, vision = recipe.clip.text(recipe.clip.vocab_size, 0, 1, 1), recipe.clip.vision(recipe.size)
    with torch.device("meta"):
        clip = CLIPModel(CLIPTextModel(text), CLIPVisionModel(vision), recipe.clip.projection)
        read = LDMBertModel(bert)
        unet, vae = UNet(recipe.unet.network), Autoencoder(recipe.vae.network)
        assert vae.encode(torch.zeros(1, 3, recipe.size, recipe.size)).mean.shape == (
            1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size
        )  # fmt: skip
    assert vae.config.factor == 8
    assert recipe.unet.network.cross_attention_dim == text.hidden_size == bert.hidden_size  # Either reads the texts.
    assert text.max_position_embeddings == bert.max_position_embeddings == 77
    assert vae.config.scaling_factor == 1.0  # Latents are standardised after training.
    assert recipe.size % recipe.clip.patch == 0
    size = sum(p.numel() for part in (clip.text_model, read, unet, vae) for p in part.parameters()) * 2
    if name != "still-life-256":
        assert size <= ROOM
    Pipeline.request  # noqa: B018
    facts = Facts(name=name, defaults=recipe.defaults)
    assert facts.request(prompt="a cube").steps == recipe.defaults["steps"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_json_and_a_pure_function(name: str):
    recipe = recipe_named(name)
    assert recipe_named(name) == recipe
    assert changed(recipe, []) == recipe
    values = json.loads(json.dumps(recipe.to_dict()))
    assert values["unet"]["schedule"]["prediction_type"] == "v_prediction"
    assert values["unet"]["schedule"]["rescale_betas_zero_snr"] is True


def test_the_forward_process_ends_in_pure_noise():
    assert recipe_named("still-life-128").unet.schedule.sigma_max == pytest.approx(4096, rel=1e-3)


def test_no_such_recipe():
    with pytest.raises(UserError, match=r"no recipe 'still-live'.*still-life-64"):
        recipe_named("still-live")


def test_settings_reach_everything():
    base = debug()
    assert changed(base, ["scenes=7"]) == replace(base, scenes=7)
    recipe = changed(
        base,
        ["unet.fit.images=48", "vae.fit.lr=1", "clip.fit.bf16=true", "unet.fit.betas=[0.5, 0.9]", "name=mine",
         "unet.schedule.rescale_betas_zero_snr=false", "unet.schedule.prediction_type=epsilon",
         "unet.network.norm_num_groups=8", "unet.caption_dropout=0"],
    )  # fmt: skip
    assert recipe.unet.fit.images == 48
    assert (recipe.vae.fit.lr, type(recipe.vae.fit.lr)) == (1.0, float)
    assert recipe.clip.fit.bf16 is True
    assert recipe.unet.fit.betas == (0.5, 0.9)
    assert recipe.name == "mine"
    assert recipe.unet.schedule.prediction_type is Prediction.EPSILON
    assert recipe.unet.network.norm_num_groups == 8
    assert recipe.unet.caption_dropout == 0.0
    assert base == debug()


def test_a_stage_s_own_settings_need_no_dots():
    base = debug()
    assert changed(base, ["images=40"], "vae") == changed(base, ["vae.fit.images=40"])
    assert changed(base, ["layers_per_block=2"], "unet") == changed(base, ["unet.network.layers_per_block=2"])
    assert changed(base, ["crop=16"], "decoder") == changed(base, ["decoder.crop=16"])
    assert changed(base, ["scenes=3"], "vae").scenes == 3
    assert changed(base, ["unet.fit.images=40"], "vae").unet.fit.images == 40


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("images=40", "no setting 'images'"),
        ("unet.fit.imagse=40", "no setting 'unet.fit.imagse'"),
        ("unet.fit.images.more=40", "no setting"),
        ("unet.fit=3", "no setting 'unet.fit'"),
        ("unet.fit.images", "key=value"),
        ("unet.fit.images=many", "must be a value such as 32"),
        ("unet.fit.images=1.5", "must be a value such as 32"),
        ("unet.fit.images=True", "must be a value such as 32"),
        ("unet.fit.images=-1", "at least 0"),
        ("unet.fit.bf16=1", "must be a value such as False"),
        ("unet.fit.lr=__import__('os')", "must be a value such as"),
        ("unet.fit.lr=-1", "lr is -1"),
        ("unet.schedule.prediction_type=noise", "epsilon, v_prediction, sample, flow"),
        ("unet.schedule.beta_schedule=cosine", "beta_schedule"),
        ("unet.network.norm_num_groups=7", "block_out_channels"),
        ("vae.network.act_fn=sine", "act_fn"),
        ("size=20", "multiple of 8"),
        ("size=0", "multiple of 8"),
        ("vae.crop=64", "at most size"),
        ("decoder.crop=12", "multiple of 8"),
        ("scenes=0", "at least 1"),
        ("vae.network.latent_channels=8", "in_channels and out_channels"),
        ("unet.network.in_channels=9", "takes 9 channels"),
        ("clip.width=48", "cross_attention_dim and clip.width"),
        ("clip.heads=5", "num_attention_heads"),
        ("clip.patch=12", "must divide size"),
        ("clip.patch=64", "patch_size"),
        ("clip.vocab_size=500", "from 514"),
        ("clip.vocab_size=99999999999999999999", "to 1000000"),
        ("clip.text_rows=0", "text_rows"),
        ("unet.fit.lr=1e999", "not infinite"),
        ("unet.fit.seed=18446744073709551616", "from 0 to"),
        ("sight.network.widths=()", "one or more widths"),
        ("sight.network.norm_num_groups=3", "divisible by"),
        ("vae.network.shift_factor={}", "of the wrong kind"),
        ("vae.network.shift_factor=1e999", "must be finite"),
        ("encoder=", "encoder is empty"),
        ("bert.heads=5", "heads must divide width"),
        ("bert.layers=0", "encoder_layers 0"),
        ("bert.vocab_size=108", "at least 109"),
        ("bert.read=-0.5", "bert.read -0.5"),
        ("unet.network.sample_size=8", "at size 32 it must be 4"),
        ("unet.network.block_out_channels=['a', 'b']", "of the wrong kind"),
        ("unet.caption_dropout=1.5", "from 0 to 1"),
        ("hints.disguised=1.5", "hints.disguised is 1.5; it must be from 0 to 1"),
        ("hints.clear=-1", "hints.clear is -1"),
        ("hints.middle=0", "hints.middle is 0.0; it must be above 0"),
        ("image_prompt.disguised=-0.5", "image_prompt.disguised is -0.5; it must be from 0 to 1"),
        ("unet.middle=0.0", "middle and breadth above 0"),
        ("unet.breadth=-1", "middle and breadth above 0"),
        ("clip.grey=1.0", "below 1"),
        ("unet.segment=-1", "at least 0"),
        ("image_prompt.segment=-1", "at least 0 and middle above 0"),
        ("image_prompt.middle=0.0", "middle above 0"),
        ("unet.fit.betas=(0.9,)", "two numbers"),
        ("unet.fit.weight_decay=-1.0", "weight_decay"),
        ("vae.network.use_quant_conv=false", "use_quant_conv"),
        ("vae.network.in_channels=1", "3 channels"),
        ("defaults={'stepz': 3}", "'stepz'"),
        ("defaults={'steps': 'many'}", "steps"),
        ("defaults={'steps': 1000, 'sampler': 'eulr'}", "eulr"),
        ("defaults={'guide': ['intervall:1:9']}", "intervall"),
        ("defaults={[]: 1}", "must be a value such as"),
    ],
)
def test_settings_that_make_no_sense(setting: str, said: str):
    with pytest.raises(UserError, match=said) as error:
        changed(debug(), [setting])
    assert "\n" not in str(error.value)


def test_a_u_net_that_reads_pooled_is_not_trained_here():
    with pytest.raises(UserError, match="pooled"):
        changed(debug(), ["class_embed_type='projection'", "projection_class_embeddings_input_dim=8"], "unet")


def test_settings_that_depend_on_each_other_are_given_together():
    """Each alone makes no network; the recipe is checked once they are all there, in any order."""
    deeper = [
        "block_out_channels=[16, 32, 32]",
        "attention_head_dim=[1, 1, 1]",
        "down_block_types=['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D']",
        "up_block_types=['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D']",
    ]
    recipe = changed(debug(), deeper, "unet")
    assert recipe == changed(debug(), deeper[::-1], "unet")
    assert recipe.unet.network.block_out_channels == (16, 32, 32)
    assert replace(recipe, unet=debug().unet) == debug()
    with pytest.raises(UserError, match="equally many"):
        changed(debug(), deeper[:-1], "unet")
    channels = [f"{name}=8" for name in ("vae.network.latent_channels", "unet.network.in_channels")]
    assert changed(debug(), [*channels, "unet.network.out_channels=8"]).vae.network.latent_channels == 8
    assert changed(debug(), ["scenes=3", "scenes=4"]).scenes == 4


def test_the_networks_sizes_follow_the_pictures():
    recipe = changed(debug(), ["size=64"])
    assert (recipe.unet.network.sample_size, recipe.vae.network.sample_size) == (8, 64)
    assert changed(debug(), ["size=64", "unet.network.sample_size=8"]) == recipe
    with pytest.raises(UserError, match="at size 64 it must be 8"):
        changed(debug(), ["size=64", "unet.network.sample_size=4"])


def test_tokens_are_as_wide_as_the_u_net_whoever_reads():
    assert changed(debug(), ["bert.width=64"]).bert.width == 64  # Which reads nothing here.
    with pytest.raises(UserError, match=r"32 wide, .* 64 wide: .*and bert\.width equal"):
        changed(debug(), ["bert.width=64", "encoder=bert"])
    assert changed(debug(), ["clip.width=64", "clip.heads=2", "encoder=bert"]).tower == debug().bert
    assert changed(debug(), ["clip.width=64", "encoder=somebody/elses"]).tower is None


def test_the_recipe_with_a_bert_is_the_other_one_but_for_the_text():
    with_bert = recipe_named("still-life-64-bert")
    assert replace(with_bert, name="still-life-64", encoder="clip") == recipe_named("still-life-64")
    text = with_bert.clip.text(1200, 0, 1, 1)
    bert = with_bert.bert.text(1200, 0)
    assert (bert.hidden_size, bert.encoder_layers) == (text.hidden_size, text.num_hidden_layers)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name: str):
    recipe = recipe_named(name)
    values = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(values) == recipe
    with pytest.raises((TypeError, KeyError)):
        Recipe.from_dict({**recipe.to_dict(), "colour": "red"})
