"""An autoencoder from a folder or a file of its own, or out of a whole checkpoint: big or tiny, in any layout in use.

What it is is told by names and shapes, never by the file's name. The scale of its latents comes from its own config,
where it has one (config.json, or metadata of ours); from the family, of a whole checkpoint; else from the model that
it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mezzotint.store.contents import unet_prefix
from mezzotint.store.evidence import is_leftover, own
from mezzotint.store.facts import described
from mezzotint.store.families import recognise
from mezzotint.store.inspect import inspect
from mezzotint.store.layout import is_model_folder
from mezzotint.store.ldm import vae
from mezzotint.store.ldm.names import under
from mezzotint.store.paths import expanded
from mezzotint.store.source import Source, open_source, part_sources
from mezzotint.store.taesd import config as tiny_config
from mezzotint.store.taesd import find as find_tiny
from mezzotint.store.weights import Unread, build, nothing
from mezzotint.types import UserError
from mezzotint.vae.autoencoder import Autoencoder
from mezzotint.vae.codec import AnyAutoencoder
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.vae.tiny import TinyAutoencoder
from mezzotint.vae.tiny_config import AnyAutoencoderConfig, TinyAutoencoderConfig

CONFIGS: Mapping[str, Callable[[Mapping[str, Any]], AnyAutoencoderConfig]] = {
    "AutoencoderKL": AutoencoderConfig.from_dict,
    "AutoencoderTiny": TinyAutoencoderConfig.from_dict,
}
"""The configs of autoencoders by diffusers' names of their classes."""
MODEL_PARTS = ("vae", "vqvae")
"""What a model's folder calls its autoencoder."""
OTHERS = (
    "model.diffusion_model.",
    "diffusion_model.",
    "cond_stage_model.",
    "conditioner.",
    "control_model.",
    "unet.",
    "text_encoder.",
    "text_encoder_2.",
)
"""What the names of a checkpoint's other parts begin with."""
WHOLE = "single file, latent diffusion layout"
"""What `inspect` calls a whole checkpoint."""


def load_vae(
    path: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = torch.float32,
    *,
    like: AnyAutoencoderConfig | None = None,
) -> AnyAutoencoder:
    """The autoencoder at `path`, in evaluation mode: a folder with config.json, a whole model's, or one file.

    `dtype` is read as by `load_folder`. `like` is the config of the autoencoder in whose place this one is put: latents
    must have its channels and its size, and it tells the scale where nothing of the file's own does; without it that is
    the scale of Stable Diffusion 1 and 2. Raises UserError for a file that holds no autoencoder, for one that does not
    fit `like`, and as `build`.
    """
    path = expanded(path)
    device = torch.device(device)
    if path.is_dir():
        folder = _part_folder(path)
        config = read_vae_config(folder, like)
        sources, is_other = part_sources(folder, dtype), nothing
    else:
        sources, is_other = [open_source(path)], _is_other
        config = _file_config(sources[0], like)
    if like is not None:
        _check_like(path, config, like)
    return build_vae(config, sources, device=device, dtype=dtype, is_other=is_other)


def read_vae_config(folder: Path, like: AnyAutoencoderConfig | None = None) -> AnyAutoencoderConfig:
    """The config of the autoencoder in a folder, by the class that its config.json tells of.

    Where that says nothing of the scale, it is that of `like`. Raises UserError for one that cannot be read here.
    """
    return described(partial(_config, str(folder), like=like), folder / "config.json")


def build_vae(
    config: AnyAutoencoderConfig,
    sources: Sequence[Source],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    is_other: Callable[[str], bool] = nothing,
    unread: Unread | None = None,
) -> AnyAutoencoder:
    """The autoencoder of a config with the weights of the files, in whichever layout they are.

    In the place of float16 it has 32 bits if it would overflow (`force_upcast`). `is_other` tells which names may be
    there that are not its own. Raises UserError as `build`.
    """
    shapes = {name: entry.shape for source in sources for name, entry in source.entries.items()}
    dtype = torch.float32 if config.force_upcast and dtype == torch.float16 else dtype
    if isinstance(config, TinyAutoencoderConfig):
        halves = find_tiny(shapes)

        def rename(name: str) -> str | None:
            ours = name if halves is None else halves.ours(name)
            return None if ours == name and is_other(name) else ours

        return build(lambda: TinyAutoencoder(config), sources, device=device, dtype=dtype, rename=rename, unread=unread)
    prefix, names = vae.find(shapes) or ("", vae.DIFFUSERS)
    return build(
        lambda: Autoencoder(config),
        sources,
        device=device,
        dtype=dtype,
        places=vae.readable(config, shapes, prefix, names),
        ignored=lambda name: is_other(name) or is_other(name.removeprefix(prefix)),
        unread=unread,
    )


