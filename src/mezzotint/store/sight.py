"""Where sight is kept, and how the depth of a picture is asked of it or of an estimator of transformers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.store.facts import read_json
from mezzotint.store.hub import check_known, is_hub_name
from mezzotint.store.models import SHIPPED
from mezzotint.types import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mezzotint.conditioning.sight import Sight

FOLDER = SHIPPED / "sight"
STEM = "model"


@cache
def load_sight(folder: Path = FOLDER) -> Sight:
    """The network in a folder. Raises UserError where it is missing or damaged."""
    from mezzotint.conditioning.sight import Sight
    from mezzotint.conditioning.sight_config import SightConfig
    from mezzotint.store.part import load_part

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no sight: train it with 'mezzotint train sight'.")
    told = read_json(path)
    config = SightConfig(widths=tuple(told["widths"]), norm_num_groups=told["norm_num_groups"])
    return load_part(lambda: Sight(config), folder, stem=STEM)


def save_sight(sight: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write the network in float16. Raises UserError where the folder cannot be written."""
    import torch

    from mezzotint.store.part import save_part

    save_part(sight, config, folder, stem=STEM, dtype=torch.float16)


def depth_of(pixels: Tensor, estimator: str = "") -> Tensor:
    """The disparity [B 1 H W] of pictures [B 3 H W] in [-1, 1], large where it is near.

    `estimator` is a folder or the hub id of a depth model that transformers loads (DPT, Depth Anything); empty is our
    own, which knows the still life. Raises UserError where that cannot be had.
    """
    if estimator == "":
        return load_sight().see(pixels).disparity
    from mezzotint.conditioning.foreign_depth import foreign_depth

    if not Path(estimator).is_dir():
        if not (is_hub_name(estimator) and estimator.count("/") == 1):
            raise UserError(f"There is no depth estimator {estimator}: give a folder, or OWNER/NAME on the hub.")
        check_known(estimator)
    return foreign_depth(pixels, estimator)
