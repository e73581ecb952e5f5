"""What a single file's own tensors and metadata tell of how its model was trained, each with a sentence that says so.

No weights are read but a few hundred numbers, and no torch is imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import hypot, sqrt
from pathlib import Path
from typing import Any, cast

from mezzotint.store.ldm.names import Shapes
from mezzotint.types import UserError

Numbers = Callable[[str], list[float]]
"""The numbers of a small tensor of the file, by its name; none where they cannot be read."""

OWN = "mezzotint."
"""What the names in the metadata of our own files begin with; a part's kind follows, or `scheduler`."""
V_PREDICTION_STD = 0.09
"""Above this deviation the biases of the last transformer's first norm are those of a Stable Diffusion 2.x trained on
v, as ComfyUI found by comparing files."""
SIDE_OF_V = 768
"""Sides in pixels of the pictures that a Stable Diffusion 2.x that predicts v was trained on."""
NOTHING_LEFT = 1e-4
"""Below this the last alpha-bar is zero up to rounding; without zero terminal SNR it is about 5e-3."""
PREDICTIONS = {
    "v": "v_prediction",
    "vpred": "v_prediction",
    "vprediction": "v_prediction",
    "eps": "epsilon",
    "epsilon": "epsilon",
    "x0": "sample",
    "sample": "sample",
}
"""What metadata calls a prediction type, in small letters alone, and diffusers' name for it."""
PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
"""Where metadata tells of it: as Stability AI's specification has it, and as ComfyUI writes it."""
YAML = "parameterization"
"""What the key is called under which `told_beside` tells what a .yaml file says of the prediction."""
MAX_YAML = 100_000
"""The most signs of such a file that are read."""
RESOLUTION = re.compile(r"\s*(\d{1,5})(?:\s*[x,]\s*(\d{1,5}))?\s*")

LEFTOVER_PREFIXES = (
    OWN,
    "model_ema.",
    "loss.",
    "first_stage_model.loss.",
    "depth_model.",
    "embedder.",
    "noise_augmentor.",
    "low_scale_model.",
    "denoiser.",
    "edm_",
)
LEFTOVER_NAMES = {
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "global_step",
    "log_one_minus_alphas_cumprod",
    "logvar",
    "lvlb_weights",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "scale_factor",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "v_pred",
    "ztsnr",
}
LEFTOVER_ENDS = (".position_ids", ".logit_scale", ".attn_mask", ".transformer.text_projection.weight")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model was trained, and for each fact a sentence that says what tells of it."""

    prediction: str
    """What the U-Net predicts, by diffusers' name."""
    prediction_evidence: str
    schedule: Mapping[str, Any]
    """The contents of a scheduler_config.json."""
    schedule_evidence: str
    size: tuple[int, int]
    """Width and height in pixels."""
    size_evidence: str


def training(
    shapes: Shapes, metadata: Mapping[str, str], numbers: Numbers, *, side: int, spread: str | None
) -> Training:
    """What a file tells of its model's training.

    `side` is that of the pictures that such models were trained on. `spread` names the tensor whose deviation tells of
    v-prediction and of SIDE_OF_V, for the one kind of model where it does. Raises UserError for metadata of ours that
    is damaged.
    """
    schedule = own(metadata, "scheduler")
    if schedule is not None:
        predicted, evidence = str(schedule.get("prediction_type", "epsilon")), f"The metadata has {OWN}scheduler."
        schedule_evidence = evidence
    else:
        predicted, evidence = prediction(shapes, metadata, numbers, spread)
        zero, schedule_evidence = zero_terminal_snr(shapes, numbers)
        schedule = schedule_of(predicted, zero_terminal_snr=zero)
    usual = SIDE_OF_V if spread is not None and predicted == "v_prediction" else side
    drawn, size_evidence = size(metadata, usual)
    return Training(
        prediction=predicted,
        prediction_evidence=evidence,
        schedule=schedule,
        schedule_evidence=schedule_evidence,
        size=drawn,
        size_evidence=size_evidence,
    )


def own(metadata: Mapping[str, str], kind: str) -> dict[str, Any] | None:
    """The config that our own metadata keeps, of that kind of part or of the `scheduler`; none where it keeps none.

    Raises UserError where it is no JSON object.
    """
    text = metadata.get(OWN + kind)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"The metadata {OWN}{kind} is not JSON, or is damaged: get the file again.") from error
    if not isinstance(values, dict):
        raise UserError(f"The metadata {OWN}{kind} does not hold a JSON object: get the file again.")
    return cast("dict[str, Any]", values)


