"""Where a picture's walk begins, and what the U-Net is told beside the words: every mode is a row of this table.

| mode | begins from | its U-Net reads beside the latent |
|---|---|---|
| text to image | noise | - |
| image to image | z + sigma * n | - |
| inpainting with any model | z + sigma * n, and z is known where nothing is drawn | - |
| inpainting with a model for it | noise, or z + sigma * n | the mask and what it leaves of the picture |
| drawing on a depth map | noise, or z + sigma * n | the map |
| changing a picture by words | noise, or z + sigma * n | the picture |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.conditioning import canvas
from mezzotint.conditioning.hints import INPAINT, channels, hint_named
from mezzotint.pipeline.edit import Edit, surrounded
from mezzotint.sampling.guidance import Guidance
from mezzotint.sampling.known import Known
from mezzotint.types import Conditioning, Request, UserError, sides
from mezzotint.vae.codec import Codec

if TYPE_CHECKING:
    from mezzotint.pipeline import Pipeline
    from mezzotint.pipeline.networks import Wanted
    from mezzotint.pipeline.plan import Plan

PICTURE = "picture"
"""The picture to change, for models that change one by words."""
BESIDE: dict[int, tuple[str, ...]] = {0: (), 1: ("depth",), 4: (PICTURE,), 5: (INPAINT,)}
"""What U-Nets from elsewhere read beside the latent, by the number of channels."""
STRENGTH = 0.75
"""How much of a picture is drawn anew where nothing is said."""
MASKED = 3.0
"""How closely a model that learned masks keeps to one where nothing is said: solids drawn without guidance by the mask
at times reach out of it, and are cut."""


@dataclass(frozen=True)
class Layout:
    """What the U-Net reads beside the latent for a request."""

    names: tuple[str, ...] = ()
    """In the order of its channels."""
    learned: bool = False
    """Whether that is by the model's hints, which a picture without any does not need."""


def layout(pipe: Pipeline, request: Request) -> Layout:
    """What lies beside the latent. Raises UserError for what this model cannot read, or has to be given."""
    channels = pipe.denoiser.unet.config.spatial_channels
    if channels not in BESIDE:
        raise UserError(f"This model reads {channels} channels of something unknown beside the latent: choose another.")
    names, given = BESIDE[channels], set(request.hints())
    known = set(names) if pipe.hints is None or channels > 0 else set(pipe.hints.names)
    if not given <= known:
        name = sorted(given - known)[0]
        own = f", but {', '.join(sorted(known))}" if known else ""
        raise UserError(f"This model reads no {name}{own}: leave it out, or choose a model that was trained for it.")
    if names == ("depth",) and not given:
        raise UserError("This model draws on a depth map: give depth.")
    if names == (PICTURE,) and request.image == "":
        raise UserError("This model changes a picture by words: give image.")
    if _repaints(request):
        given.add(INPAINT)
    if channels == 0 and pipe.hints is not None and given & known:
        return Layout(pipe.hints.names, learned=True)
    return Layout(names)


def strength(request: Request, layout: Layout) -> float:
    """How much is drawn anew: what is asked for, or by the mode. A model that reads the picture begins from noise."""
    if request.strength is not None:
        return request.strength
    whole = request.image == "" or _repaints(request) or layout.names == (PICTURE,)
    return 1.0 if whole else STRENGTH


def spatial_guidance(request: Request, layout: Layout) -> float:
    """The scale of what lies beside the latent: what is asked for, or by the mode; 1 is off."""
    if PICTURE in layout.names:
        return request.image_guidance
    if not layout.learned:
        return 1.0
    if request.hint_guidance is not None:
        return request.hint_guidance
    return MASKED if INPAINT in layout.names and _repaints(request) else 1.0


def _repaints(request: Request) -> bool:
    """Whether a part of a picture is drawn anew, or beyond it."""
    return request.mask != "" or any(sides(request.extend))


