"""The files beside a model put on it: LoRA on its weights, learned words in its text encoders, another autoencoder.

The model stays as it is in memory: what is taken off again leaves every weight as it was, to the last bit.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mezzotint.conditioning.sizes import SizedConditioner
from mezzotint.conditioning.text import TextConditioner
from mezzotint.conditioning.words import LearnedWords, Vectors
from mezzotint.denoise.unet import UNet
from mezzotint.store.embeddings import Embedding, bundled, is_picture, picture_embedding, read_embeddings
from mezzotint.store.extras import Extras, embedding_header, lora_files, lora_header, vae_files
from mezzotint.store.ldm import unet as ldm_unet
from mezzotint.store.lora.apply import Adapters, Strength
from mezzotint.store.lora.delta import Adapter
from mezzotint.store.lora.facts import IDLE
from mezzotint.store.lora.names import Layers
from mezzotint.store.lora.read import layers_of, peft_metadata, read_adapter
from mezzotint.store.source import Source
from mezzotint.store.vae_file import load_vae
from mezzotint.types import UserError
from mezzotint.vae.codec import AnyAutoencoder


class LoraWarning(UserWarning):
    """A LoRA is put on, but changes nothing; the message is one sentence that names it."""


Stamp = tuple[object, ...]
"""What tells whether files are still the same."""


@dataclass(frozen=True)
class _Read:
    """What a LoRA's file holds."""

    stamp: Stamp
    adapter: Adapter
    words: tuple[Embedding, ...]


class Attachments:
    """What is on a model beside its own files."""

    def __init__(self, unet: UNet, conditioner: object, vae: AnyAutoencoder) -> None:
        """`unet` is the network that draws, packed or not; `conditioner` and `vae` are the model's own."""
        texts = _texts(conditioner)
        # SDXL's refiner has only the second of its encoders, and is told the picture's size as SDXL is.
        last = isinstance(conditioner, SizedConditioner) and len(texts) == 1
        names = ["text_encoder_2"] if last else ["text_encoder", "text_encoder_2"]
        modules: dict[str, nn.Module] = {"unet": unet}
        modules |= {name: text.text_model for name, text in zip(names, texts, strict=False)}
        self._unet = unet
        self.own_vae = vae
        """The model's autoencoder, whether it is in use or not."""
        self._layers: Layers = layers_of(modules, ldm_unet.places(unet.config))
        self._adapters = Adapters(modules)
        self._words = LearnedWords(texts)
        self._learned: dict[str, Vectors] = {}
        self._loras: dict[str, _Read] = {}
        self._vae_stamp: Stamp = ()
        self.vae = vae
        """The autoencoder to decode with."""

    def set(self, extras: Extras) -> None:
        """Put these on and all others off.

        Raises UserError, before anything changes, for a file that is missing, damaged, of another kind or for another
        model, and for a word that two files have.
        """
        width = self._unet.config.cross_attention_dim
        loras = {use.file: self._lora(use.file, width) for use in extras.loras}
        words = _by_name([*(word for read in loras.values() for word in read.words), *_embeddings(extras)])
        vae, stamp = self._vae(extras.vae)
        weights = {loras[use.file].adapter: Strength(unet=use.unet, text_encoder=use.text) for use in extras.loras}
        before = self._learned
        self._learn(words)
        try:
            self._adapters.set(weights)
        except UserError:
            self._learn(before)
            raise
        self.vae, self._vae_stamp, self._loras = vae, stamp, loras

    def _learn(self, words: dict[str, Vectors]) -> None:
        """Give the text encoders these words and no others. Raises UserError, before anything changes."""
        if words and not self._words.conditioners:
            raise UserError("This model has no text encoder that could learn a word: leave the learned words out.")
        if words or self._learned:
            self._words.set(words)
        self._learned = words

    def _lora(self, file: str, width: int) -> _Read:
        """What a LoRA's file holds; not read again where it is on already and has not changed since."""
        paths = lora_files(file)
        stamp = _stamp(paths)
        known = self._loras.get(file)
        if known is not None and known.stamp == stamp:
            return known
        source = Source(lora_header(file, width))
        tensors = {name: source.tensor(name) for name in source.entries}
        metadata = {**source.metadata, **(peft_metadata(paths[0]) if len(paths) > 1 else {})}
        adapter = read_adapter(tensors, self._layers, metadata, name=str(paths[0]))
        words = tuple(bundled(tensors, name=str(paths[0])))
        if not words and all(delta.is_nothing for delta in adapter.changes.values()):
            warnings.warn(f"{paths[0]}: {IDLE[0].lower()}{IDLE[1:]}", LoraWarning, stacklevel=2)
        return _Read(stamp, adapter, words)

    def _vae(self, file: str) -> tuple[AnyAutoencoder, Stamp]:
        """The autoencoder that is asked for. Raises UserError for one that has other latents than the model's."""
        if file == "":
            return self.own_vae, ()
        stamp = (file, *_stamp(vae_files(Path(file))))
        if stamp == self._vae_stamp:
            return self.vae, stamp
        weight, own = self._unet.conv_in.weight, self.own_vae.config
        return load_vae(Path(file), weight.device, weight.dtype, like=own), stamp


def _stamp(paths: list[Path]) -> Stamp:
    """Size and time of files."""
    stats = [path.stat() for path in paths]
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


def _texts(conditioner: object) -> tuple[TextConditioner, ...]:
    """The text encoders of a conditioner, none where it is of another kind."""
    if isinstance(conditioner, SizedConditioner):
        return conditioner.texts
    return (conditioner,) if isinstance(conditioner, TextConditioner) else ()


def _embeddings(extras: Extras) -> list[Embedding]:
    """The words of the files of learned words."""
    found: list[Embedding] = []
    for file in extras.embeddings:
        path = Path(file)
        header = embedding_header(file)
        if is_picture(path):
            tensors, metadata = picture_embedding(path)
        else:
            source = Source(header)
            tensors, metadata = {name: source.tensor(name) for name in source.entries}, source.metadata
        found += read_embeddings(tensors, metadata, word=path.stem, name=file)
    return found


def _by_name(words: list[Embedding]) -> dict[str, Vectors]:
    """The vectors of every word. Raises UserError where two files have one word."""
    named: dict[str, Vectors] = {}
    for embedding in words:
        if embedding.word in named:
            raise UserError(f"The word {embedding.word!r} is in two of the files: give one of them.")
        named[embedding.word] = embedding.vectors
    return named
