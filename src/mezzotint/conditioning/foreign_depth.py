"""Depth of pictures by a model that transformers loads: DPT and MiDaS, Depth Anything, ..."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.conditioning.foreign import transformers
from mezzotint.types import UserError

PARTS = ("feature_extractor", "depth_estimator")
"""The folders of a model of Stable Diffusion 2 that draws on depth."""
METRIC = ("zoedepth", "depth_pro")
"""Kinds of models that tell metres, by what their configs call them; of Depth Anything the config itself says it."""
NEAREST = 1e-3
"""Metres, below which there is no distance."""


@cache
def _loaded(estimator: str) -> tuple[Any, Any]:
    """What prepares pictures for an estimator, and the estimator."""
    library = transformers(f"The depth estimator {estimator}")
    folder = Path(estimator)
    inside = (folder / PARTS[1]).is_dir()
    prepares, network = (str(folder / part) for part in PARTS) if inside else (estimator, estimator)

    def load(*, local: bool) -> tuple[Any, Any]:
        processor = library.AutoImageProcessor.from_pretrained(prepares, local_files_only=local)
        model = library.AutoModelForDepthEstimation.from_pretrained(network, local_files_only=local)
        return processor, model.eval()

    try:
        with suppress(OSError):  # Without a network the hub would be tried for minutes.
            return load(local=True)
        return load(local=False)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise UserError(f"The depth estimator {estimator} cannot be loaded: {first}.") from error


def _tells_distance(config: Any) -> bool:
    return config.model_type in METRIC or getattr(config, "depth_estimation_type", None) == "metric"


@torch.no_grad()
def foreign_depth(pixels: Tensor, estimator: str) -> Tensor:
    """The relative disparity [B 1 H W] of pictures [B 3 H W] in [-1, 1], large where it is near.

    Of a model that tells metres it is one over them. `estimator` is the folder or the hub id of such a model, or the
    folder of a diffusion model that has one. Raises UserError where it cannot be loaded.
    """
    processor, model = _loaded(estimator)
    bytes_ = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    seen = processor(images=list(bytes_.numpy()), return_tensors="pt")
    depth: Tensor = model(pixel_values=seen.pixel_values.to(model.dtype)).predicted_depth.float()
    if _tells_distance(model.config):
        depth = 1 / depth.clamp(min=NEAREST)
    return F.interpolate(depth[:, None], size=pixels.shape[2:], mode="bicubic")
