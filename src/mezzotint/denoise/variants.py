"""Networks that differ from another in some modules and share all the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def with_modules(network: Module, new: Mapping[str, nn.Module]) -> Module:
    """The network with the modules of these names replaced: all others are the very same objects, their parents anew.

    So what changes a layer of `network` in place, a LoRA for instance, changes it here.
    """
    clone = copy.copy(network)
    own = vars(clone)
    own["_modules"] = dict(own["_modules"])
    inside: dict[str, dict[str, nn.Module]] = {}
    for name, module in new.items():
        head, _, rest = name.partition(".")
        if rest == "":
            own["_modules"][head] = module
        else:
            inside.setdefault(head, {})[rest] = module
    for head, modules in inside.items():
        own["_modules"][head] = with_modules(network.get_submodule(head), modules)
    return clone
