"""The classifier beside a model: in the folder classifier, which diffusers does not look into, and read when asked for.

A picture that is not steered by it does not depend on it, so its files are not among those that a picture's sums tell
of, and are checked when they are read. A single file has its tensors under our own prefix, its config in the metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.store.checked import made
from mezzotint.store.checksum import check_folder
from mezzotint.store.evidence import OWN, own
from mezzotint.store.facts import described, read_json
from mezzotint.store.header import naming
from mezzotint.store.keymap import Piece
from mezzotint.store.layout import CLASSIFIER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mezzotint.denoise.classifier import Classifier
    from mezzotint.store.source import Source

IN_FILE = f"{OWN}{CLASSIFIER}."
"""What the names of its tensors begin with in a single file of ours."""


class StoredClassifier:
    """A model's classifier, loaded when it is first called and kept."""

    def __init__(self, load: Callable[[], Classifier]) -> None:
        self._load = load
        self._loaded: Classifier | None = None

    def __call__(self, device: torch.device | str = "cpu") -> Classifier:
        """The network, fixed, in float32, on the device. Raises UserError where its files are damaged."""
        import torch

        with torch.inference_mode(False):  # Weights made in inference mode let no gradient through.
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded.to(device)


def classifier_in(folder: Path, sums: dict[str, str]) -> StoredClassifier | None:
    """The classifier in a model's folder, if there is one of ours; `sums` are those of mezzotint.json."""
    return StoredClassifier(lambda: _checked(folder, sums)) if has_classifier(folder) else None


def has_classifier(folder: Path) -> bool:
    """Whether there is a classifier of ours in a model's folder. Raises UserError where its config is damaged."""
    from mezzotint.denoise.classifier_config import CLASS_NAME

    path = folder / CLASSIFIER / "config.json"
    return path.is_file() and read_json(path).get("_class_name") == CLASS_NAME


def save_classifier(classifier: Classifier, folder: Path, dtype: torch.dtype | None = None) -> list[Path]:
    """Write it into a model's folder, weights in `dtype`, by default float16; returns the weight files.

    Raises UserError where the folder cannot be written.
    """
    import torch

    from mezzotint.denoise.classifier import STEM
    from mezzotint.store.part import save_part

    dtype = torch.float16 if dtype is None else dtype
    return save_part(classifier, classifier.config.to_dict(), folder / CLASSIFIER, stem=STEM, dtype=dtype)


def classifier_for_file(
    classifier: Classifier, dtype: torch.dtype | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by which a single file holds it, in `dtype`, by default float16, and its config for the metadata."""
    import torch

    from mezzotint.store.weights import in_dtype

    tensors = in_dtype(classifier.state_dict(), torch.float16 if dtype is None else dtype)
    return {IN_FILE + name: tensor.cpu() for name, tensor in tensors.items()}, classifier.config.to_dict()


def classifier_in_file(source: Source) -> StoredClassifier | None:
    """The classifier in a single file, if there is one. Raises UserError where its config is damaged."""
    from mezzotint.denoise.classifier_config import ClassifierConfig

    values = own(source.metadata, CLASSIFIER)
    if values is None:
        return None
    config = made(ClassifierConfig.from_dict, values, f"The metadata {OWN}{CLASSIFIER}")

    def load() -> Classifier:
        import torch

        from mezzotint.denoise.classifier import Classifier
        from mezzotint.store.weights import build

        names = [name for name in source.entries if name.startswith(IN_FILE)]
        with naming(source.path):
            return build(
                lambda: Classifier(config),
                [source],
                device=torch.device("cpu"),
                dtype=torch.float32,
                places={name.removeprefix(IN_FILE): Piece(name) for name in names},
                ignored=lambda name: name not in names,
            )

    return StoredClassifier(load)


def classifier_files(folder: Path) -> list[Path]:
    """What a picture depends on that is steered by the model's classifier: its config and its weights."""
    return [folder / CLASSIFIER / "config.json", *sorted((folder / CLASSIFIER).glob("*.safetensors"))]


def load_classifier(folder: Path) -> Classifier:
    """The classifier in a folder of its own, fixed, in float32. Raises UserError where it is damaged."""
    from mezzotint.denoise.classifier import STEM, Classifier
    from mezzotint.denoise.classifier_config import ClassifierConfig
    from mezzotint.store.part import load_part

    config = described(ClassifierConfig.from_dict, folder / "config.json")
    return load_part(lambda: Classifier(config), folder, stem=STEM)


def _checked(folder: Path, sums: dict[str, str]) -> Classifier:
    """That of a model's folder. Raises UserError also where a file has another sum than is told."""
    check_folder(folder, {name: digest for name, digest in sums.items() if name.startswith(f"{CLASSIFIER}/")})
    return load_classifier(folder / CLASSIFIER)
