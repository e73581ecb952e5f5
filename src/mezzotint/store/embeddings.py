"""Textual inversion: files of learned words, in every layout in use, to named vectors by width. Imports torch late.

    AUTOMATIC1111   string_to_param.* beside the word's name, in a pickle, or in the text or the pixels of a picture
    diffusers       the word itself is the key
    kohya           emb_params; SDXL's pair clip_l and clip_g
    others          a tensor alone; a list, or a list of dictionaries

Tensors inside a pickle are known by the path to them, "0.<word>" in a list. A word that the file does not name is
called as the caller says, which is the file's name.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mezzotint.store.embedding_pixels import hidden_text
from mezzotint.store.header import Header, TensorEntry
from mezzotint.store.lora.names import BUNDLED
from mezzotint.types import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

NAMELESS = {"emb_params", "clip_l", "clip_g", "text_encoders_0", "text_encoders_1", "tensor", "*"}
"""Keys that say which encoder a tensor is for, or nothing, and not what the word is."""
A1111 = "string_to_param."
TOKENS = "string_to_token."
"""Begins the keys of numbers that AUTOMATIC1111 keeps beside the vectors; the first such files have tensors there."""
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
WEBP_MAGIC = (b"RIFF", b"WEBP")
"""The first four bytes of a WebP, and the four after its length."""
PNG_CHUNK = "sd-ti-embedding"
"""The text of a PNG that holds AUTOMATIC1111's dictionary, as JSON in base 64."""
MOST = 16
"""Tensors beyond which a file that does not say so is taken for something else than learned words."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A learned word."""

    word: str
    """What stands for it in a prompt."""
    vectors: Mapping[int, Tensor]
    """Its vectors [n D] by D, the width of the text encoder that they are for."""


def read_embeddings(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    word: str,
    name: str = "The embedding",
) -> list[Embedding]:
    """The learned words of a file with these tensors and this metadata; `word` names one that the file does not.

    Raises UserError, which `name` begins, where a tensor is no vector or several of a width, or not finite numbers.
    """
    import torch

    groups = _words((key for key in tensors if not key.startswith(TOKENS)), metadata, word)
    if not groups:
        raise UserError(f"{name} holds no learned word.")
    found: list[Embedding] = []
    for own, keys in groups.items():
        widths: dict[int, list[Tensor]] = {}
        for key in keys:
            tensor = tensors[key]
            if tensor.ndim not in (1, 2) or 0 in tensor.shape or not tensor.is_floating_point():
                raise UserError(f"{name} is no learned word: {key} has shape {list(tensor.shape)}, {tensor.dtype}.")
            if not bool(torch.isfinite(tensor.to(torch.float32)).all()):
                raise UserError(f"{name} is damaged: {key} holds something other than finite numbers.")
            widths.setdefault(tensor.shape[-1], []).append(tensor.detach().reshape(-1, tensor.shape[-1]))
        found.append(Embedding(own, {width: torch.cat(rows) for width, rows in widths.items()}))
    return found


def bundled(tensors: Mapping[str, Tensor], *, name: str = "The LoRA") -> list[Embedding]:
    """The learned words that are stored in a LoRA's file, none where there are none. Raises as `read_embeddings`."""
    own: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(BUNDLED):
            word, _, rest = key.removeprefix(BUNDLED).partition(".")
            own.setdefault(word, {})[rest] = tensor
    return [embedding for word, group in own.items() for embedding in read_embeddings(group, word=word, name=name)]


def is_picture(path: Path) -> bool:
    """Whether a file begins as a PNG or a WebP does; one that is not there does not."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            return head.startswith(PNG_MAGIC) or (head[:4], head[8:]) == WEBP_MAGIC
    except OSError:
        return False


def picture_embedding(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata that AUTOMATIC1111 wrote into the text of a PNG, or into the pixels of a picture.

    Raises UserError where there is no such picture, or it carries no embedding, or one that is damaged.
    """
    import torch

    arrays, metadata = _picture_arrays(path)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, metadata


def picture_header(path: Path) -> Header:
    """What the header of a file would tell of the same; no torch is imported. Raises as `picture_embedding`."""
    arrays, metadata = _picture_arrays(path)
    entries = {key: TensorEntry("float32", array.shape, 0, array.nbytes) for key, array in arrays.items()}
    return Header(path, entries, metadata)


def _picture_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The numbers of `picture_embedding`, as numpy has them. Raises as that."""
    import numpy as np

    try:
        with Image.open(path) as picture:
            told = picture.info.get(PNG_CHUNK)
            pixels = np.asarray(picture.convert("RGB")) if told is None else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture, or is damaged.") from error
    try:
        text = base64.b64decode(str(told)) if pixels is None else hidden_text(pixels)
        if text is None:
            raise UserError(f"{path} carries no learned word: give the picture as it was written, whole.")
        values: dict[str, Any] = json.loads(text)
        arrays = {
            f"{A1111}{key}": np.asarray(value["TORCHTENSOR"], dtype=np.float32)
            for key, value in values["string_to_param"].items()
        }
        return arrays, {"name": values["name"]} if isinstance(values.get("name"), str) else {}
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"{path} carries a learned word that is damaged: give the picture as it was written."
        ) from error


def embedding_facts(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What a header tells of a file of learned words, or none where it is of another kind; no torch is imported.

    `words` that the file names, and of each tensor how many `vectors` it has and how wide they are.
    """
    shapes = {key: entry.shape for key, entry in entries.items() if not key.startswith(TOKENS)}
    keys = [_key(key) for key in shapes]
    told = all(key in NAMELESS or key.startswith(A1111) for key in keys)
    flat = all(len(shape) in (1, 2) for shape in shapes.values())
    loose = any(key.endswith((".weight", ".bias", ".alpha")) for key in keys) or len(keys) > MOST
    if not shapes or not flat or (loose and not told):
        return None
    return {
        "words": [word for word in _words(shapes, metadata, "") if word != ""],
        "vectors": {key: [1, *shape][-2:] for key, shape in shapes.items()},
    }


def _words(keys: Iterable[str], metadata: Mapping[str, str] | None, word: str) -> dict[str, list[str]]:
    """The keys of each word's tensors; `word` is the one that has no name."""
    named = (metadata or {}).get("name", "")
    words: dict[str, list[str]] = {}
    for key in keys:
        own = _key(key)
        if own.startswith(A1111):
            inner = own.removeprefix(A1111)
            own = named if named != "" else inner
        words.setdefault(word if own in NAMELESS or own == "" else own, []).append(key)
    return words


def _key(key: str) -> str:
    """A tensor's own key, without its place in a list."""
    return "tensor" if key.isdigit() else re.sub(r"\A\d+\.(?=.)", "", key, count=1)
