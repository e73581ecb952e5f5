"""Adapters on a model's weights: put on, weighed anew and taken off without reading the model again.

W' = W + w1 D1 + w2 D2 + ..., with W as it was read. The sum is made anew at every change, in 32 bits, and rounded once
to the weights' dtype, so nothing adds up over time; and W itself is put back when the last adapter goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mezzotint.denoise.packing import repack
from mezzotint.store.lora.algorithms import fits
from mezzotint.store.lora.delta import Adapter
from mezzotint.store.lora.names import Place
from mezzotint.types import UserError

Terms = tuple[tuple[Adapter, float], ...]
"""What is added to one parameter: adapters and their weights, in order."""


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How much of an adapter is put on; 0 is nothing and 1 what it was trained for."""

    unet: float = 1.0
    """Its weight on the U-Net."""
    text_encoder: float = 1.0
    """Its weight on the text encoders."""

    def __post_init__(self) -> None:
        """Raise UserError for a weight that is no finite number."""
        for weight in (self.unet, self.text_encoder):
            if not math.isfinite(weight):
                raise UserError(f"The weight of a LoRA is {weight!r}; it must be a finite number.")

    def of(self, part: str) -> float:
        """The weight on a part of the model."""
        return self.unet if part == "unet" else self.text_encoder


class Adapters:
    """The adapters that are on a model.

    adapters = Adapters({"unet": pipe.denoiser.unet, "text_encoder": pipe.conditioner.text_model})
    adapters.set({cat: 0.8, ink: Strength(unet=1.0, text_encoder=0.5)})
    adapters.set({ink: 1.0})                       # cat is off, and ink stronger
    adapters.set({})                               # every weight is what it was, to the last bit

    Give the networks that draw: a packed U-Net's layers are packed anew as they change. While an adapter is on, nobody
    else may write the weights it touches; moving them to another device or dtype is allowed.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        """`modules` by the names of parts: "unet", "text_encoder", "text_encoder_2", or those of them there are."""
        self.modules = dict(modules)
        self._strengths: dict[Adapter, Strength] = {}
        self._terms: dict[Place, Terms] = {}
        self._pristine: dict[Place, Tensor] = {}

    @property
    def strengths(self) -> dict[Adapter, Strength]:
        """The adapters that were set, and how much of each."""
        return dict(self._strengths)

    def set(self, weights: Mapping[Adapter, float | Strength]) -> None:
        """Put these adapters on the model, in this order, and all others off. A number is the weight on every part.

        Only parameters for which something changes are written. Raises UserError, before anything is, where an adapter
        fits another model or a weight is no finite number.
        """
        strengths = {
            adapter: weight if isinstance(weight, Strength) else Strength(unet=weight, text_encoder=weight)
            for adapter, weight in weights.items()
        }
        terms: dict[Place, Terms] = {}
        for adapter, strength in strengths.items():
            for place in adapter.changes:
                self._check(adapter, place)
                if strength.of(place[0]) != 0:
                    terms[place] = (*terms.get(place, ()), (adapter, strength.of(place[0])))
        with torch.inference_mode(False), torch.no_grad():
            for place in {**self._terms, **terms}:
                if self._terms.get(place, ()) != terms.get(place, ()):
                    self._write(place, terms.get(place, ()))
        self._strengths = strengths

    def _check(self, adapter: Adapter, place: Place) -> None:
        """Raise UserError unless the adapter's change of a parameter fits it."""
        part, name = place
        try:
            shape = tuple(self.modules[part].get_parameter(name).shape)
        except (KeyError, AttributeError) as error:
            raise UserError(f"{adapter.name} changes {name} of the {part}, which this model has not.") from error
        own = adapter.changes[place].shape
        if not fits(own, shape):
            raise UserError(f"{adapter.name} changes {name} by {list(own)}; in this model it is {list(shape)}.")

    def _write(self, place: Place, terms: Terms) -> None:
        """Give a parameter its pristine value and the terms' sum."""
        part, name = place
        layer = self.modules[part].get_submodule(name.rpartition(".")[0])
        parameter = self.modules[part].get_parameter(name)
        # The parameter takes a new tensor and the old one is kept as it is, mapped into memory from its file perhaps.
        pristine = self._pristine.get(place, parameter.data)
        parameter.data = merged(pristine.to(parameter.device), parameter.dtype, place, terms)
        if terms:
            self._terms[place], self._pristine[place] = terms, pristine
        else:
            del self._terms[place], self._pristine[place]
        repack(layer)


def merged(pristine: Tensor, dtype: torch.dtype, place: Place, terms: Terms) -> Tensor:
    """A parameter's pristine value with the terms added, in `dtype` and in its memory format."""
    if not terms:
        return pristine.to(dtype)
    exact = pristine.to(torch.promote_types(pristine.dtype, torch.float32))
    total = exact.clone()
    for adapter, weight in terms:
        total += weight * adapter.changes[place].change(exact)
    return torch.empty_like(pristine, dtype=dtype).copy_(total)
