"""What is told of a whole model's tensors: family, parts, how it was trained, what is left over or missing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.contents import averaged
from mezzotint.store.evidence import kept
from mezzotint.store.families import Family, recognise
from mezzotint.store.kinds import KINDS, Glance, Reading
from mezzotint.store.ldm import clip, ema
from mezzotint.types import UserError

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"
# Two resolutions of one ResNet block: output_blocks.3 is the last.
SPREAD = f"{UNET}output_blocks.3.1.transformer_blocks.0.norm1.bias"

Shapes = dict[str, tuple[int, ...]]


def told(shapes: Shapes, metadata: dict[str, str] | None = None, **numbers: list[float]) -> Family:
    """The family; numbers of a tensor are zeros unless they are given, its dots written as two underscores."""
    values = {name.replace("__", "."): own for name, own in numbers.items()}
    return recognise(shapes, {} if metadata is None else metadata, lambda name: values.get(name, [0.0] * 4))


def reading(family: Family, kind: str = "text_encoder") -> Reading | None:
    part = family.part(kind)
    assert part is not None
    return part.reading


def unet(family: Family) -> UNetConfig:
    part = family.part("unet")
    assert part is not None
    assert isinstance(part.config, UNetConfig)
    return part.config


OPEN_CLIP_READ = Reading(layer=-2, final_norm=True, pad_id=0)
POOLED = Reading(layer=-2, final_norm=False, pooled=True, pad_id=0)


@pytest.mark.parametrize(
    ("file", "name", "size", "scale", "readings"),
    [
        ("ldm", "latent diffusion 1.4B", 256, 0.18215, [Reading(pad_id=0)]),
        ("sd1", "Stable Diffusion 1.x", 512, 0.18215, [Reading()]),
        ("sd1 old", "Stable Diffusion 1.x", 512, 0.18215, [Reading()]),
        ("sd2", "Stable Diffusion 2.x", 512, 0.18215, [OPEN_CLIP_READ]),
        ("sd2 turbo", "Stable Diffusion 2.x", 512, 0.18215, [OPEN_CLIP_READ]),
        ("sdxl", "Stable Diffusion XL", 1024, 0.13025, [Reading(layer=-2, final_norm=False), POOLED]),
        ("refiner", "Stable Diffusion XL refiner", 1024, 0.13025, [POOLED]),
    ],
)
def test_every_kind(
    checkpoints: dict[str, Shapes], file: str, name: str, size: int, scale: float, readings: list[Reading]
):
    family = told(checkpoints[file])
    assert family.name == name
    assert [part.kind for part in family.parts] == ["unet", "vae", "text_encoder", "text_encoder_2"][
        : 2 + len(readings)
    ]
    assert [part.reading for part in family.parts[2:]] == readings
    assert (family.training.size, family.scaling_factor) == ((size, size), scale)
    assert (family.unused, family.missing, family.refusal) == ((), (), None)
    assert not family.averaged
    coder = family.part("vae")
    assert coder is not None
    assert (coder.config.scaling_factor, coder.config.sample_size) == (scale, size)
    assert unet(family).sample_size == size // 8
    heads = 8 if file in ("ldm", "sd1", "sd1 old") else (1, 2)
    assert unet(family).attention_head_dim == heads


@pytest.mark.parametrize("file", ["sdxl", "refiner"])
def test_the_width_of_embedded_sizes_follows_from_the_pooled_text(checkpoints: dict[str, Shapes], file: str):
    config = unet(told(checkpoints[file]))
    assert (config.addition_embed_type, config.addition_time_embed_dim) == ("text_time", 8)


def test_pooled_text_that_does_not_fit(checkpoints: dict[str, Shapes]):
    projection = "conditioner.embedders.1.model.text_projection"
    family = told(checkpoints["sdxl"] | {projection: (64, 50)})
    assert family.part("unet") is None
    assert family.refusal is not None
    assert "96 pooled numbers, of which 50" in family.refusal
    del checkpoints["sdxl"][projection]
    family = told(checkpoints["sdxl"])
    assert family.part("text_encoder_2") is None
    assert family.refusal is not None
    assert "text_projection is missing" in family.refusal


@pytest.mark.parametrize(
    ("file", "channels", "variant"),
    [
        ("sd1", 9, " inpainting"),
        ("sd1", 8, " instruct-pix2pix"),
        ("sd2", 5, " depth"),
        ("sd2", 9, " inpainting"),
        ("sdxl", 9, " inpainting"),
        ("sdxl", 4, ""),
    ],
)
def test_what_more_channels_are_for(checkpoints: dict[str, Shapes], file: str, channels: int, variant: str):
    plain = told(checkpoints[file])
    family = told(checkpoints[file] | {FIRST: (32, channels, 3, 3)})
    assert family.name == plain.name + variant
    assert unet(family).in_channels == channels
    assert family.refusal is None


@pytest.mark.parametrize(
    ("width", "pooled", "name"),
    [
        (768, None, "Stable Diffusion 1.x"),
        (1024, None, "Stable Diffusion 2.x"),
        (2048, 2816, "Stable Diffusion XL"),
        (1280, 2560, "Stable Diffusion XL refiner"),
        (1280, None, "latent diffusion 1.4B"),
        (192, None, "Stable Diffusion layout, 192 wide text"),
        (None, None, "unknown"),
    ],
)
def test_families_by_width_alone(width: int | None, pooled: int | None, name: str):
    assert Glance(text=width, pooled=pooled).name == name
    shapes: Shapes = {FIRST: (320, 9, 3, 3)}
    if width is not None:
        shapes[f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"] = (320, width)
    if pooled is not None:
        shapes[f"{UNET}label_emb.0.0.weight"] = (1280, pooled)
    family = told(shapes)
    assert family.name == ("unknown" if width is None else f"{name} inpainting")
    assert family.parts == ()
    assert family.refusal is not None
    assert "missing" in family.refusal


def test_a_unet_alone(checkpoints: dict[str, Shapes]):
    alone = {name.removeprefix(UNET): shape for name, shape in checkpoints["sd1"].items() if name.startswith(UNET)}
    family = told(alone)
    assert [part.kind for part in family.parts] == ["unet"]
    assert family.refusal is None
    assert family.name == "Stable Diffusion layout, 64 wide text"


def test_without_a_unet():
    with pytest.raises(UserError, match="no U-Net"):
        told({"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)})


WIDE = [0.25, -0.25] * 8


@pytest.mark.parametrize(
    ("file", "more", "metadata", "expected", "evidence"),
    [
        ("sd1", {}, {}, "epsilon", "Nothing in the file"),
        ("sd1", {"v_pred": (0,)}, {}, "v_prediction", "tensor v_pred"),
        ("sdxl", {"v_pred": (0,)}, {"modelspec.prediction_type": "epsilon"}, "v_prediction", "tensor v_pred"),
        ("sd1", {}, {"modelspec.prediction_type": "v"}, "v_prediction", "modelspec.prediction_type v"),
        ("sd1", {}, {"modelspec.prediction_type": "V-Prediction"}, "v_prediction", "prediction_type V-Prediction"),
        ("sd1", {}, {"modelspec.predict_key": "v"}, "v_prediction", "modelspec.predict_key v"),
        ("sd1", {}, {"modelspec.prediction_type": "", "modelspec.predict_key": "v"}, "v_prediction", "predict_key v"),
        ("sd1", {}, {"modelspec.prediction_type": "unknown"}, "epsilon", "Nothing in the file"),
        ("sd2", {}, {"modelspec.prediction_type": "unknown"}, "v_prediction", "deviation 0.250, above 0.09"),
        ("sd2", {}, {}, "v_prediction", "deviation 0.250, above 0.09"),
        ("sd2 turbo", {}, {}, "v_prediction", "deviation 0.250, above 0.09"),
        ("sd2", {}, {"modelspec.prediction_type": "epsilon"}, "epsilon", "modelspec.prediction_type epsilon"),
        ("sd2", {FIRST: (32, 9, 3, 3)}, {}, "epsilon", "Nothing in the file"),
        ("refiner", {}, {}, "epsilon", "Nothing in the file"),
    ],
)
def test_what_the_unet_predicts(
    checkpoints: dict[str, Shapes],
    file: str,
    more: Shapes,
    metadata: dict[str, str],
    expected: str,
    evidence: str,
):
    training = told(checkpoints[file] | more, metadata, **{SPREAD: WIDE}).training
    assert training.prediction == expected
    assert evidence in training.prediction_evidence
    assert NoiseSchedule.from_dict(dict(training.schedule)).prediction_type == expected


def test_stable_diffusion_2_on_v_was_trained_on_larger_pictures(checkpoints: dict[str, Shapes]):
    assert told(checkpoints["sd2"], **{SPREAD: WIDE}).training.size == (768, 768)
    narrow = told(checkpoints["sd2"], **{SPREAD: [0.01, -0.01]}).training
    assert narrow.size == (512, 512)
    assert "deviation 0.010, not above 0.09" in narrow.prediction_evidence


@pytest.mark.parametrize(
    ("more", "last", "zero", "evidence"),
    [
        ({"ztsnr": (0,)}, 0.0047, True, "tensor ztsnr"),
        ({"alphas_cumprod": (1000,)}, 2e-8, True, "alphas_cumprod ends at 2.0e-08"),
        ({"alphas_cumprod": (1000,)}, 0.0047, False, "Nothing in the file"),
        ({}, 0.0, False, "Nothing in the file"),
    ],
)
def test_zero_terminal_snr(checkpoints: dict[str, Shapes], more: Shapes, last: float, zero: bool, evidence: str):
    for marker in ({"v_pred": (0,)}, {}):
        family = told(checkpoints["sdxl"] | more | marker, alphas_cumprod=[0.9, last])
        assert evidence in family.training.schedule_evidence
        assert family.unknown == ()
        schedule = NoiseSchedule.from_dict(dict(family.training.schedule))
        assert (schedule.sigma_max > 1000) is zero  # 4096 at zero terminal SNR, 14.6 without.


@pytest.mark.parametrize(
    ("told_size", "expected"),
    [("768x512", (768, 512)), ("640", (640, 640)), ("1024, 1024", (1024, 1024)), ("0x0", None), ("large", None)],
)
def test_the_size_that_metadata_tells(checkpoints: dict[str, Shapes], told_size: str, expected: tuple[int, int] | None):
    family = told(checkpoints["sd1"], {"modelspec.resolution": told_size})
    assert family.training.size == (expected or (512, 512))
    assert ("modelspec" in family.training.size_evidence) is (expected is not None)
    if expected == (768, 512):
        assert unet(family).sample_size == (64, 96)


LEFTOVERS = [
    "model_ema.diffusion_modelout2weight",
    "model_ema.num_updates",
    "first_stage_model.loss.logvar",
    "betas",
    "posterior_mean_coef1",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.logit_scale",
    "depth_model.model.pretrained.model.cls_token",
]


def test_what_is_left_over_and_what_is_missing(checkpoints: dict[str, Shapes]):
    odd = [f"{UNET}input_blocks.1.0.extra.weight", "something.else"]
    shapes = checkpoints["sd1"] | dict.fromkeys([*LEFTOVERS, *odd], (1,))
    gone = ["first_stage_model.quant_conv.bias", f"{UNET}time_embed.2.bias"]
    for name in gone:
        del shapes[name]
    family = told(shapes)
    assert list(family.unused) == LEFTOVERS + odd
    assert list(family.unknown) == odd
    assert list(family.missing) == gone


def test_averaged_weights(checkpoints: dict[str, Shapes]):
    plain = checkpoints["sd1"]
    part = told(plain).part("unet")
    assert part is not None
    with pytest.raises(UserError, match="no averaged weights"):
        averaged(part, plain)
    averages = {piece.source: plain[part.places[name].source] for name, piece in ema.places(part.places).items()}
    assert "model_ema.diffusion_modeltime_embed0weight" in averages
    family = told(plain | averages)
    assert family.averaged
    assert family.unknown == ()
    assert averaged(part, plain | averages).places["conv_in.bias"].source == (
        "model_ema.diffusion_modelinput_blocks00bias"
    )


def test_our_own_metadata_comes_first(checkpoints: dict[str, Shapes]):
    theirs = told(checkpoints["sd1"])
    ours = UNetConfig(**vars(unet(theirs)) | {"attention_head_dim": 4, "norm_num_groups": 16})
    part = theirs.part("text_encoder")
    assert part is not None
    text = CLIPTextConfig(**vars(part.config) | {"eos_token_id": 7})
    schedule = theirs.training.schedule | {"prediction_type": "sample"}
    metadata = kept({"unet": ours.to_dict(), "text_encoder": text.to_dict(), "scheduler": schedule})
    family = told(checkpoints["sd1"] | {"v_pred": (0,)}, metadata)
    assert unet(family) == ours
    assert [part.config for part in family.parts if part.kind == "text_encoder"] == [text]
    assert (family.training.prediction, family.training.schedule) == ("sample", schedule)
    assert "mezzotint.scheduler" in family.training.prediction_evidence


@pytest.mark.parametrize("text", ["{", "[1]", '{"in_channels": 0}', '{"in_channels": "4"}'])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_damaged_metadata_of_ours(checkpoints: dict[str, Shapes], part: str, text: str):
    refusal = told(checkpoints["sd1"], {f"mezzotint.{part}": text}).refusal
    assert refusal is not None
    assert refusal.endswith(".")
    with pytest.raises(UserError, match=r"mezzotint\.scheduler"):
        told(checkpoints["sd1"], {"mezzotint.scheduler": "null"})


def without(shapes: Shapes, part: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if part not in name}


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("sdxl", lambda shapes: shapes | {"edm_mean": (1, 4, 1, 1), "edm_std": (1, 4, 1, 1)}, "EDM"),
        ("sdxl", lambda shapes: shapes | {"edm_vpred.sigma_max": ()}, "EDM"),
        ("unclip", lambda shapes: shapes, "unCLIP"),
        ("sd2", lambda shapes: shapes | {f"{UNET}label_emb.weight": (1000, 128)}, "upscaler"),
        ("sd2", lambda shapes: shapes | {f"{UNET}input_blocks.1.1.time_stack.0.norm.weight": (32,)}, "video"),
        ("sdxl", lambda shapes: without(shapes, f"{UNET}middle_block.1."), "SSD-1B"),
        ("sdxl", lambda shapes: without(shapes, f"{UNET}output_blocks.1.1.transformer_blocks.1."), "distilled"),
        ("sdxl", lambda shapes: without(shapes, f"{UNET}output_blocks.1.1."), "distilled"),
        ("sd1", lambda shapes: without(shapes, ".attn2."), "no attention to text"),
        ("sd1", lambda shapes: shapes | {f"{UNET}input_blocks.1.0.in_layers.2.weight": (24, 32, 3, 3)}, "24"),
        ("sd1", lambda shapes: without(shapes, "first_stage_model.encoder."), "no encoder"),
        (
            "sd2",
            lambda shapes: {
                name: (shape[0], shape[0] * 2) if name.endswith("attn1.to_k.weight") else shape
                for name, shape in shapes.items()
            },
            "reads the text instead",
        ),
    ],
)
def test_what_cannot_be_run(checkpoints: dict[str, Shapes], file: str, change: Any, reason: str):
    refusal = told(change(checkpoints[file])).refusal
    assert refusal is not None
    assert reason in refusal


def test_a_vit_h_that_lacks_its_last_block_is_read_at_its_end(checkpoints: dict[str, Shapes]):
    prefix = "cond_stage_model.model.transformer.resblocks."
    block = {name: own for name, own in checkpoints["sd2"].items() if name.startswith(f"{prefix}0.")}
    copies = {
        name.replace(f"{prefix}0.", f"{prefix}{index}."): own for name, own in block.items() for index in range(24)
    }
    assert reading(told(checkpoints["sd2"] | copies)) == OPEN_CLIP_READ
    assert reading(told(without(checkpoints["sd2"] | copies, f"{prefix}23."))) == Reading(pad_id=0)


@pytest.mark.parametrize("file", ["sd1", "sd1 old"])
@pytest.mark.parametrize(("blocks", "layer"), [(24, -2), (23, -1)])
def test_stable_diffusion_2_with_its_text_encoder_in_transformers_names(
    checkpoints: dict[str, Shapes], file: str, blocks: int, layer: int
):
    """As the first script that wrote a folder of it to one file did."""
    shapes = {
        name: tuple(1024 if side == 64 else side for side in own)
        if name.startswith("cond_stage_model.") or name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
        else own
        for name, own in checkpoints[file].items()
    }
    first = {name: own for name, own in shapes.items() if "encoder.layers.0." in name}
    shapes |= {name.replace(".0.", f".{index}.", 1): own for name, own in first.items() for index in range(blocks)}
    family = told(shapes, **{SPREAD: WIDE})
    assert (family.name, family.kind) == ("Stable Diffusion 2.x", "sd2")
    assert family.training.prediction == "v_prediction"
    assert reading(family) == Reading(layer=layer, pad_id=0)
    config = family.part("text_encoder").config
    assert (config.hidden_act, config.hidden_size, config.num_attention_heads) == ("gelu", 1024, 16)


def test_our_own_metadata_tells_what_is_read(checkpoints: dict[str, Shapes]):
    metadata = kept({"reading": {"layer": -1, "final_norm": True}})
    assert reading(told(checkpoints["sd2"], metadata)) == Reading(pad_id=0)
    refusal = told(checkpoints["sd2"], kept({"reading": {"layer": "last"}})).refusal
    assert refusal is not None
    assert "reading" in refusal


def test_every_reading_is_of_a_layout_that_there_is():
    layouts = {*clip.TELLS, "x-transformers names"}
    assert all(names in layouts for kind in KINDS.values() for names in kind.readings)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_told_of_or_refused_in_one_sentence(checkpoints: dict[str, Shapes], data: st.DataObject):
    whole = checkpoints[data.draw(st.sampled_from(sorted(checkpoints)))]
    places = st.integers(0, len(whole) - 1)
    sides = st.lists(st.integers(0, 200), max_size=4).map(tuple)
    gone = data.draw(st.sets(places, max_size=12))
    shapes = {name: shape for place, (name, shape) in enumerate(whole.items()) if place not in gone}
    names = list(whole)
    shapes |= {names[place]: shape for place, shape in data.draw(st.dictionaries(places, sides, max_size=12)).items()}
    numbers = data.draw(st.lists(st.floats(), max_size=3))
    metadata = data.draw(st.dictionaries(st.just("modelspec.resolution"), st.text()))
    message = None
    try:
        message = recognise(shapes, metadata, lambda _: numbers).refusal
    except UserError as error:
        message = str(error)
    assert message is None or (message.endswith(".") and "\n" not in message)
