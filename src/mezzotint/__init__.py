"""Mezzotint: one package for the whole life of a text-to-image latent diffusion model.

    import mezzotint
    pipe = mezzotint.load("still-life")
    pipe("a red sphere to the left of a blue cube", seed=7).save("out.png")

The names in `__all__` are the public ones, and `mezzotint.sampling` has the samplers alone. Importing this imports no
torch; `load` does.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.types import Conditioning, Request, UserError

if TYPE_CHECKING:
    import torch

    from mezzotint import sampling as sampling
    from mezzotint.pipeline import Cancelled, Picture, Pipeline, Progress
    from mezzotint.store.checksum import Checksums
    from mezzotint.store.extras import Loras, Names

SOON = 2**28
"""Bytes of weights that are looked through at once, which takes a few hundredths of a second."""

__version__ = "0.1.0"
__all__ = [
    "Cancelled",
    "Conditioning",
    "Picture",
    "Pipeline",
    "Progress",
    "Request",
    "UserError",
    "__version__",
    "load",
]


def load(
    model: str | Path = "still-life",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    ema: bool = False,
    vae: str | Path = "",
    loras: Loras = (),
    embeddings: Names = (),
    image_adapter: str | Path = "",
    checksums: Checksums | None = None,
) -> Pipeline:
    """The model, ready to draw: a shipped model's name, a diffusers folder, one file, or a name on the hub.

    `vae`, `loras`, `embeddings` and `image_adapter` are files beside it, as in `Pipeline.use`, which changes them
    later.

    `device` none is the accelerator if there is one, else the CPU. `dtype` none is 32 bits on a CPU and as stored
    elsewhere; else float32, bfloat16 or float16. `ema` takes a file's averaged weights in place of its plain ones.
    `checksums` are the model's, if they were begun earlier.
    Raises UserError for a model or a file that is missing, damaged or of another kind, and a device that is not there.
    In weights of more than 256 MiB that need no change, and so are not read yet, NaN is looked for when first something
    is drawn.
    """
    import torch

    from mezzotint.pipeline import Pipeline
    from mezzotint.store.device import choose_device, choose_dtype
    from mezzotint.store.extras import Extras, text_width
    from mezzotint.store.load import load_parts, uncollected
    from mezzotint.store.models import full_name, resolve
    from mezzotint.store.weights import Unread

    path, extras = resolve(model), Extras.named(vae, loras, embeddings, image_adapter)
    extras.check(text_width(path))
    chosen = choose_device(device)
    # On a CPU fewer bits are slower.
    precision = torch.float32 if dtype is None and chosen.type == "cpu" else choose_dtype(dtype)
    unread = Unread()
    with uncollected():
        parts = load_parts(path, chosen, precision, checksums=checksums, ema=ema, unread=unread)
        if parts.vae.config.force_upcast and next(parts.vae.parameters()).dtype == torch.float16:
            parts.vae.float()  # It was stored so, but overflows.
        if unread.bytes < SOON:
            unread.settle()
        pipe = Pipeline.of(parts, name=full_name(model))
    pipe.before_drawing = unread.settle
    return pipe.use(**extras.fields)


def __getattr__(name: str) -> Any:
    """What `pipeline` holds, imported when it is first asked for, because it imports torch; and `sampling`."""
    if name in ("Cancelled", "Picture", "Pipeline", "Progress"):
        return getattr(import_module("mezzotint.pipeline"), name)
    if name == "sampling":
        return import_module("mezzotint.sampling")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
