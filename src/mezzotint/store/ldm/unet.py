"""The U-Net as OpenAI's guided diffusion numbers it: input_blocks, middle_block, output_blocks.

Every ResNet block, with the transformer that follows it, and every step between resolutions is one numbered block:

    input_blocks   the first convolution is 0; then each resolution's ResNet blocks, and between resolutions a
                   downsampler
    output_blocks  each resolution's ResNet blocks, coarsest first; an upsampler belongs to the block before it

Inside a block 0 is the ResNet block (or downsampler), 1 the transformer, and the upsampler comes next.
Transformers have the same names inside in both layouts. Source of the names: CompVis/latent-diffusion, openaimodel.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

from mezzotint.denoise.config import MID_BLOCK, UNetConfig
from mezzotint.store.keymap import KeyMap, Piece
from mezzotint.store.ldm.names import Shapes, layer, length, only, shape
from mezzotint.types import UserError

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
BEGINNING_AND_END = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}

GROUPS = 32
"""Groups of every norm in published U-Nets; no shape tells of them."""
HEADS = 8
"""Attention heads where the projections around transformers are 1x1 convolutions (LDM, SD 1.x)."""
HEAD_WIDTH = 64
"""Width of a head where those projections are linear (SD 2.x, SDXL)."""
SIZE_WIDTH = 256
"""Width of each embedded size in SDXL's pooled conditioning."""
SIZE_COUNTS = (6, 5)
"""Numbers embedded in pooled conditioning: three sizes in SDXL base; two sizes and a score in the refiner."""
UNCLIP = (1536, 2048)
"""Widths of pooled pictures in the two unCLIP models, whose text is UNCLIP_TEXT wide."""
UNCLIP_TEXT = 1024


def places(config: UNetConfig) -> KeyMap:
    """Where each tensor of our U-Net lies, without the prefix (`model.diffusion_model.` in a checkpoint)."""
    pieces: dict[str, Piece] = {}
    for ours, theirs in BEGINNING_AND_END.items():
        pieces |= layer(ours, theirs)
    pooled = {"class_embedding": config.class_embed_type, "add_embedding": config.addition_embed_type}
    for ours, kind in pooled.items():
        if kind is not None:
            pieces |= layer(f"{ours}.linear_1", "label_emb.0.0") | layer(f"{ours}.linear_2", "label_emb.0.2")
    return pieces | _down(config) | _middle(config) | _up(config)


def _down(config: UNetConfig) -> dict[str, Piece]:
    widths, pieces = config.block_out_channels, dict[str, Piece]()
    numbers = count(1)
    for level, width in enumerate(widths):
        ours = f"down_blocks.{level}"
        attends = config.down_block_types[level].startswith("CrossAttn")
        for index in range(config.layers_per_block):
            theirs = f"input_blocks.{next(numbers)}"
            before = widths[max(level - 1, 0)] if index == 0 else width
            pieces |= _resnet(f"{ours}.resnets.{index}", f"{theirs}.0", shortcut=before != width)
            if attends:
                pieces |= _transformer(f"{ours}.attentions.{index}", f"{theirs}.1", config.depths[level])
        if level < len(widths) - 1:
            pieces |= layer(f"{ours}.downsamplers.0.conv", f"input_blocks.{next(numbers)}.0.op")
    return pieces


def _middle(config: UNetConfig) -> dict[str, Piece]:
    if config.mid_block_type is None:
        return {}
    return {
        **_resnet("mid_block.resnets.0", "middle_block.0", shortcut=False),
        **_transformer("mid_block.attentions.0", "middle_block.1", config.depths[-1]),
        **_resnet("mid_block.resnets.1", "middle_block.2", shortcut=False),
    }


def _up(config: UNetConfig) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    numbers = count()
    for block, level in enumerate(reversed(range(len(config.block_out_channels)))):
        ours, theirs = f"up_blocks.{block}", ""
        attends = config.up_block_types[block].startswith("CrossAttn")
        for index in range(config.layers_per_block + 1):
            theirs = f"output_blocks.{next(numbers)}"
            # What comes up is joined by a skip, so it is always wider than what leaves.
            pieces |= _resnet(f"{ours}.resnets.{index}", f"{theirs}.0", shortcut=True)
            if attends:
                pieces |= _transformer(f"{ours}.attentions.{index}", f"{theirs}.1", config.depths[level])
        if level > 0:
            pieces |= layer(f"{ours}.upsamplers.0.conv", f"{theirs}.{2 if attends else 1}.conv")
    return pieces


