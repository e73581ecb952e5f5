"""Forward diffusion: noise of a known level is added to a latent, and the denoiser learns to take it away."""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.conditioning.image_prompt import PictureConditioner
from mezzotint.conditioning.text import AnyTextModel, TextConditioner
from mezzotint.denoise.denoiser import Denoiser
from mezzotint.denoise.unet import UNet
from mezzotint.noise.parameterisation import scalings
from mezzotint.training.cells import Cells
from mezzotint.training.clip import ReadOut, read_back, truth_told
from mezzotint.training.data import Pictures, StillLife
from mezzotint.training.hints import Hints
from mezzotint.training.image_prompt import PicturePrompts
from mezzotint.training.latents import Disguised, LatentCache
from mezzotint.training.walks import Walks
from mezzotint.types import Conditioning
from mezzotint.vae.codec import Codec
from mezzotint.world.captions import NOTHING, Told
from mezzotint.world.scene import COLOURS, SHAPES

FOCUS_SIGMA = 2.0
"""Where shapes are decided: the middle of the levels that focus is on, for latents of variance 1."""
OFF = 0.1
"""Added to c_out^2 for states of walks: where there is little noise, the truth is known only to about this, squared."""


def level_shares(sigmas: Tensor, focus: float, middle: float = FOCUS_SIGMA, breadth: float = 1.0) -> Tensor:
    """[T] the share of training pictures at or below each level of a schedule, for its rising `sigmas` [T].

    A share `focus` of them is lognormal (Karras et al. 2022, table 1), its logarithm of the standard deviation
    `breadth` around that of `middle`; the others stand evenly over the levels.
    """
    lognormal = torch.special.ndtr((sigmas.double() / middle).log() / breadth)
    even = torch.arange(1, len(sigmas) + 1) / len(sigmas)
    return focus * lognormal + (1 - focus) * even


class Segment(Cells):
    """Names what stands in every cell from the U-Net's features before its last block.

    It begins alike in every training, and so near to what features of a U-Net that is begun from were learned for.
    """

    def __init__(self, unet: UNet) -> None:
        widths = unet.config.block_out_channels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            super().__init__(widths[min(1, len(widths) - 1)], len(SHAPES), len(COLOURS))
        self.block = max(len(widths) - 2, 0)  # The last but one on the way up, which ends at the latent's size.


