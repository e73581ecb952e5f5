"""What lets a model read pictures as prompts: a file of IP-Adapter, and the image encoder whose tokens it reads.

A model's folder keeps its own in image_prompt, in the layout of published adapters, so that diffusers loads it too:

    image_prompt/ip-adapter.safetensors   image_proj.NAME and ip_adapter.NAME
    image_prompt/image_encoder/           CLIP's image tower, as transformers keeps it

or, so that a model may be had without, in a folder beside its own: that of the model NAME is NAME-image-prompt.

What a picture is seen as, where not as it is, stands in that file's metadata, in `mezzotint.image_prompt.reading`.
As the classifier's, these files are not among those that every picture's sums tell of. A single file has all of it
under our own prefix, the image encoder's config in the metadata.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mezzotint.conditioning.clip_config import CLIPVisionConfig
from mezzotint.store.beside import make_folder
from mezzotint.store.checked import made
from mezzotint.store.checksum import check_folder
from mezzotint.store.evidence import OWN, kept, own
from mezzotint.store.facts import described, read_facts
from mezzotint.store.header import Header, read_header, shown
from mezzotint.store.layout import IMAGE_PROMPT, weight_files
from mezzotint.types import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mezzotint.conditioning.image_prompt import PictureConditioner
    from mezzotint.denoise.picture_layers import PictureLayers
    from mezzotint.denoise.unet import UNet
    from mezzotint.store.source import Source

FILE = "ip-adapter.safetensors"
ENCODER = "image_encoder"
PROJECTION, LAYERS = "image_proj.", "ip_adapter."
"""What the names of its tensors begin with: the projection's, and those of the U-Net's layers."""
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
IN_FILE = f"{OWN}{IMAGE_PROMPT}."
"""What the names of all begin with in a single file of ours."""
PLAIN = f"{PROJECTION}proj.weight"
"""The matrix of a plain adapter."""
KINDS = {
    "plain": (PLAIN, PLAIN),
    "plus": (f"{PROJECTION}latents", f"{PROJECTION}proj_in.weight"),
    "full": (f"{PROJECTION}proj.3.weight", f"{PROJECTION}proj.0.weight"),
}
"""The kinds that are read: a tensor by which one is told, and its first matrix, which reads what the image encoder
says. Adapters of faces' own numbers have a proj.0 too, and no norm at 3."""
READING = f"{IMAGE_PROMPT}.reading"
"""The part of our metadata that says what a picture is seen as, where not as by IP-Adapter: {"looks": ["greys"]}."""


