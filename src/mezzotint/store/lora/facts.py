"""What a LoRA file's header tells of it, for `inspect`. No weights are read and no torch is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mezzotint.store.header import TensorEntry
from mezzotint.store.lora.algorithms import algorithm_of, change_shape, rank_of
from mezzotint.store.lora.names import BUNDLED, LDM_BLOCKS, Key, Shape, part_of, split
from mezzotint.types import UserError

BESIDE_FACTORS = {"alpha", "diff_b", "dora_scale", "lora_magnitude_vector"}
"""Roles of tensors that are no factor of a weight's change."""
READS_TEXT = ("attn2_to_k", "attn2.to_k", "attn2_to_v", "attn2.to_v")
"""What ends the names of layers that are as wide as the text."""
IDLE = "Every change in it is zero, so it changes nothing: was it saved before it was trained?"
"""What a user should know of such a LoRA."""
FIRST = 8
"""Names that are listed of many."""


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names are those of a LoRA file."""
    keys = (split(name) for name in names)
    return any(key is not None and key.role not in BESIDE_FACTORS for key in keys)


def lora_facts(
    entries: Mapping[str, TensorEntry],
    metadata: Mapping[str, str],
    number: Callable[[str], float] | None = None,
) -> dict[str, Any]:
    """What a LoRA file with these tensors is: its naming, layers touched by part, algorithms, ranks and alphas.

    `number` reads the one number of a small tensor by name and so tells the alphas; without it the metadata may, as
    kohya's does. `text_width` is that of the text tokens read by the cross-attention that it changes, if it does, and
    `attention_width` that of what it makes of them: both tell the family. Where there are such, `bundled_words`,
    learned words in the same file; `unknown_keys`; and `broken_layers`, whose factors are too few or do not fit each
    other.
    """
    keys = {name: split(name) for name in entries if not name.startswith(BUNDLED)}
    known = {name: key for name, key in keys.items() if key is not None}
    shapes: dict[str, dict[str, Shape]] = {}
    for name, key in known.items():
        shapes.setdefault(key.layer, {})[key.role] = tuple(entries[name].shape)
    layers: Counter[str] = Counter()
    algorithms: Counter[str] = Counter()
    ranks: set[int] = set()
    broken: list[str] = []
    text_width: int | None = None
    attention_width: int | None = None
    for layer, roles in shapes.items():
        layers[part_of(layer)[0]] += 1
        factors = {role: shape for role, shape in roles.items() if role not in BESIDE_FACTORS}
        try:
            shape, rank, algorithm = change_shape(factors), rank_of(factors), algorithm_of(factors)
        except UserError:
            if roles.keys() != {"diff_b"}:
                broken.append(layer)
            continue
        dora = "dora_scale" in roles or "lora_magnitude_vector" in roles
        algorithms[f"{algorithm} with DoRA" if dora else algorithm] += 1
        ranks |= set() if rank is None else {rank}
        if text_width is None and layer.endswith(READS_TEXT):
            attention_width, text_width = shape[:2]
    told: dict[str, Any] = {
        "naming": naming(known.values()),
        "layers": dict(layers),
        "algorithms": dict(algorithms),
        "ranks": sorted(ranks),
        "alphas": _alphas(known, metadata, number),
        "text_width": text_width,
        "attention_width": attention_width,
    }
    words = sorted({name.removeprefix(BUNDLED).partition(".")[0] for name in entries if name.startswith(BUNDLED)})
    unknown = sorted(name for name, key in keys.items() if key is None)
    lists = {"bundled_words": words, "unknown_keys": unknown, "broken_layers": sorted(broken)}
    return told | {
        name: [*values[:FIRST], *([f"and {len(values) - FIRST} more"] if len(values) > FIRST else [])]
        for name, values in lists.items()
        if values
    }


def changes_nothing(entries: Mapping[str, TensorEntry], is_zero: Callable[[str], bool]) -> bool:
    """Whether every change in a LoRA file with these tensors is zero, whatever model it is put on.

    `is_zero` tells of a tensor by name whether all its numbers are. A product is zero where one of its factors is.
    DoRA changes a weight by its magnitude too, of which a file alone does not tell.
    """
    if any(name.startswith(BUNDLED) for name in entries):
        return False
    layers: dict[str, dict[str, str]] = {}
    for name in entries:
        key = split(name)
        if key is None or key.role in ("dora_scale", "lora_magnitude_vector"):
            return False
        layers.setdefault(key.layer, {})[key.role] = name
    for roles in layers.values():
        bias = roles.pop("diff_b", None)
        if bias is not None and not is_zero(bias):
            return False
        if roles and not any(is_zero(name) for name in roles.values()):
            return False
    return True


def naming(keys: Iterable[Key]) -> str:
    """Who names tensors so, and whose names the U-Net's blocks have."""
    keys = list(keys)
    schemes = Counter(key.scheme for key in keys)
    rests = [rest for part, rest, _ in (part_of(key.layer) for key in keys) if part == "unet"]
    scheme = schemes.most_common(1)[0][0] if schemes else "unknown"
    if not rests:
        return scheme
    blocks = "latent diffusion" if any(LDM_BLOCKS.search(rest) for rest in rests) else "diffusers"
    return f"{scheme}, blocks named as in {blocks}"


def _alphas(
    known: Mapping[str, Key], metadata: Mapping[str, str], number: Callable[[str], float] | None
) -> list[float]:
    """The distinct alphas that are known, in order."""
    if number is not None:
        return sorted({number(name) for name, key in known.items() if key.role == "alpha"})
    try:
        return [float(metadata["ss_network_alpha"])]
    except (KeyError, ValueError):
        return []
