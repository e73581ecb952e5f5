"""The files beside a model that a picture may depend on: another autoencoder, LoRA, learned words. Imports no torch.

They are named by full paths wherever one stands, and what can be wrong with them is found from their headers alone.
`attach` puts them on a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mezzotint.store.embeddings import embedding_facts, is_picture, picture_header
from mezzotint.store.facts import read_json
from mezzotint.store.header import Header, read_header, shown
from mezzotint.store.image_prompt import find_image_prompts
from mezzotint.store.kinds import Glance
from mezzotint.store.layout import is_model_folder, weight_files, weight_headers
from mezzotint.store.lora.facts import READS_TEXT, is_lora, lora_facts
from mezzotint.store.paths import full_path
from mezzotint.types import Lora, Request, UserError

LORA_FILES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
)
"""What peft and diffusers call a LoRA's file in its folder."""
UNREAD = {".oft_": "OFT", ".boft_": "BOFT", ".a1.": "GLoRA", ".on_input": "IA3"}
"""Kinds of LoRA that are not read, by what the names of their tensors hold."""
PEFT_STEM = "adapter_model"
"""The name of the file whose alpha stands in adapter_config.json beside it."""
Names = Iterable[str | Path]
Weight = float | tuple[float, float]
Loras = Names | Mapping[str, Weight] | Mapping[Path, Weight]
"""LoRA files as FILE, FILE:WEIGHT or FILE:UNET:TEXT; or each with its weight, or those on U-Net and text encoders."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """The files beside a model that its pictures depend on, each by its full path."""

    vae: str = ""
    """The autoencoder's file or folder; empty is the model's own."""
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[str, ...] = ()
    image_adapter: str = ""
    """What reads image prompts, a file or a folder; empty is the model's own."""

    @classmethod
    def named(
        cls, vae: str | Path = "", loras: Loras = (), embeddings: Names = (), image_adapter: str | Path = ""
    ) -> Extras:
        """The files of these names. Raises UserError for a name that is none, and for a file that is there twice."""
        if isinstance(loras, Mapping):
            uses = [_weighed(file, weight) for file, weight in loras.items()]
        else:
            uses = [Lora.parse(str(text)) for text in _several(loras, "loras")]
        uses = [Lora(full_path(use.file), use.unet, use.text) for use in uses]
        words = tuple(full_path(file) for file in _several(embeddings, "embeddings"))
        for what, files in (("LoRA", tuple(use.file for use in uses)), ("file of learned words", words)):
            for file in files:
                if files.count(file) > 1:
                    raise UserError(
                        f"The {what} {file} is there twice: give it once, with the weight that it shall have."
                    )
        vae, image_adapter = ("" if str(name) == "" else full_path(name) for name in (vae, image_adapter))
        return cls(vae=vae, loras=tuple(uses), embeddings=words, image_adapter=image_adapter)

    @classmethod
    def of(cls, request: Request) -> Extras:
        """Those that a request names. Raises as `named`."""
        return cls.named(request.vae, request.loras, request.embeddings, request.image_adapter)

    def but(
        self,
        *,
        vae: str | Path | None = None,
        loras: Loras | None = None,
        embeddings: Names | None = None,
        image_adapter: str | Path | None = None,
    ) -> Extras:
        """The same with those that are given in the place of these. Raises as `named`."""
        given: dict[str, Any] = {
            "vae": vae, "loras": loras, "embeddings": embeddings, "image_adapter": image_adapter
        }  # fmt: skip
        return Extras.named(**self.fields | {name: files for name, files in given.items() if files is not None})

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a request that name them."""
        return {
            "vae": self.vae,
            "loras": tuple(str(use) for use in self.loras),
            "embeddings": self.embeddings,
            "image_adapter": self.image_adapter,
        }

    def on(self, request: Request) -> Request:
        """The request for a model that these are on, which names them.

        Raises UserError for one that names others: they would have to be put on the model first.
        """
        wanted, mine = Extras.of(request).fields, self.fields
        for name, value in wanted.items():
            if value and value != mine[name]:
                have = _listed(mine[name]) or "none"
                raise UserError(
                    f"The request has the {name} {_listed(value)}, and on the model there is {have}: "
                    f"put them on it first, with pipe.use({name}=...)."
                )
        return request.but(**mine)

    def check(self, text_width: int | None = None) -> None:
        """Raise UserError for a file that is missing, damaged, of another kind, or for text of another width.

        `text_width` is that of the text that the model's U-Net reads, if it is known.
        """
        if self.vae != "":
            vae_files(Path(self.vae))
        for use in self.loras:
            lora_header(use.file, text_width)
        for file in self.embeddings:
            embedding_header(file)
        if self.image_adapter != "":
            find_image_prompts(Path(self.image_adapter))

    def files(self) -> list[Path]:
        """Every file that is read, in the order in which a request names them. Raises UserError as `check`."""
        vae = [] if self.vae == "" else vae_files(Path(self.vae))
        loras = [path for use in self.loras for path in lora_files(use.file)]
        adapter = [] if self.image_adapter == "" else find_image_prompts(Path(self.image_adapter)).files
        return [*vae, *loras, *(Path(file) for file in self.embeddings), *adapter]


def vae_files(path: Path) -> list[Path]:
    """What is read of an autoencoder: its file, or the weights and config.json of its folder or of a model's.

    Raises UserError where there is none, or where it is damaged.
    """
    if _is(path.is_dir):
        if is_model_folder(path):
            path = path / ("vqvae" if (path / "vqvae").is_dir() else "vae")
        weight_headers(path)
        return [*weight_files(path), *(file for file in (path / "config.json",) if file.is_file())]
    if not _is(path.is_file):
        raise UserError(f"There is no autoencoder {path}: give a file, or a folder with config.json.")
    read_header(path)
    return [path]


def lora_files(file: str) -> list[Path]:
    """What is read of a LoRA: its file, or that in its folder, and peft's configuration beside it.

    Raises UserError where there is none.
    """
    path = Path(file)
    if _is(path.is_dir):
        found = next((path / name for name in LORA_FILES if (path / name).is_file()), None)
        if found is None:
            raise UserError(f"The folder {path} holds no LoRA: it has none of {', '.join(LORA_FILES)}.")
        path = found
    _check_file(path, "LoRA", "give FILE or FILE:WEIGHT")
    config = peft_config(path)
    return [path] if config is None else [path, config]


def peft_config(path: Path) -> Path | None:
    """The file beside a LoRA's that holds peft's configuration, and so its alpha; none where it is not peft's."""
    beside = path.with_name("adapter_config.json")
    return beside if path.stem == PEFT_STEM and beside.is_file() else None


