"""Teach words and pictures to meet in one space: CLIP's contrastive loss (Radford et al. 2021, arXiv:2103.00020).

Contrast alone leaves a small text tower a bag of words: "a left of b" and "b left of a" stay one point. Where the
meaning of a caption is known, both towers also read the scene back out, solid by solid, which needs binding and order,
and the image tower names what stands in every patch; the read-out layers are left behind after training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mezzotint.conditioning.clip import CLIPModel, VisionOutput, normalise
from mezzotint.conditioning.clip_vision import without_colours
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.training import workers
from mezzotint.training.cells import NEVER, Cells
from mezzotint.training.data import Pictures, StillLife
from mezzotint.world.captions import Told
from mezzotint.world.scene import COLOURS, MATERIALS, MAX_OBJECTS, SHAPES, SIZES, Scene, Solid

ORDERS = ("any", "across", "deep")
ATTRIBUTES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "material": MATERIALS}
ALL_PLACES = 0.3
"""Share of the steps in which the padding after a caption may reach to the last place."""
CONTRAST = 0.2
"""Weight of the contrast where scenes are known, against that of reading them out of their captions."""
PATCHES = 2.0
"""Weight of naming what stands in every patch of a picture."""
PAIRED = {"shape": "colour", "colour": "shape"}
"""The attributes by which solids are told apart, of which some pairs may be in no picture."""
ABSENT, UNSAID = 0, 1
"""The first two classes of every attribute: no such solid, and a solid of which this was not said."""


class ReadOut(nn.Module):
    """From a tower's pooled output [B D] to what stands in each of four places: logits, attribute by attribute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, MAX_OBJECTS * (len(values) + 2)) for name, values in ATTRIBUTES.items()}
        )
        self.order = nn.Linear(width, len(ORDERS))

    def loss(self, pooled: Tensor, truth: dict[str, Tensor], seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over the attributes, and the share of solids [0, 1] read right in shape and colour.

        Pairs of shape and colour that are not `seen` [S K] are not learned to be impossible, as in `Cells`.
        """
        losses: list[Tensor] = []
        right = torch.ones_like(truth["shape"], dtype=torch.bool)
        for name, head in self.heads.items():
            logits = head(pooled).float().unflatten(1, (MAX_OBJECTS, -1))
            asked = logits
            if seen is not None and name in PAIRED:
                asked = logits.masked_fill(_never(truth[PAIRED[name]], seen if name == "colour" else seen.T), NEVER)
            losses.append(F.cross_entropy(asked.flatten(0, 1), truth[name].flatten()))
            if name in PAIRED:
                right &= logits.argmax(dim=2) == truth[name]
        if "order" in truth:
            losses.append(F.cross_entropy(self.order(pooled).float(), truth["order"]))
        solids = truth["shape"] != ABSENT
        return torch.stack(losses).mean(), (right & solids).sum() / solids.sum().clamp(min=1)


def _never(other: Tensor, seen: Tensor) -> Tensor:
    """[B 4 2+K] which classes never come with solids of these classes [B 4] of the other attribute, by pairs [J K]."""
    said = (other > UNSAID)[..., None]
    return F.pad(~seen[(other - 2).clamp(min=0)] & said, (2, 0))


def read_back(read_out: ReadOut, whole: Tensor, last: Tensor, truth: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of reading scenes out of what stands for a whole text [B D], and the share of solids read right.

    Its last place [B D] is asked half as loudly, because padding is read by cross-attention too.
    """
    loss, slots = read_out.loss(whole, truth)
    return loss + 0.5 * read_out.loss(last, truth)[0], slots


def truth_of(solids: Sequence[Sequence[Solid]]) -> dict[str, Tensor]:
    """Class indices [B 4] of every attribute for rows of up to four solids."""
    truth = {name: torch.zeros(len(solids), MAX_OBJECTS, dtype=torch.int64) for name in ATTRIBUTES}
    for row, some in enumerate(solids):
        for place, solid in enumerate(some):
            for name, values in ATTRIBUTES.items():
                value = getattr(solid, name)
                truth[name][row, place] = values.index(value) + 2 if value else UNSAID
    return truth


def truth_told(told: Sequence[Told]) -> dict[str, Tensor]:
    """What captions assert, in the order in which they place it."""
    truth = truth_of([t.solids for t in told])
    return {**truth, "order": torch.tensor([ORDERS.index(t.order) for t in told])}


def truth_seen(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """What pictures show, from left to right."""
    return truth_of([scene.left_to_right() for scene in scenes])


class _Trained(nn.Module):
    """The towers with their read-outs; `.clip` is the model."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.read_text = ReadOut(clip.config.text.hidden_size)
        self.read_image = ReadOut(clip.config.vision.hidden_size)
        self.patches = Cells(clip.config.vision.hidden_size, len(SHAPES), len(COLOURS))


class CLIPTask:
    """Contrast `1 / text_rows` of a batch's captions with their pictures, and read scenes back where they are known.

    Captions are cheap beside pictures, and the text tower decides what a U-Net can obey, so most rows are text alone.
    Where the text tower stays as it is, all are contrasted (Zhai et al. 2022, LiT, arXiv:2111.07991).
    """

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: Tokenizer,
        pictures: Pictures,
        *,
        text_rows: int = 4,
        fixed_text: bool = False,
        grey: float = 0.0,
    ) -> None:
        """`grey`: the share of a still life's pictures that are seen without colours, and asked for shapes alone."""
        self.network = _Trained(clip).to(clip.logit_scale.device)
        self._tokenizer, self._pictures, self._fixed_text = tokenizer, pictures, fixed_text
        known = isinstance(pictures, StillLife)
        self._rows = text_rows if known and not fixed_text else 1
        self._grey = grey if known else 0.0
        if fixed_text:
            clip.text_model.requires_grad_(False)
            self.network.read_text.requires_grad_(False)

    def __len__(self) -> int:
        return len(self._pictures)

    def loss(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Task.loss`."""
        network = self.network
        device = network.clip.logit_scale.device
        paired = index[: max(1, len(index) // self._rows)]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        with workers.agreed():  # Before the processes meet for the contrast: one may find a picture broken.
            pixels = self._pictures.pixels(paired).to(device)
        coloured = max(1, len(paired) - round(self._grey * len(paired)))
        # Made to sum to 1 these are even among all that do.
        shares = torch.empty(len(paired) - coloured, 3).exponential_(generator=generator)
        pixels[coloured:] = without_colours(pixels[coloured:], shares / shares.sum(dim=1, keepdim=True))
        vision = network.clip.vision_model(normalise(pixels), hidden_states=True)
        if not isinstance(self._pictures, StillLife):
            ids = self._ids(self._pictures.captions(index, seed)).to(device)
            text = network.clip.text_model(self._cut(ids, extra=1))
            loss, accuracy = self._contrast(network.clip, text.pooled, vision.pooled, paired, ids)
            return loss, {"retrieval": accuracy}
        patches = self._patches(vision, paired, coloured)
        if self._fixed_text:
            index = index[:coloured]
        paired, whole = paired[:coloured], vision.pooled[:coloured]
        told = self._pictures.told(index, seed)
        shown = truth_seen([self._pictures.scene(i) for i in paired.tolist()])
        truth = {name: value.to(device) for name, value in shown.items()}
        seen, seen_slots = network.read_image.loss(whole, truth, self._pictures.seen.to(device))
        loss = 0.5 * seen + PATCHES * patches
        figures = {"image_slots": seen_slots, "patches": patches.detach()}
        # Now and then all places, so that none stays as chance made it.
        most = self._tokenizer.length if float(torch.rand(1, generator=generator)) < ALL_PLACES else 5
        extra = int(torch.randint(1, most + 1, (1,), generator=generator))
        ids = self._ids([t.text for t in told]).to(device)
        text = network.clip.text_model(self._cut(ids, extra=extra))
        pooled, with_picture = text.pooled[: len(paired)], ids[: len(paired)]
        contrast, retrieval = self._contrast(network.clip, pooled, whole, paired, with_picture)
        loss, figures = loss + CONTRAST * contrast, {"retrieval": retrieval, **figures}
        if self._fixed_text:
            return loss, figures
        said = {name: value.to(device) for name, value in truth_told(told).items()}
        read, slots = read_back(network.read_text, text.pooled, text.last_hidden_state[:, -1], said)
        return loss + read, {**figures, "text_slots": slots}

    def _patches(self, vision: VisionOutput, index: Tensor, coloured: int) -> Tensor:
        """The loss of naming what stands in every patch, from the tokens before the last block: what adapters read.

        Of the first pictures, as many as are `coloured`, shapes and colours are asked, of the others shapes.
        """
        assert vision.hidden_states is not None
        tokens = vision.hidden_states[-2][:, 1:]
        side = math.isqrt(tokens.shape[1])
        assert isinstance(self._pictures, StillLife)
        truth = (part.to(tokens.device) for part in (*self._pictures.cells(index, side), self._pictures.seen))
        return self.network.patches.loss(tokens.transpose(1, 2).unflatten(2, (side, side)), *truth, coloured=coloured)

    def _ids(self, captions: Sequence[str]) -> Tensor:
        return torch.tensor(self._tokenizer.encode(captions))

    def _cut(self, ids: Tensor, *, extra: int) -> Tensor:
        """Token ids, cut to the longest caption and `extra` padding: later places cannot change earlier ones."""
        longest = int((ids != self._tokenizer.eos_id).sum(dim=1).max()) + 1
        return ids[:, : min(longest + extra, ids.shape[1])]

    @staticmethod
    def _contrast(clip: CLIPModel, text: Tensor, vision: Tensor, index: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The symmetric loss of pooled outputs [B D], and how often a picture finds its caption (figure 3).

        Each is told from those of all processes, but not from what is `alike` by its place [B] or its token ids [B L].
        """
        t, own = workers.gathered(F.normalize(clip.text_projection(text).float(), dim=-1))
        v, _ = workers.gathered(F.normalize(clip.visual_projection(vision).float(), dim=-1))
        same = alike(workers.gathered(index.to(ids.device))[0], workers.gathered(ids)[0])[own]
        scale = clip.logit_scale.clamp(max=4.6052).exp()
        captions, pictures = ((scale * a[own] @ b.T).masked_fill(same, -torch.inf) for a, b in ((t, v), (v, t)))
        truth = torch.arange(own.start, own.stop, device=t.device)
        loss = (F.cross_entropy(captions, truth) + F.cross_entropy(pictures, truth)) / 2
        return loss, (pictures.argmax(dim=1) == truth).float().mean()


def alike(index: Tensor, ids: Tensor) -> Tensor:
    """Which pairs [B B] of a batch show one picture (places [B]) or say the same (token ids [B L]), but for itself.

    A small collection meets itself within one batch, and the still life says "two red cubes" of many scenes.
    """
    picture = (index[:, None] == index).to(ids.device)
    caption = (ids[:, None] == ids).all(dim=2)
    return (picture | caption) & ~torch.eye(len(index), dtype=torch.bool, device=ids.device)