def _is_other(name: str) -> bool:
    """Whether a tensor in a file is known to be of training, or of another part of a whole checkpoint."""
    return is_leftover(name) or name.startswith(OTHERS)


def _part_folder(path: Path) -> Path:
    """The folder of the autoencoder itself: within a model's folder, or the one given."""
    inside = [path / name for name in MODEL_PARTS] if is_model_folder(path) else [path]
    for folder in inside:
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"The folder {path} has no {inside[0].relative_to(path) / 'config.json'}: "
        "give the folder of an autoencoder in the diffusers layout, or one file."
    )


def _config(where: str, values: Mapping[str, Any], *, like: AnyAutoencoderConfig | None) -> AnyAutoencoderConfig:
    """What a config.json describes. Raises UserError, beginning with `where`, for another class than these."""
    told = values.get("_class_name") or values.get("architectures") or "AutoencoderKL"
    name = str(told[0] if isinstance(told, list) else told)
    if name not in CONFIGS:
        raise UserError(f"{where} tells of the class {name}; give an {' or an '.join(CONFIGS)}.")
    config = CONFIGS[name](values)
    if isinstance(config, AutoencoderConfig) and isinstance(like, AutoencoderConfig) and "scaling_factor" not in values:
        return replace(config, scaling_factor=like.scaling_factor, shift_factor=like.shift_factor)
    return config


def _file_config(source: Source, like: AnyAutoencoderConfig | None) -> AnyAutoencoderConfig:
    """What the autoencoder in one file is made of: by our own metadata, else by its shapes."""
    shapes = {name: entry.shape for name, entry in source.entries.items()}
    halves = find_tiny(shapes)
    if vae.find(shapes) is None and halves is None:
        raise _nothing_there(source)
    values = own(source.metadata, "vae")
    try:
        if values is not None:
            return _config("Its metadata", values, like=like)
        if vae.find(shapes) is None and halves is not None:
            return tiny_config(shapes, halves)
        return _shaped(source, like)
    except UserError as error:
        raise UserError(f"{source.path}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{source.path} has metadata of the wrong kind: get it again.") from error


def _shaped(source: Source, like: AnyAutoencoderConfig | None) -> AutoencoderConfig:
    """What the big autoencoder in a file is made of, as its shapes tell; its family or `like` tells what no shape does.

    A file of the very widths of `like` has its groups and its activation too.
    """
    shapes = {name: entry.shape for name, entry in source.entries.items()}
    prefix, names = vae.find(shapes) or ("", vae.DIFFUSERS)
    tensors = under(shapes, prefix)
    others: dict[str, Any] = {}
    if unet_prefix(shapes) is not None:
        others["scaling_factor"] = recognise(shapes, source.metadata, lambda _: []).scaling_factor
    elif isinstance(like, AutoencoderConfig):
        others = {"scaling_factor": like.scaling_factor, "shift_factor": like.shift_factor}
    elif like is not None:
        raise UserError(
            "nothing tells the scale of its latents, for the model's own autoencoder is a tiny one; "
            "give the folder that it was made from."
        )
    if isinstance(like, AutoencoderConfig):
        others["sample_size"] = like.sample_size
        if vae.config(tensors, names, groups=1).block_out_channels == like.block_out_channels:
            return vae.config(tensors, names, groups=like.norm_num_groups, act_fn=like.act_fn, **others)
    return vae.config(tensors, names, **others)


def _check_like(path: Path, config: AnyAutoencoderConfig, like: AnyAutoencoderConfig) -> None:
    """Raise UserError unless latents of one are of the form of the other's."""
    if config.latent_channels != like.latent_channels:
        raise UserError(
            f"The autoencoder {path} has {config.latent_channels} latent channels; this model has "
            f"{like.latent_channels}: give one made for such a model."
        )
    if config.factor != like.factor:
        raise UserError(
            f"The autoencoder {path} makes pictures {config.factor} times smaller; this model has latents "
            f"{like.factor} times smaller: give one made for such a model."
        )


def _nothing_there(source: Source) -> UserError:
    """What to say of a file without an autoencoder."""
    told = inspect(source.path)
    if told["layout"] == "no tensors":
        what = "no tensors at all"
    elif told["layout"] == "unknown tensors":
        what = f"no autoencoder that is known; its first tensors are {', '.join(told['first'][:3])}"
    else:
        what = (
            "a model without its autoencoder"
            if told["layout"] == WHOLE
            else f"no autoencoder but this: {told['layout']}"
        )
    return UserError(f"{source.path} holds {what}: give a VAE file.")