def lora_header(file: str, text_width: int | None = None) -> Header:
    """The header of a LoRA's file.

    Raises UserError where there is none, where it is no LoRA or has tensors of another kind, and where it was trained
    for text of another width.
    """
    header = read_header(lora_files(file)[0])
    if not is_lora(header.tensors):
        unread = next((kin for mark, kin in UNREAD.items() if any(mark in name for name in header.tensors)), None)
        what = "is no LoRA" if unread is None else f"is a change by {unread}, which cannot be read here"
        raise UserError(f"{header.path} {what}: its tensors are {_first(header.tensors)}.")
    told = lora_facts(header.tensors, header.metadata)
    width = told["text_width"]
    if text_width is not None and width is not None and width != text_width:
        names = (name for name in header.tensors if not name.endswith(".alpha"))
        key = next(name for name in names if any(layer in name for layer in READS_TEXT))
        raise UserError(
            f"{header.path} is a LoRA for {Glance(text=width).name}: {shown(key)} is for text {width} wide, and this "
            f"model reads text {text_width} wide; take the model it was made for."
        )
    return header


def embedding_header(file: str) -> Header:
    """The header of a file of learned words.

    Raises UserError where there is none, or where it is of another kind.
    """
    path = Path(file)
    _check_file(path, "file of learned words", "give its name")
    header = picture_header(path) if is_picture(path) else read_header(path)
    if is_lora(header.tensors):
        raise UserError(f"{path} is a LoRA, not a file of learned words: give it as --lora, or loras=.")
    if embedding_facts(header.tensors, header.metadata) is None:
        raise UserError(f"{path} holds no learned words: its tensors are {_first(header.tensors)}.")
    return header


def text_width(folder: Path) -> int | None:
    """Width of the text that the U-Net of a model folder reads, or none where its config does not tell."""
    config = folder / "unet" / "config.json"
    width = read_json(config).get("cross_attention_dim") if config.is_file() else None
    return width if isinstance(width, int) else None


def _weighed(file: str | Path, weight: Any) -> Lora:
    """A LoRA with one weight or two. Raises UserError for another thing."""
    weights = cast("tuple[Any, ...]", weight) if isinstance(weight, tuple) else (weight, weight)
    if len(weights) != 2 or any(isinstance(one, bool) or not isinstance(one, int | float) for one in weights):
        raise UserError(
            f"The weight of the LoRA {file} is {weight!r}; it must be a number, or one each for the U-Net and the text "
            "encoders."
        )
    return Lora.parse(str(Lora(str(file), float(weights[0]), float(weights[1]))))


def _several(names: Names, field: str) -> Names:
    """The names. Raises UserError for one name, whose letters would else be taken for names."""
    if isinstance(names, str | Path):
        raise UserError(f"The {field} are {str(names)!r}; they must be a list of files.")
    return names


def _listed(names: str | Iterable[str]) -> str:
    """One name or several, in a sentence."""
    return names if isinstance(names, str) else ", ".join(names)


def _check_file(path: Path, what: str, how: str) -> None:
    """Raise UserError unless there is such a file; a colon in its name may have been meant to part it from a weight."""
    if _is(path.is_file):
        return
    head, colon, tail = str(path).rpartition(":")
    if colon == ":" and what == "LoRA" and _is(Path(head).exists):
        raise UserError(f"The weight of the LoRA {head} is {tail!r}; it must be a number such as 0.8.")
    raise UserError(f"There is no {what} {path}: {how}.")


def _is(test: Callable[[], bool]) -> bool:
    """What a test of a path says; a name that is too long for one is no file and no folder."""
    try:
        return test()
    except OSError:
        return False


def _first(names: Iterable[str]) -> str:
    """The first few names of tensors."""
    names = list(names)
    if not names:
        return "none at all"
    return ", ".join(shown(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