def spread_levels(sigmas: Tensor, shares: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The levels of a batch, sigmas [count], and where in their shares [T] each lies, from 0 to 1.

    They are spread evenly, so that a batch sees levels of all kinds (Kingma et al. 2021, appendix I.1).
    """
    spread = (torch.arange(count) / count + torch.rand(1, generator=generator)) % 1
    return sigmas[torch.searchsorted(shares[:-1], spread.double(), right=True)], spread


def low_and_high(error: Tensor, spread: Tensor) -> dict[str, Tensor]:
    """The mean of errors [B] over the half of a batch with less noise and over the half with more, to log."""
    half = (len(error) + 1) // 2  # The middle one of an odd number, or the only one, counts in both halves.
    order = spread.to(error.device).argsort()
    return {"low_noise": error[order[:half]].mean().detach(), "high_noise": error[order[-half:]].mean().detach()}


class _Trained(nn.Module):
    """The denoiser and the text encoder, if that learns too, which are the model; and what they are taught with."""

    def __init__(
        self,
        denoiser: Denoiser,
        segment: Segment | None,
        text: AnyTextModel | None,
        read: ReadOut | None,
        reader: PictureConditioner | None,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.segment = segment
        self.text = text
        self.read = read
        self.reader = reader


def trained(network: nn.Module) -> Denoiser:
    """The denoiser of a task's network."""
    assert isinstance(network, _Trained)
    return network.denoiser


def trained_reader(network: nn.Module) -> PictureConditioner:
    """What reads pictures as prompts, of a task's network that learned it."""
    assert isinstance(network, _Trained)
    assert network.reader is not None
    return network.reader


def told_by(network: nn.Module, conditioner: TextConditioner) -> TextConditioner:
    """The task's conditioner, around the text encoder of its network, or of that one's average, if it has one."""
    assert isinstance(network, _Trained)
    if network.text is None:
        return conditioner
    return TextConditioner(
        conditioner.tokenizer, network.text, layer=conditioner.layer, final_norm=conditioner.final_norm
    )


class DenoiserTask:
    """D(x0 + sigma n, sigma, tau(y)) should be x0, at every sigma of the schedule.

    The error is divided by c_out, which makes it that of the network's own prediction (Karras et al. 2022, equation 8):
    for v-prediction the plain squared error of v (Salimans and Ho 2022, appendix D). Where the scenes are known, the
    U-Net's features before its last block also name what stands where, and a text encoder that learns with it may be
    asked what its captions say.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditioner: TextConditioner,
        codec: Codec,
        pictures: Pictures,
        *,
        caption_dropout: float = 0.1,
        clear: float = 0.0,
        segment: float = 0.0,
        focus: float = 0.0,
        middle: float = FOCUS_SIGMA,
        breadth: float = 1.0,
        learns_text: bool = False,
        read: float = 0.0,
        hints: Hints | None = None,
        prompts: PicturePrompts | None = None,
        disguised: Disguised | None = None,
        walks: Walks | None = None,
        walked: float = 0.0,
        held: float = 0.0,
        cache: Path | None = None,
    ) -> None:
        """`caption_dropout`: the share of pictures shown with the empty caption, for classifier-free guidance;
        `clear`: that of a still life's captions that are told by `tell_clearly`;
        `segment`: the weight of naming what stands where, against the denoising error; `focus`: the share of noise
        levels drawn around the sigma `middle`, `breadth` wide (`level_shares`); `learns_text`: whether the
        conditioner's text encoder is trained too; `read`: the weight of reading the scene back out of its tokens, if
        so; `hints`: what lies beside the latents; `prompts`: what pictures are shown as prompts; `disguised`: what
        is noised as another; `walks`: states that a share `walked` of every batch are; `held`: above
        this sigma, unless it is 0, other pictures' truth is what the denoiser says now; `cache`: a folder for latents.
        """
        known = isinstance(pictures, StillLife)
        self.network = _Trained(
            denoiser,
            Segment(denoiser.unet) if known and segment > 0 else None,
            conditioner.text_model if learns_text else None,
            ReadOut(conditioner.width) if known and learns_text and read > 0 else None,
            None if prompts is None else prompts.reader,
        )
        self.network.to(next(denoiser.parameters()).device)
        self._denoiser, self._conditioner, self._pictures = denoiser, conditioner, pictures
        self._dropout, self._clear, self._segment, self._read = caption_dropout, clear, segment, read
        self._hints, self._prompts, self._disguised = hints, prompts, disguised
        self._walks, self._walked = walks, walked
        self._held = held
        self._before = copy.deepcopy(denoiser).requires_grad_(False) if held > 0 else None
        self._latents = LatentCache(pictures, codec, cache)
        self._sigmas = denoiser.schedule.sigmas.clone()
        self._shares = level_shares(self._sigmas, focus, middle, breadth)

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        device = next(self._denoiser.parameters()).device
        own, chosen = self._own(len(index), generator)
        if self._walks is not None:
            index = torch.cat([self._walks.place[chosen], index[own:]])
        seed = int(torch.randint(2**31, (1,), generator=generator))
        said = self._told(index, seed)
        dropped = (torch.rand(len(index), generator=generator) < self._dropout).tolist()
        spatial, weight = None, 1.0
        with torch.no_grad():
            if self._hints is not None:
                with torch.autocast(device.type, enabled=False):
                    beside = self._hints(index, generator)
                spatial, weight = beside.spatial.to(device), beside.weight.to(device)
                said = [beside.captions.get(row, whole) for row, whole in enumerate(said)]
            said = [NOTHING if d else each for each, d in zip(said, dropped, strict=True)]
            with torch.autocast(device.type, enabled=False):  # What is learned from stays in 32 bits.
                x0 = self._latents(index[own:])
        with torch.set_grad_enabled(self.network.text is not None and torch.is_grad_enabled()):
            tokens = self._conditioner([each.text for each in said]).sequence
        sigma, spread = spread_levels(self._sigmas, self._shares, len(index) - own, generator)
        noise = torch.randn(x0.shape, generator=generator)
        told = Conditioning(sequence=tokens, spatial=spatial)
        shown = torch.zeros(len(index), dtype=torch.bool)
        if self._prompts is not None:
            pictures, weights, shown = self._prompts(index, generator)
            told = replace(told, pictures=pictures, weights=weights)
        noised = x0
        if self._disguised is not None:
            known = torch.tensor([each.tells(self._disguised.attributes) for each in said]) | shown
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                noised = self._disguised(x0, index[own:], sigma, known[own:], generator)
        x = noised + sigma.to(x0)[:, None, None, None] * noise
        x0, x, sigma = x0.to(device), x.to(device), sigma.float().to(device)
        x0 = self._as_before(x0, x, sigma, told, own)
        if self._walks is not None:
            own_walks = (self._walks.truth, self._walks.state, self._walks.sigma)
            truth, state, level = (part[chosen].to(x0) for part in own_walks)
            x0, x, sigma = torch.cat([truth, x0]), torch.cat([state, x]), torch.cat([level, sigma])
        segment, read_out = self.network.segment, self.network.read
        with _outputs_of(self._denoiser.unet.up_blocks[segment.block] if segment else None) as features:
            estimate = self._denoiser(x, sigma, told)
        _, c_out, _ = scalings(self._denoiser.schedule.prediction_type, sigma)
        scale = c_out.to(x0).square()
        scale[:own] += OFF
        error = (weight * (estimate - x0).square() / scale[:, None, None, None]).flatten(1).mean(dim=1)
        loss, figures = error.mean(), low_and_high(error[own:], spread)
        if own > 0:
            figures["walked"] = error[:own].mean().detach()
        if segment is not None and isinstance(self._pictures, StillLife):
            cells = self._pictures.cells(index[own:], x0.shape[-1])
            named = segment.loss(features[0][own:], *(part.to(device) for part in (*cells, self._pictures.seen)))
            loss, figures = loss + self._segment * named, {**figures, "segment": named.detach()}
        if read_out is not None and isinstance(self._pictures, StillLife) and tokens is not None:
            truth = {name: kinds.to(device) for name, kinds in truth_told(said).items()}
            read, slots = read_back(read_out, tokens[:, 0], tokens[:, -1], truth)  # [CLS] stands for all.
            loss, figures = loss + self._read * read, {**figures, "text_slots": slots}
        return loss, figures

    def _told(self, index: Tensor, seed: int) -> list[Told]:
        """A caption for each of the pictures at these places [B], and what is known of what it says."""
        if isinstance(self._pictures, StillLife):
            return self._pictures.told(index, seed, clear=self._clear)
        return [replace(NOTHING, text=caption) for caption in self._pictures.captions(index, seed)]

    def _own(self, count: int, generator: torch.Generator) -> tuple[int, Tensor]:
        """How many of a batch are states of walks, and which."""
        if self._walks is None:
            return 0, torch.zeros(0, dtype=torch.int64)
        own = min(max(1, round(self._walked * count)), count - 1)
        return own, torch.randint(len(self._walks), (own,), generator=generator)

    @torch.no_grad()
    def _as_before(self, x0: Tensor, x: Tensor, sigma: Tensor, told: Conditioning, own: int) -> Tensor:
        """x0 [B z h w], and where it is held what the denoiser made of x [B z h w] before it learned; they are told
        what follows the first `own` rows.
        """
        rows = (sigma > self._held).nonzero()[:, 0]
        if self._before is None or len(rows) == 0:
            return x0
        return x0.index_copy(0, rows, self._before(x[rows], sigma[rows], told.at(own + rows)))


@contextmanager
def _outputs_of(module: nn.Module | None) -> Generator[list[Tensor]]:
    """Collects what a module, if any, returns in here."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept.append(output)

    hook = None if module is None else module.register_forward_hook(keep)
    try:
        yield kept
    finally:
        if hook is not None:
            hook.remove()