@dataclass(frozen=True)
class Seen:
    """What a pass has of the request's pictures, at its size."""

    latent: Tensor | None = None
    """z of the picture to begin from, [1 C h w]."""
    repaint: Tensor | None = None
    """m [1 1 h w], 0 where the picture stays."""
    spatial: Tensor | None = None
    """[1 S h w], joined to the latent's channels."""


@dataclass(frozen=True)
class Start:
    """What a walk begins with."""

    x: Tensor
    """[1 C h w] of the first pass's size, with noise of its first sigma."""
    passes: tuple[Seen, ...] = (Seen(),)
    """One for each of the walk's."""
    shift: Tensor | None = None
    """What the autoencoder takes from the picture's mean colour, [1 3 1 1]."""
    shown: Shown | None = None
    """The pictures to draw after."""

    def guided(self, plan: Plan) -> Guidance:
        """The plan's guidance with what is known held, unless the U-Net reads that beside the latent."""
        known = [(seen.latent, seen.repaint) for seen in self.passes if seen.latent is not None]
        held = tuple((latent, repaint) for latent, repaint in known if repaint is not None)
        return plan.guidance if INPAINT in plan.layout.names or not held else Known(plan.guidance, held)

    def enlarged(self, codec: Codec, latent: Tensor, size: tuple[int, int]) -> Tensor:
        """What a pass ended with, at the size (h, w) of the next; where the picture stays it is the picture's own."""
        larger = codec.enlarge(latent, size)
        for seen in self.passes:
            if seen.latent is not None and seen.repaint is not None and seen.latent.shape == larger.shape:
                return torch.where(seen.repaint > 0, larger, seen.latent)
        return larger

    def seen_by(self, wanted: Wanted, layout: Layout) -> Start:
        """What a denoiser can be told of it: hints if it has learned them, and pictures if it reads them."""
        passes = self.passes
        if wanted.hinted != layout.learned:
            passes = tuple(replace(seen, spatial=None) for seen in passes)
        return replace(self, passes=passes, shown=self.shown if wanted.pictured else None)

    def told(self, conditioning: Conditioning, row: str, number: int, *, negative: bool) -> Conditioning:
        """What a row is told in a pass: the words, pictures beside them, and what lies on the latent.

        "blank" is told nothing of what lies there, and what is steered away from nothing of the pictures.
        """
        if self.shown is not None:
            pictures = self.shown.nothing if negative else self.shown.tokens
            conditioning = replace(conditioning, pictures=pictures, weights=self.shown.weights)
        spatial = self.passes[number].spatial
        if spatial is None:
            return conditioning
        return replace(conditioning, spatial=torch.zeros_like(spatial) if row == "blank" else spatial)


@dataclass(frozen=True)
class Shown:
    """The pictures to draw after, N of them."""

    tokens: Tensor
    """[1 N T D]."""
    nothing: Tensor
    """The tokens of as many that show nothing."""
    weights: Tensor
    """[1 N]."""


@torch.inference_mode()
def start(pipe: Pipeline, plan: Plan, noise: Callable[[Sequence[int]], Tensor]) -> Start:
    """The start of a planned picture; `noise(shape)` draws from its stream."""
    edit, codec, first = plan.edit, pipe.codec, plan.passes[0]
    # Drawn even where noise is given, so that what a stochastic sampler adds later is the same and is fresh.
    n = noise((1, codec.channels, *first.size))
    if plan.noise is not None:
        n = plan.noise.detach().to(pipe.device, torch.float32)
    sigma = first.sigmas[0]
    passes = tuple(_seen(pipe, plan, each.size, later=number > 0) for number, each in enumerate(plan.passes))
    prompts = shown(pipe, edit) if edit.prompts else None
    begun, repaint = passes[0].latent, passes[0].repaint
    # The deviation of x0 + sigma * n where x0, unknown yet, has unit variance: at sigma 4096 it is sigma.
    x = math.hypot(1.0, sigma) * n
    if begun is None or edit.pixels is None:
        return Start(x, passes, shown=prompts)
    shift = _shift(codec, edit.pixels) if plan.request.keep_colours else None
    if repaint is not None and plan.request.fill == "noise":
        begun = begun.lerp(noise(tuple(begun.shape)), repaint)
    if not plan.anew:
        x = begun + sigma * n
    return Start(x, passes, shift, prompts)