@dataclass(frozen=True)
class StoredImagePrompts:
    """An adapter's file and its image encoder, read when they are asked for."""

    file: Path
    encoder: Path
    """The folder, or the same file, of a whole model."""
    folder: Path | None = None
    """A model's own, of whose files a mezzotint.json has the sums."""
    sums: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def files(self) -> list[Path]:
        """What a picture depends on that is drawn with it. Raises UserError where weights are missing."""
        if self._whole:
            return [self.file]
        return [self.file, self.encoder / "config.json", *weight_files(self.encoder)]

    @property
    def _whole(self) -> bool:
        """Whether all of it is in the file of a whole model."""
        return self.encoder == self.file

    @property
    def _start(self) -> str:
        """What the names of all tensors begin with."""
        return IN_FILE if self._whole else ""

    def conditioner(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> PictureConditioner:
        """What reads pictures, fixed, by default in float32. Raises UserError where a file is damaged."""
        import torch

        from mezzotint.conditioning.clip import CLIPVisionModel
        from mezzotint.conditioning.image_prompt import (
            PerToken,
            PictureConditioner,
            Projection,
            Resampler,
            ResamplerConfig,
        )
        from mezzotint.store.source import open_source, part_sources
        from mezzotint.store.weights import build

        if self.folder is not None:
            check_folder(self.folder, dict(self.sums))
        source, start = open_source(self.file), self._start
        shapes = {
            name.removeprefix(start + PROJECTION): entry.shape
            for name, entry in source.entries.items()
            if name.startswith(start + PROJECTION)
        }
        told = own(source.metadata, IMAGE_PROMPT) if self._whole else None
        config = (
            encoder_config(self.encoder)
            if told is None
            else made(CLIPVisionConfig.from_dict, told, f"The metadata {OWN}{IMAGE_PROMPT}")
        )

        def projection() -> Projection | Resampler | PerToken:
            try:
                if "latents" in shapes:
                    return Resampler(ResamplerConfig.of(shapes))
                if "proj.3.weight" in shapes:
                    return PerToken(shapes["proj.0.weight"][1], shapes["proj.2.weight"][0])
                (width,), (numbers, read) = shapes["norm.weight"], shapes["proj.weight"]
                return Projection(read, width, numbers // width)
            except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
                raise UserError(f"{self.file} has an image_proj that is not whole: get it again.") from error

        where, kind = torch.device(device), torch.float32 if dtype is None else dtype
        tower = build(
            lambda: CLIPVisionModel(config),
            [source] if self._whole else part_sources(self.encoder, kind),
            device=where,
            dtype=kind,
            rename=partial(_without, start=f"{start}{ENCODER}." if self._whole else ""),
        )
        tokens = build(
            projection,
            [source],
            device=where,
            dtype=kind,
            rename=partial(_without, start=start + PROJECTION),
        )
        reading = own(source.metadata, READING)
        looks = {} if reading is None else {"looks": _looks(reading, self.file)}
        return PictureConditioner(tower, tokens, **looks)

    def layers(self, unet: UNet) -> PictureLayers:
        """What a U-Net reads pictures by, where and as precise as its weights. Raises UserError for another U-Net."""
        from mezzotint.denoise.picture_layers import PictureLayers
        from mezzotint.store.source import open_source
        from mezzotint.store.weights import build

        weight = unet.conv_norm_out.weight
        return build(
            lambda: PictureLayers(unet),
            [open_source(self.file)],
            device=weight.device,
            dtype=weight.dtype,
            rename=partial(_without, start=self._start + LAYERS),
        )


def _looks(reading: Mapping[str, Any], file: Path) -> list[str]:
    """What pictures are seen as, by our metadata. Raises UserError where it says something else."""
    looks = reading.get("looks")
    if set(reading) != {"looks"} or not isinstance(looks, list):
        raise UserError(f"{file} says of itself how it reads pictures, but not so that it is known here: get it again.")
    return [str(look) for look in cast("list[Any]", looks)]


def _without(name: str, start: str) -> str | None:
    """A tensor's name without what it begins with; none for another's, and for numbers that nothing reads."""
    return name.removeprefix(start) if name.startswith(start) and not name.endswith("position_ids") else None


def image_prompts_in(folder: Path, sums: Mapping[str, str]) -> StoredImagePrompts | None:
    """What a model's folder, or the one beside it, has of it, if anything; `sums` are those of mezzotint.json."""
    start = f"{IMAGE_PROMPT}/"
    inside = {name.removeprefix(start): digest for name, digest in sums.items() if name.startswith(start)}
    beside = image_prompts_beside(folder)
    return stored_in(folder / IMAGE_PROMPT, inside) or stored_in(beside, read_facts(beside).sha256)


def image_prompts_beside(folder: Path) -> Path:
    """The folder beside a model's that may hold its image prompts; its own mezzotint.json has their sums."""
    return Path(f"{folder.absolute()}-image-prompt")


def stored_in(folder: Path, sums: Mapping[str, str] | None = None) -> StoredImagePrompts | None:
    """What was written into a folder of its own, if anything."""
    if not (folder / FILE).is_file():
        return None
    return StoredImagePrompts(folder / FILE, folder / ENCODER, folder, {} if sums is None else sums)


def find_image_prompts(path: Path) -> StoredImagePrompts:
    """The adapter in a file or a folder, and its image encoder: the folder image_encoder beside it, or near by.

    A folder is a model's, or one that holds a single adapter. Raises UserError where there is none, or its kind is not
    read, or the image encoder that it was trained with is not there.
    """
    try:
        if path.is_dir():
            own = stored_in(path / IMAGE_PROMPT) or stored_in(image_prompts_beside(path))
            return find_image_prompts(_only(path)) if own is None else own
        there = path.is_file()
    except OSError:
        there = False
    if not there:
        raise UserError(f"There is no image adapter {path}: give a file of IP-Adapter, or its folder.")
    header = adapter_header(path)
    kind = adapter_kind(header.tensors)
    assert kind is not None
    _, first = KINDS[kind]
    width = header.tensors[first].shape[1]
    homes = (path.parent, path.parent.parent, path.parent.parent / "models")
    for folder in (home / ENCODER for home in homes):
        if (folder / "config.json").is_file():
            config = encoder_config(folder)
            if width == (config.projection_dim if first == PLAIN else config.hidden_size):
                return StoredImagePrompts(path, folder)
    raise UserError(
        f"{path} reads an image encoder whose tokens are {width} wide: put that into the folder {ENCODER} beside it."
    )


def _only(folder: Path) -> Path:
    """The one adapter in a folder."""
    found = [path for path in sorted(folder.iterdir()) if path.suffix in ENDINGS]
    if len(found) != 1:
        told = f"{len(found)} files of weights" if found else "none"
        raise UserError(f"The folder {folder} holds {told} and not one image adapter: name the file.")
    return found[0]


def encoder_config(folder: Path) -> CLIPVisionConfig:
    """The config of an image encoder. Raises UserError for another network's."""
    return described(CLIPVisionConfig.from_dict, folder / "config.json")


def adapter_header(path: Path) -> Header:
    """The header of an adapter's file. Raises UserError for a file of another kind."""
    header = read_header(path)
    names = header.tensors
    if not is_adapter(names):
        first = ", ".join(shown(name) for name in list(names)[:3])
        raise UserError(f"{path} is no image adapter: its tensors are {first}.")
    kind = adapter_kind(names)
    if kind is None:
        raise UserError(f"{path} is an adapter of a kind that is not read here: give a plain one, a plus or a full.")
    _, first = KINDS[kind]
    if first not in names or len(names[first].shape) != 2:
        raise UserError(f"{path} has no matrix {first}: get it again.")
    return header


def is_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of these names are an image adapter's, of whatever kind."""
    names = tuple(names)
    return all(any(name.startswith(start) for name in names) for start in (PROJECTION, LAYERS))


def adapter_kind(names: Container[str]) -> str | None:
    """The kind of an adapter whose tensors have these names, if it is one that is read here."""
    return next((kind for kind, (told, _) in KINDS.items() if told in names), None)


def save_image_prompts(
    conditioner: PictureConditioner, layers: PictureLayers, folder: Path, dtype: torch.dtype | None = None
) -> list[Path]:
    """Write both into a folder of their own, in `dtype`, by default float16; returns the weight files.

    Raises UserError where the folder cannot be written.
    """
    import torch

    from mezzotint.store.part import save_part
    from mezzotint.store.weights import write_tensors

    kind = torch.float16 if dtype is None else dtype
    make_folder(folder / ENCODER)
    tower = conditioner.tower
    files = save_part(tower, tower.config.to_dict(), folder / ENCODER, stem="model", dtype=kind)
    tensors = _tensors({PROJECTION: conditioner.projection, LAYERS: layers}, kind)
    write_tensors(tensors, folder / FILE, kept(_reading(conditioner)))
    return [folder / FILE, *files]


def image_prompts_for_file(
    conditioner: PictureConditioner, layers: PictureLayers, dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors by which a single file holds both, in `dtype`, by default float16, and its metadata's parts."""
    import torch

    parts = {PROJECTION: conditioner.projection, LAYERS: layers, f"{ENCODER}.": conditioner.tower}
    tensors = _tensors(parts, torch.float16 if dtype is None else dtype)
    told = {IMAGE_PROMPT: conditioner.tower.config.to_dict(), **_reading(conditioner)}
    return {IN_FILE + name: tensor for name, tensor in tensors.items()}, told


def image_prompts_in_file(source: Source) -> StoredImagePrompts | None:
    """What a single file has of it, if anything. Raises UserError where its metadata is damaged."""
    return None if own(source.metadata, IMAGE_PROMPT) is None else StoredImagePrompts(source.path, source.path)


def _reading(conditioner: PictureConditioner) -> dict[str, dict[str, Any]]:
    """What our metadata says of how pictures are read, if anything."""
    from mezzotint.conditioning.image_prompt import WHOLE

    return {} if conditioner.looks == (WHOLE,) else {READING: {"looks": list(conditioner.looks)}}


def _tensors(parts: Mapping[str, nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of several networks by one list of names."""
    from mezzotint.store.weights import in_dtype

    named = {start + name: tensor for start, part in parts.items() for name, tensor in part.state_dict().items()}
    return {name: tensor.cpu().contiguous() for name, tensor in in_dtype(named, dtype).items()}