def _resnet(ours: str, theirs: str, *, shortcut: bool) -> dict[str, Piece]:
    names = RESNET | ({"conv_shortcut": "skip_connection"} if shortcut else {})
    pieces: dict[str, Piece] = {}
    for own, foreign in names.items():
        pieces |= layer(f"{ours}.{own}", f"{theirs}.{foreign}")
    return pieces


def _transformer(ours: str, theirs: str, depth: int) -> dict[str, Piece]:
    names = [f"{name}.{kind}" for name in ("norm", "proj_in", "proj_out") for kind in ("weight", "bias")]
    for block in (f"transformer_blocks.{index}" for index in range(depth)):
        layers = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
        names += [f"{block}.{name}.{kind}" for name in layers for kind in ("weight", "bias")]
        names += [f"{block}.{name}.to_{role}.weight" for name in ("attn1", "attn2") for role in "qkv"]
    return {f"{ours}.{name}": Piece(f"{theirs}.{name}") for name in names}


@dataclass(frozen=True)
class _Block:
    """A ResNet block's width, and how many transformer blocks follow it: 0 where there is no transformer."""

    width: int
    depth: int


def config(shapes: Shapes, *, pooled_text: int | None = None) -> UNetConfig:
    """What the U-Net of these tensors is made of, by their names without prefix.

    The shapes do not tell the number of heads and of groups: GROUPS, and HEADS or HEAD_WIDTH, as in every published
    model. `pooled_text` is the width of the pooled text inside SDXL's pooled conditioning, where it is known: the rest
    are the embedded sizes. Raises UserError for a U-Net that no UNetConfig describes, naming what is in it.
    """
    _refuse_others(shapes)
    first = shape(shapes, "input_blocks.0.0.weight", 4)
    downs = _downs(shapes)
    layers = only(
        (len(level) for level in downs),
        "The U-Net has more ResNet blocks at one resolution than at another, which this program cannot run.",
    )
    ups = _ups(shapes, len(downs), layers)
    middle = length(shapes, "middle_block.1.transformer_blocks.{}.attn2.to_k.weight")
    prefix = _first_transformer(shapes, downs, middle)
    if middle == 0 and "middle_block.0.in_layers.0.weight" in shapes:
        raise UserError(
            "The U-Net's middle has no transformer, as in SSD-1B and Vega, which this program cannot run: "
            "use the model that it was distilled from."
        )
    text = shape(shapes, f"{prefix}.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    widths = tuple(level[0].width for level in downs)
    if any(width % GROUPS != 0 for width in widths):
        raise UserError(
            f"The U-Net is {', '.join(map(str, widths))} wide, no multiples of the {GROUPS} groups that norms have in "
            "published models, and the file does not say how many it has: use the folder that it was made from."
        )
    linear = len(shapes.get(f"{prefix}.proj_in.weight", ())) == 2
    return UNetConfig(
        in_channels=first[1],
        out_channels=shape(shapes, "out.2.weight", 4)[0],
        block_out_channels=widths,
        down_block_types=tuple(_kind("Down", level) for level in downs),
        mid_block_type=MID_BLOCK if middle > 0 else None,
        up_block_types=tuple(_kind("Up", level) for level in ups),
        layers_per_block=layers,
        cross_attention_dim=text,
        attention_head_dim=tuple(max(1, width // HEAD_WIDTH) for width in widths) if linear else HEADS,
        transformer_layers_per_block=_depths(downs, ups, middle),
        norm_num_groups=GROUPS,
        use_linear_projection=linear,
        **_pooled(shapes, text, pooled_text),
    )


def _refuse_others(shapes: Shapes) -> None:
    """Raise UserError for tensors that U-Nets of another kind have."""
    if "label_emb.weight" in shapes:
        raise UserError(
            "The U-Net reads a numbered class, as the x4 upscaler does, which this program cannot run: "
            "use a model that draws from text."
        )
    if any(".time_stack." in name or ".time_mix" in name for name in shapes):
        raise UserError("The U-Net draws video, which this program cannot: use a model that draws pictures.")
    for name, own in shapes.items():
        if name.endswith(".attn1.to_k.weight") and len(own) == 2 and own[0] != own[1]:
            raise UserError(
                f"The U-Net's {name.removesuffix('.to_k.weight')} reads the text instead of the picture, which this "
                "program cannot run: use another model."
            )


def _block(shapes: Shapes, name: str) -> _Block:
    width = shape(shapes, f"{name}.0.in_layers.2.weight", 4)[0]
    return _Block(width, length(shapes, f"{name}.1.transformer_blocks.{{}}.attn2.to_k.weight"))


def _downs(shapes: Shapes) -> list[list[_Block]]:
    """The blocks of each resolution on the way down, finest first."""
    levels: list[list[_Block]] = [[]]
    for name in (f"input_blocks.{number}" for number in count(1)):
        if f"{name}.0.op.weight" in shapes:
            levels.append([])
        elif f"{name}.0.in_layers.2.weight" in shapes:
            levels[-1].append(_block(shapes, name))
        else:
            break
    if not all(levels):
        raise UserError("The tensor input_blocks.1.0.in_layers.2.weight or one like it is missing: get the file again.")
    return levels


def _ups(shapes: Shapes, levels: int, layers: int) -> list[list[_Block]]:
    """The blocks of each resolution on the way up, coarsest first."""
    numbers = count()
    return [[_block(shapes, f"output_blocks.{next(numbers)}") for _ in range(layers + 1)] for _ in range(levels)]


def _first_transformer(shapes: Shapes, downs: list[list[_Block]], middle: int) -> str:
    """The name of a transformer. Raises UserError where there is none, so that no text is read."""
    if middle > 0:
        return "middle_block.1"
    for number in range(1, sum(map(len, downs)) + len(downs)):
        if f"input_blocks.{number}.1.transformer_blocks.0.attn2.to_k.weight" in shapes:
            return f"input_blocks.{number}.1"
    raise UserError("The U-Net has no attention to text, so it cannot be told what to draw: use another model.")


def _kind(way: str, blocks: list[_Block]) -> str:
    attends = only(
        (block.depth > 0 for block in blocks),
        "The U-Net has a transformer after one ResNet block and none after another at the same resolution, "
        "as distilled models have, which this program cannot run: use the model that it was distilled from.",
    )
    return f"CrossAttn{way}Block2D" if attends else f"{way}Block2D"


def _depths(downs: list[list[_Block]], ups: list[list[_Block]], middle: int) -> int | tuple[int, ...]:
    """Transformer blocks at each resolution, finest first; one number where all are alike, 1 where there are none."""
    depths: list[int | None] = []
    for level, blocks in enumerate(downs):
        here = [*blocks, *ups[len(downs) - 1 - level]]
        found = {block.depth for block in here} | ({middle} if level == len(downs) - 1 else set[int]())
        found.discard(0)
        if len(found) > 1:
            raise UserError(
                f"The U-Net's transformers at one resolution have {', '.join(map(str, sorted(found)))} blocks, as "
                "distilled models have, which this program cannot run: use the model that it was distilled from."
            )
        depths.append(found.pop() if found else None)
    known = {depth for depth in depths if depth is not None}
    return known.pop() if len(known) == 1 else tuple(1 if depth is None else depth for depth in depths)


def _pooled(shapes: Shapes, text: int, pooled_text: int | None) -> dict[str, Any]:
    """The config's fields about pooled conditioning."""
    if "label_emb.0.0.weight" not in shapes:
        return {}
    width = shape(shapes, "label_emb.0.0.weight", 2)[1]
    if text == UNCLIP_TEXT and width in UNCLIP:
        return {"class_embed_type": "projection", "projection_class_embeddings_input_dim": width}
    sizes = SIZE_WIDTH
    if pooled_text is not None:
        rest = width - pooled_text
        sizes = next((rest // number for number in SIZE_COUNTS if rest > 0 and rest % number == 0), 0)
    if sizes % 2 != 0 or sizes == 0:
        raise UserError(
            f"The U-Net reads {width} pooled numbers, of which {pooled_text} are the text's; "
            "the rest are no five or six embedded sizes: the text encoder is another model's."
        )
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": sizes,
        "projection_class_embeddings_input_dim": width,
    }