def _seen(pipe: Pipeline, plan: Plan, size: tuple[int, int], *, later: bool) -> Seen:
    """What a pass of this size (h, w) has of the plan's pictures; a later one goes on from what was drawn before it."""
    codec, layout = pipe.codec, plan.layout
    edit = plan.edit.at((size[1] * codec.factor, size[0] * codec.factor))
    spatial = beside(codec, edit, layout, size).to(pipe.device) if layout.names else None
    ignored = edit.mask is None and (later or (plan.anew and PICTURE not in layout.names))
    if edit.pixels is None or ignored:
        return Seen(spatial=spatial)
    pixels = edit.pixels
    if edit.mask is not None and plan.request.fill == "colours":
        pixels = surrounded(pixels, edit.mask)
    repaint = None if edit.mask is None else canvas.latent_mask(edit.mask, codec.factor).to(pipe.device)
    return Seen(codec.encode(pixels).to(pipe.device, torch.float32), repaint, spatial)


def shown(pipe: Pipeline, edit: Edit) -> Shown:
    """The pictures to draw after, read by the model's image tower."""
    reader = pipe.picture_conditioner()
    weight = next(reader.parameters())
    read = [reader(reader.prepared(picture).to(weight)) for picture, _ in edit.prompts]
    tokens = torch.stack(read, dim=1).float()
    nothing = reader.nothing()[:, None].float().expand_as(tokens)
    return Shown(tokens, nothing, torch.tensor([[share for _, share in edit.prompts]], device=tokens.device))


def beside(codec: Codec, edit: Edit, layout: Layout, size: tuple[int, int]) -> Tensor:
    """What a U-Net reads beside the latent, [1 S h w], in the order of its names; zero where it is not given.

    Models from elsewhere are told of a soft mask's brighter half, as they know it; ours of all that is to be seen anew,
    but for the seam along its edge.
    """
    names = layout.names
    parts: list[Tensor] = []
    for name in names:
        if name == PICTURE and edit.pixels is not None:
            parts.append(codec.unscale(codec.encode(edit.pixels)))  # As it was trained, without the scaling factor.
        elif name == INPAINT and (edit.mask is not None or len(names) == 1):
            pixels = torch.zeros(1, 3, *(side * codec.factor for side in size)) if edit.pixels is None else edit.pixels
            mask = torch.ones_like(pixels[:, :1]) if edit.mask is None else edit.mask
            if layout.learned:
                pixels, mask = canvas.inset(pixels, mask, canvas.seam(codec.factor))
            parts.append(inpainting(codec, pixels, mask))
        elif name in edit.hints:
            parts.append(hint_named(name).reads(edit.hints[name], size))
        else:
            parts.append(torch.zeros(1, channels(name), *size))
    return torch.cat([part.float().cpu() for part in parts], dim=1)


def inpainting(codec: Codec, pixels: Tensor, mask: Tensor) -> Tensor:
    """The mask [B 1 H W] at the latent's size, from the nearest pixels, and the latent of what it leaves, [B 5 h w].

    As Stable Diffusion's models for inpainting read it: grey is where the mask is.
    """
    mask = (mask >= 0.5).float()
    kept = codec.encode(pixels * (1.0 - mask)).float()
    return torch.cat([F.interpolate(mask, size=kept.shape[2:]).to(kept), kept], dim=1)


def _shift(codec: Codec, pixels: Tensor) -> Tensor:
    """The mean colour of pixels [1 3 H W] less that of what the autoencoder makes of them, [1 3 1 1]."""
    back = codec.decode(codec.encode(pixels)).float().cpu()
    return (pixels - back).mean(dim=(2, 3), keepdim=True)
