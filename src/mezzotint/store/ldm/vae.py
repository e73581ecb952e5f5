"""The autoencoder in its three layouts: latent diffusion names, diffusers names, and diffusers names before 0.15.

The latent diffusion code counts the decoder's resolutions finest first, as the encoder's; diffusers counts them in the
order in which they run. The former's attention is four 1x1 convolutions, the latter's four linear layers. Source of the
names: CompVis/latent-diffusion, model.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mezzotint.store.keymap import KeyMap, Piece, prefixed
from mezzotint.store.ldm.names import LDM, Shapes, layer, length, only, shape
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig

DIFFUSERS = "diffusers names"
OLD = "old diffusers names"
PREFIXES = ("first_stage_model.", "vae.", "")
"""What an autoencoder's names begin with: in a checkpoint, and in a file of its own."""

GROUPS = 32
"""Groups of every norm in published autoencoders."""
ATTENTION = {
    LDM: {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    DIFFUSERS: {name: name for name in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")},
    OLD: {"group_norm": "group_norm", "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
}
"""The attention's layers by our names, and what each layout calls them."""
BLOCKS = {
    LDM: "{side}.{way}.{level}.block.{index}.conv1.weight",
    DIFFUSERS: "{side}.{way}_blocks.{level}.resnets.{index}.conv1.weight",
}
"""The tensor that tells of a residual block."""
MIDDLE_ATTENTION = {
    LDM: "encoder.mid.attn_1.norm.weight",
    DIFFUSERS: "encoder.mid_block.attentions.0.group_norm.weight",
}


def find(shapes: Shapes) -> tuple[str, str] | None:
    """The prefix and the layout of the autoencoder among these tensors, or none where there is none."""
    for prefix in PREFIXES:
        if f"{prefix}decoder.conv_in.weight" in shapes:
            if f"{prefix}decoder.mid_block.resnets.0.conv1.weight" not in shapes:
                return prefix, LDM
            old = f"{prefix}decoder.mid_block.attentions.0.query.weight" in shapes
            return prefix, OLD if old else DIFFUSERS
    return None


def places(config: AutoencoderConfig, names: str = LDM) -> KeyMap:
    """Where each tensor of our autoencoder lies in a layout, without prefix."""
    pieces: dict[str, Piece] = {}
    ldm = names == LDM
    for own, theirs, present in (
        ("quant_conv", "quant_conv", config.use_quant_conv),
        ("post_quant_conv", "post_quant_conv", config.use_post_quant_conv),
        *(
            (f"{side}.{end}", f"{side}.{end}", True)
            for side in ("encoder", "decoder")
            for end in ("conv_in", "conv_out")
        ),
        *(
            (f"{side}.conv_norm_out", f"{side}.{'' if ldm else 'conv_'}norm_out", True)
            for side in ("encoder", "decoder")
        ),
    ):
        if present:
            pieces |= layer(own, theirs)
    for side in ("encoder", "decoder"):
        for index in range(2):
            theirs = f"{side}.mid.block_{index + 1}" if ldm else f"{side}.mid_block.resnets.{index}"
            pieces |= _resnet(f"{side}.mid_block.resnets.{index}", theirs, names, shortcut=False)
        if config.mid_block_add_attention:
            theirs = f"{side}.mid.attn_1" if ldm else f"{side}.mid_block.attentions.0"
            for own, foreign in ATTENTION[names].items():
                convolution = ldm and own != "group_norm"
                pieces |= layer(f"{side}.mid_block.attentions.0.{own}", f"{theirs}.{foreign}", convolution=convolution)
    widths = config.block_out_channels
    return (
        pieces
        | _blocks("encoder", "down", widths, config.layers_per_block, names)
        | _blocks("decoder", "up", widths[::-1], config.layers_per_block + 1, names)
    )


def readable(config: AutoencoderConfig, shapes: Shapes, prefix: str, names: str) -> KeyMap:
    """As `places`, by the whole names in a file of these tensors, with its attention as it happens to be there.

    Programs that convert write attention in any layout as matrices or as 1x1 convolutions, and of the diffusers names
    the old or the new.
    """
    found = dict(prefixed(places(config, names), prefix))
    if names != LDM:
        other = prefixed(places(config, DIFFUSERS if names == OLD else OLD), prefix)
        found = {
            ours: other[ours] if piece.source not in shapes and other[ours].source in shapes else piece
            for ours, piece in found.items()
        }
    matrices = tuple(f".attentions.0.{ours}.weight" for ours in ATTENTION[LDM] if ours != "group_norm")
    return {
        ours: replace(piece, convolution=True) if ours.endswith(matrices) else piece for ours, piece in found.items()
    }


def _blocks(side: str, way: str, widths: tuple[int, ...], layers: int, names: str) -> dict[str, Piece]:
    """The residual blocks and the steps between resolutions of one side, whose widths are in the order of running."""
    pieces: dict[str, Piece] = {}
    step, last = f"{way}sample", len(widths) - 1
    for level, width in enumerate(widths):
        ours = f"{side}.{way}_blocks.{level}"
        foreign = ours if names != LDM else f"{side}.{way}.{level if way == 'down' else last - level}"
        for index in range(layers):
            before = widths[max(level - 1, 0)] if index == 0 else width
            theirs = f"{foreign}.block.{index}" if names == LDM else f"{foreign}.resnets.{index}"
            pieces |= _resnet(f"{ours}.resnets.{index}", theirs, names, shortcut=before != width)
        if level < last:
            theirs = f"{foreign}.{step}.conv" if names == LDM else f"{foreign}.{step}rs.0.conv"
            pieces |= layer(f"{ours}.{step}rs.0.conv", theirs)
    return pieces


def _resnet(ours: str, theirs: str, names: str, *, shortcut: bool) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    for name in ("norm1", "conv1", "norm2", "conv2"):
        pieces |= layer(f"{ours}.{name}", f"{theirs}.{name}")
    if shortcut:
        pieces |= layer(f"{ours}.conv_shortcut", f"{theirs}.{'nin' if names == LDM else 'conv'}_shortcut")
    return pieces


def config(shapes: Shapes, names: str = LDM, *, groups: int = GROUPS, **others: Any) -> AutoencoderConfig:
    """What the autoencoder of these tensors, named without prefix in that layout, is made of.

    `groups` and `others` are fields that no shape tells of: scaling_factor, sample_size. Raises UserError for tensors
    that are missing or of another kind of autoencoder.
    """
    layout = DIFFUSERS if names == OLD else names
    block = BLOCKS[layout]
    levels = length(shapes, block.format(side="encoder", way="down", level="{}", index=0))
    if levels == 0:
        raise UserError(f"The tensor {block.format(side='encoder', way='down', level=0, index=0)} is missing: "
                        "the autoencoder has no encoder, which this program needs.")  # fmt: skip
    layers = only(
        (length(shapes, block.format(side="encoder", way="down", level=level, index="{}")) for level in range(levels)),
        "The autoencoder has more residual blocks at one resolution than at another, which this program cannot run.",
    )
    firsts = [block.format(side="encoder", way="down", level=level, index=0) for level in range(levels)]
    widths = tuple(shape(shapes, name, 4)[0] for name in firsts)
    if any(width % groups != 0 for width in widths):
        raise UserError(
            f"The autoencoder is {', '.join(map(str, widths))} wide, no multiples of the {groups} groups that norms "
            "have in published ones, and the file does not say how many it has: use the folder that it was made from."
        )
    return AutoencoderConfig.of_widths(
        *widths,
        in_channels=shape(shapes, "encoder.conv_in.weight", 4)[1],
        out_channels=shape(shapes, "decoder.conv_out.weight", 4)[0],
        layers_per_block=layers,
        latent_channels=shape(shapes, "decoder.conv_in.weight", 4)[1],
        norm_num_groups=groups,
        use_quant_conv="quant_conv.weight" in shapes,
        use_post_quant_conv="post_quant_conv.weight" in shapes,
        mid_block_add_attention=MIDDLE_ATTENTION[layout] in shapes,
        **others,
    )