def kept(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The metadata that `own` reads: the config.json of each kind of part, scheduler_config.json as `scheduler`."""
    return {f"{OWN}{kind}": json.dumps(values) for kind, values in configs.items()}


def told_beside(path: Path) -> dict[str, str]:
    """What the .yaml of the same name says of a checkpoint, as metadata: the configuration that it was trained with.

    The latent diffusion code publishes one with each model, and other programs look for it there. Only its word for
    what the U-Net predicts is taken. Nothing where there is no such file, or none that can be read.
    """
    try:
        with path.with_suffix(".yaml").open(encoding="utf-8") as file:
            found = re.search(r"^\s*parameterization:\s*[\"']?(v|eps|x0)\b", file.read(MAX_YAML), re.MULTILINE)
    except (OSError, ValueError):
        return {}
    return {} if found is None else {YAML: found[1]}


def prediction(shapes: Shapes, metadata: Mapping[str, str], numbers: Numbers, spread: str | None) -> tuple[str, str]:
    """What the U-Net predicts, by diffusers' name, and what says so.

    A marker in the file comes first, then the .yaml beside it, then metadata, which training programs write without
    being asked; the spread of a tensor comes last.
    """
    if "v_pred" in shapes:
        return "v_prediction", "The file has the tensor v_pred."
    if YAML in metadata:
        return PREDICTIONS[metadata[YAML]], f"The .yaml beside the file has {YAML} {metadata[YAML]}."
    for key in PREDICTION_KEYS:
        told = metadata.get(key, "")
        known = PREDICTIONS.get(re.sub(r"[^a-z0-9]", "", told.lower()))
        if known is not None:  # Another word, or none, tells nothing.
            return known, f"The metadata has {key} {told}."
    biases = numbers(spread) if spread is not None and spread in shapes else []
    if biases:
        found = deviation(biases)
        above = found > V_PREDICTION_STD
        side = "above" if above else "not above"
        evidence = f"The tensor {spread} has deviation {found:.3f}, {side} {V_PREDICTION_STD}."
        return ("v_prediction" if above else "epsilon"), evidence
    return "epsilon", "Nothing in the file tells of another."


def zero_terminal_snr(shapes: Shapes, numbers: Numbers) -> tuple[bool, str]:
    """Whether the last timestep is pure noise, and what says so."""
    if "ztsnr" in shapes:
        return True, "The file has the tensor ztsnr."
    if len(shapes.get("alphas_cumprod", ())) == 1:
        ending = numbers("alphas_cumprod")[-1:]
        if ending and ending[0] < NOTHING_LEFT:
            return True, f"The tensor alphas_cumprod ends at {ending[0]:.1e}."
    return False, "Nothing in the file tells of zero terminal SNR."


def schedule_of(prediction: str, *, zero_terminal_snr: bool) -> dict[str, Any]:
    """The scheduler_config.json of models trained on the betas that all published families share.

    A walk that begins at pure noise must visit the last timestep (Lin et al. 2023, table 2); a U-Net that predicts
    epsilon says nothing there.
    """
    trailing = zero_terminal_snr and prediction != "epsilon"
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "rescale_betas_zero_snr": zero_terminal_snr,
        "timestep_spacing": "trailing" if trailing else "leading",
        "steps_offset": 1,
        "set_alpha_to_one": False,
        "clip_sample": False,
    }


def size(metadata: Mapping[str, str], usual: int) -> tuple[tuple[int, int], str]:
    """Width and height in pixels that the model was trained at, and what says so; else `usual` for both."""
    told = metadata.get("modelspec.resolution", "")
    match = RESOLUTION.fullmatch(told)
    if match is not None:
        width, height = int(match[1]), int(match[2] or match[1])
        if width > 0 and height > 0:
            return (width, height), f"The metadata has modelspec.resolution {told}."
    return (usual, usual), f"Nothing in the file tells; published models of its family were trained at {usual}."


def continuous_noise(shapes: Shapes) -> str | None:
    """Why a model trained on EDM's noise levels cannot be run, or none where nothing tells of them."""
    marks = [name for name in ("edm_mean", "edm_std", "edm_vpred.sigma_max") if name in shapes]
    if not marks:
        return None
    return (
        f"The file has {', '.join(marks)}, marks of training on EDM's noise levels (Playground 2.5, CosXL), which this "
        "program cannot draw by: use a model trained on a schedule of betas."
    )


def is_leftover(name: str) -> bool:
    """Whether a tensor that no part reads is one that files are known to carry: of training, a marker, a helper."""
    return name.startswith(LEFTOVER_PREFIXES) or name in LEFTOVER_NAMES or name.endswith(LEFTOVER_ENDS)


def deviation(numbers: list[float]) -> float:
    """The standard deviation of one or more numbers around their own mean."""
    mean = sum(numbers) / len(numbers)
    return hypot(*(number - mean for number in numbers)) / sqrt(len(numbers))
