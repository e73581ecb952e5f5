"""Pictures on disk: a PNG carries its whole Request, so that it can be drawn again.

The text chunk `mezzotint` holds JSON: the request, the sum of the model's files and those of the files beside it,
versions, device and dtype. The chunk `parameters` says the same in the manner of the AUTOMATIC1111 web UI, which many
other programs read; JPEG and WebP have it as the EXIF UserComment. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mezzotint.store.beside import file_beside
from mezzotint.store.checksum import FileSum
from mezzotint.types import Lora, Request, UserError

CHUNK = "mezzotint"
PARAMETERS = "parameters"
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The kinds of picture that are written, by the end of the name."""
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
A1111_SAMPLERS = {
    "ddim": "DDIM",
    "plms": "PLMS",
    "euler": "Euler",
    "euler-ancestral": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "dpm2": "DPM2",
    "dpm2-ancestral": "DPM2 a",
    "dpmpp-2s-ancestral": "DPM++ 2S a",
    "dpmpp-2m": "DPM++ 2M",
    "dpmpp-sde": "DPM++ SDE",
    "dpmpp-2m-sde": "DPM++ 2M SDE",
    "dpmpp-3m-sde": "DPM++ 3M SDE",
    "unipc": "UniPC",
    "restart": "Restart",
    "lcm": "LCM",
}
"""What the AUTOMATIC1111 web UI calls the samplers that it has too."""


MADE_WITH = {
    "mezzotint": str,
    "torch": str,
    "device": str,
    "hardware": str,
    "dtype": str,
    "as_stored": bool,
    "threads": int,
}
"""What a picture's bits depend on beside its request and the model's files, and the type of each."""


def _nothing() -> dict[str, Any]:
    return {}


def _no_sums() -> dict[str, FileSum]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a picture was made by: its request, and what else its bits depend on."""

    request: Request
    weights: str = ""
    """The sum of the model's files, hexadecimal."""
    extras: Mapping[str, FileSum] = field(default_factory=_no_sums)
    """The sums of the files beside it, by full path, in the order in which the request names them."""
    made_with: dict[str, Any] = field(default_factory=_nothing)
    """Those of MADE_WITH that are known."""

    def __post_init__(self) -> None:
        """Raise UserError for something of the wrong type that it was made with."""
        for name, value in self.made_with.items():
            kind = MADE_WITH.get(name, object)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise UserError(
                    f"The {name} that it was drawn with is {value!r}; it must be of the type {kind.__name__}."
                )


def picture_format(path: Path) -> str:
    """The kind of picture that a name asks for. Raises UserError where it is none that can be written."""
    if path.suffix.lower() not in FORMATS:
        ends = ", ".join(FORMATS)
        raise UserError(f"{path} does not end in a kind of picture that can be written: use one of {ends}.")
    return FORMATS[path.suffix.lower()]


def write_picture(image: Image.Image, path: Path, provenance: Provenance) -> None:
    """Write a picture with its provenance, by write-and-rename.

    Raises UserError where the name's end is no kind of picture, or the place cannot be written.
    """
    kind = picture_format(path)
    parameters = a1111_text(provenance, image.size)
    with file_beside(path) as temporary:
        if kind == "PNG":
            info = PngInfo()
            sums = {path: asdict(file) for path, file in provenance.extras.items()}
            record = {"request": provenance.request.to_dict(), "weights": provenance.weights}
            record |= ({"extras": sums} if sums else {}) | provenance.made_with
            info.add_itxt(CHUNK, json.dumps(record))
            info.add_itxt(PARAMETERS, parameters)
            image.save(temporary, format=kind, pnginfo=info)
            return
        exif = Image.Exif()
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be")
        if kind == "WEBP":
            image.save(temporary, format=kind, exif=exif, lossless=True)
        else:
            image.save(temporary, format=kind, exif=exif, quality=95)


def write_plain(image: Image.Image, path: Path) -> None:
    """Write a picture that carries nothing, such as a sheet, by write-and-rename. Raises as `write_picture` does."""
    kind = picture_format(path)
    with file_beside(path) as temporary:
        image.save(temporary, format=kind)


def read_provenance(path: Path) -> tuple[Image.Image, Provenance]:
    """The picture in a PNG that mezzotint wrote, decoded, and its provenance.

    Raises UserError where there is no such file, it is damaged, or it carries no request.
    """
    try:
        with Image.open(path) as opened:
            opened.load()
            image = opened.convert("RGB")
            texts: dict[Any, Any] = opened.info
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a picture, or is damaged.") from error
    if CHUNK not in texts:
        raise UserError(f"{path} carries no request: give a PNG that `mezzotint generate` drew, as it was written.")
    try:
        record: dict[str, Any] = json.loads(texts[CHUNK])
        request, weights = Request.from_dict(record.pop("request")), record.pop("weights")
        extras = {path: FileSum(**sums) for path, sums in record.pop("extras", {}).items()}
        words = [weights, *(text for file in extras.values() for text in (file.sha256, file.data_sha256))]
        if not all(isinstance(text, str) for text in words):
            raise TypeError
        return image, Provenance(request=request, weights=weights, extras=extras, made_with=record)
    except UserError as error:
        raise UserError(f"{path} carries a request that this version cannot draw: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} carries a request that is damaged: give the PNG as it was written.") from error


def a1111_text(provenance: Provenance, size: tuple[int, int]) -> str:
    """The generation parameters as the AUTOMATIC1111 web UI writes them; `size` is width and height in pixels."""
    request = provenance.request
    loras = [Lora.parse(text) for text in request.loras]
    lines = [one_line(" ".join([request.prompt, *(_lora_tag(lora) for lora in loras)]))]
    if request.negative != "":
        lines.append(f"Negative prompt: {one_line(request.negative)}")
    settings = {
        "Steps": request.steps,
        "Sampler": A1111_SAMPLERS.get(request.sampler, request.sampler),
        "CFG scale": f"{request.guidance:g}",
        "Seed": request.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": provenance.weights[:10],
        "Model": Path(request.model).name,
        "VAE hash": _sum_of(request.vae, provenance).sha256[:10],
        "VAE": Path(request.vae).name,
        "Lora hashes": _hashes({lora.file: _sum_of(lora.file, provenance).data_sha256 for lora in loras}),
        "TI hashes": _hashes({file: _sum_of(file, provenance).sha256 for file in request.embeddings}),
        "RNG": "CPU",
        "Version": f"mezzotint {provenance.made_with.get('mezzotint', '')}".strip(),
    }
    quoted = {name: _quoted(value) if isinstance(value, str) else value for name, value in settings.items()}
    lines.append(", ".join(f"{name}: {value}" for name, value in quoted.items() if value != ""))
    return "\n".join(lines).encode("utf-8", "replace").decode("utf-8")


def _lora_tag(lora: Lora) -> str:
    """How the web UI writes a LoRA into the prompt: its weight on the text encoders goes before that on the U-Net."""
    weights = [lora.unet] if lora.unet == lora.text else [lora.text, lora.unet]
    return f"<lora:{Path(lora.file).stem}:{':'.join(f'{weight:g}' for weight in weights)}>"


def _hashes(sums: Mapping[str, str]) -> str:
    """Files by their names without ends, each with the beginning of its sum."""
    return ", ".join(f"{Path(file).stem}: {digest[:12]}" for file, digest in sums.items())


def _sum_of(name: str, provenance: Provenance) -> FileSum:
    """The sums of a file that the request names, or of the first in a folder that it names; empty where unknown."""
    known = provenance.extras
    inside = (file for path, file in known.items() if name != "" and Path(path).is_relative_to(name))
    return known.get(name) or next(inside, FileSum(""))


def _quoted(text: str) -> str:
    """The text, in quotation marks where another field could be taken to begin in it."""
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",:\n") else text


def one_line(text: str) -> str:
    """The text with its line ends as blanks: a new line begins another field."""
    return " ".join(text.splitlines())
