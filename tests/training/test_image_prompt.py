"""A model that learned to read pictures as prompts, from the recipe to the picture."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import mezzotint
from mezzotint.cli import main
from mezzotint.conditioning import CLIPVisionConfig, CLIPVisionModel
from mezzotint.conditioning.image_prompt import (
    APART,
    WHOLE,
    PerToken,
    PictureConditioner,
    Resampler,
    ResamplerConfig,
)
from mezzotint.conditioning.text import TextConditioner
from mezzotint.store.image_prompt import save_image_prompts, stored_in
from mezzotint.store.inspect import inspect
from mezzotint.store.png import read_provenance
from mezzotint.text.tokenizer import Tokenizer
from mezzotint.training.data import Folder, StillLife
from mezzotint.training.fit import read_log
from mezzotint.training.image_prompt import PicturePrompts, SayingTask
from mezzotint.training.run import load_clip
from mezzotint.types import ImagePrompt, Request, UserError
from mezzotint.world.captions import up_to

SIZE, PROMPT = 32, "a red ball"
MUCH = 30.0
"""A weight at which it shows what was learned: so little is that it might round away at 1."""


@pytest.fixture(scope="module")
def model(debug_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug recipe's model, a little taught to read pictures."""
    run = shutil.copytree(debug_run, tmp_path_factory.mktemp("runs") / "x")
    settings = ["--out", str(run), "--processes", "1"]
    assert main(["train", "image_prompt", "debug", "images=96", "lr=2e-2", "ema=0", *settings]) == 0
    assert main(["train", "assemble", "debug", *settings]) == 0
    return run / "model"


@pytest.fixture(scope="module")
def pipe(model: Path) -> mezzotint.Pipeline:
    return mezzotint.load(model)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.effect_noise((40, 30), 90).convert("RGB"), Image.new("RGB", (SIZE, SIZE), "red")]


def what_is_left(task: SayingTask, reader: PictureConditioner, index: Tensor, steps: int, lr: float) -> float:
    """The share of a task's loss on the pictures at these places that is left after so many steps on them."""
    optimiser = torch.optim.AdamW(reader.projection.parameters(), lr=lr)
    losses: list[float] = []
    for _ in range(steps):
        loss, _ = task.loss(index, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[-1] / losses[0]


def test_patches_learn_to_say_what_stands_there(debug_run: Path, tmp_path: Path) -> None:
    text = load_clip(debug_run / "clip").text_encoder()
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=SIZE, patch_size=8, **sizes))
    conditioner = TextConditioner(Tokenizer.from_folder(debug_run / "clip" / "tokenizer"), text)
    torch.manual_seed(0)
    reads = PerToken(tower.config.hidden_size, text.config.hidden_size)
    reader = PictureConditioner(tower, reads, looks=APART)
    still_life = StillLife(tmp_path, 16, SIZE)
    task, index = SayingTask(reader, conditioner, still_life), torch.arange(16)
    before = [parameter.clone() for parameter in tower.parameters()]
    assert what_is_left(task, reader, index, steps=400, lr=3e-3) < 0.5
    assert all(torch.equal(old, new) for old, new in zip(before, tower.parameters(), strict=True))
    # What was learned are the words' own tokens, where they stand: a patch says its solid's rather than another's.
    patches = tower.config.num_patches
    with torch.no_grad():
        said = reader(still_life.pixels(index))
    assert said.shape[1] == 1 + patches
    right = total = 0
    _, _, shares = still_life.cells(index, math.isqrt(patches))
    for row, place in enumerate(index.tolist()):
        scene = still_life.scene(place)
        told = conditioner([up_to(scene, solid) for solid in scene.solids]).sequence
        assert told is not None
        ends = [len(conditioner.tokenizer.ids(up_to(scene, solid))) for solid in scene.solids]
        words = told[torch.arange(len(ends)), ends]
        share, owner = shares[row].flatten(1).max(dim=0)
        for patch in (share > 0.6).nonzero()[:, 0].tolist() if len(words) > 1 else []:
            right += int(torch.cdist(said[row, [1 + patch]], words).argmin() == owner[patch])
            total += 1
    assert total > 8
    assert right > 0.8 * total, (right, total)


def test_where_nobody_knows_what_stands_where_the_caption_is_said(debug_run: Path, tmp_path: Path) -> None:
    clip = load_clip(debug_run / "clip")
    text, tower = clip.text_encoder(), clip.image_encoder()
    conditioner = TextConditioner(Tokenizer.from_folder(debug_run / "clip" / "tokenizer"), text)
    for name, colour in (("a red ball", "red"), ("a blue cube", "blue")):
        Image.new("RGB", (SIZE, SIZE), colour).save(tmp_path / f"{colour}.png")
        (tmp_path / f"{colour}.txt").write_text(name)
    torch.manual_seed(0)
    reader = PictureConditioner(tower, PerToken(tower.config.hidden_size, text.config.hidden_size))
    folder = Folder(tmp_path, SIZE)
    task = SayingTask(reader, conditioner, folder)
    assert what_is_left(task, reader, torch.arange(2), steps=60, lr=1e-2) < 0.1
    with torch.no_grad():
        said = reader(folder.pixels(torch.arange(2))).mean(dim=1)
        told = conditioner(folder.captions(torch.arange(2), 0)).sequence
    assert told is not None
    ends = [len(conditioner.tokenizer.ids(text)) for text in folder.captions(torch.arange(2), 0)]
    assert torch.cdist(said, told[torch.arange(2), ends]).argmin(dim=1).tolist() == [0, 1]


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


def test_pictures_count_as_much_as_their_weight_says(pipe: mezzotint.Pipeline, pictures: list[Image.Image]) -> None:
    plain = pipe(PROMPT, seed=1)
    one, other = pictures
    first, second = (one, MUCH), (other, MUCH)
    given: list[Any] = [first, [second], (one, MUCH / 2), [first, second], [(one, MUCH / 3), (other, 2 * MUCH)], one]
    drawn = [pipe(PROMPT, seed=1, image_prompt=prompt) for prompt in given]
    assert len({image.tobytes() for image in drawn}) == len(given)
    assert plain.tobytes() not in {image.tobytes() for image in drawn[:-1]}
    assert pipe(PROMPT, seed=1, image_prompt=(one, 1.0)).tobytes() == drawn[-1].tobytes()
    assert pipe(PROMPT, seed=1, image_prompt=(one, 0)).tobytes() == plain.tobytes()
    assert difference(pipe(PROMPT, seed=1, image_prompt=[second, first]), drawn[3]) <= 1
    # In one loop with others and with none each is what it is alone.
    together = pipe([PROMPT, *(pipe.request(PROMPT, seed=1, image_prompt=prompt) for prompt in given)], seed=None)
    assert all(difference(alone, image) <= 1 for alone, image in zip(drawn, together[1:], strict=True))


def test_with_the_other_modes(pipe: mezzotint.Pipeline, model: Path, pictures: list[Image.Image]) -> None:
    shape = Image.new("L", (SIZE, SIZE))
    shape.paste(255, (0, 0, 24, SIZE))
    much = [(picture, MUCH) for picture in pictures]
    modes: list[dict[str, Any]] = [
        {"image": pictures[1], "strength": 0.5},
        {"image": pictures[1], "mask": shape},
        {"guide": ("pag:3",)},
        {"guide": (f"auto:{model}:3",)},
        {"negative": "a cube", "exact": True},
        {"prompt": f"{PROMPT} AND a blue cube:0.5"},
        {"width": 96, "height": 96},
        {"width": 96, "height": 96, "upscale": "tiles"},
        {"width": 96, "height": 96, "upscale": "dilated"},
    ]
    for fields in modes:
        prompt = fields.pop("prompt", PROMPT)
        plain, shown = (pipe(prompt, seed=1, steps=3, image_prompt=given, **fields) for given in ([], much))
        assert plain.size == shown.size
        assert difference(plain, shown) > 0, fields


def test_from_the_command_line_and_again(
    model: Path, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures[0].save("a.png")
    pictures[1].save("b:2.png")
    asked = ["generate", "", "--model", str(model), "--seed", "3", "--device", "cpu"]
    assert main([*asked, "--image-prompt", "a.png:0.7", "--image-prompt", "b:2.png"]) == 0
    provenance = read_provenance(tmp_path / "out.png")[1]
    assert [ImagePrompt.parse(text).weight for text in provenance.request.image_prompt] == [0.7, 1.0]
    files = [Path(name).name for name in provenance.extras]
    assert files == ["ip-adapter.safetensors", "config.json", "model.safetensors", "a.png", "b:2.png"]
    assert main(["reproduce", "out.png"]) == 0
    Path("a.png").rename("moved.png")
    assert main(["reproduce", "out.png"]) == 2
    assert main(["reproduce", "out.png", "--image-prompt", "moved.png:0.7", "--image-prompt", "b:2.png"]) == 0
    Path("moved.png").rename("a.png")
    assert main([*asked, "--image-prompt", "none.png"]) == 2
    assert main([*asked, "--image-prompt", "a.png:nan"]) == 2
    # Another model of the same shape reads by this one's adapter.
    adapter = str(model / "image_prompt")
    assert main([*asked, "--image-prompt", "a.png", "--image-adapter", adapter, "-o", "again.png"]) == 0
    assert read_provenance(tmp_path / "again.png")[1].request.image_adapter == adapter
    elsewhere = shutil.copytree(adapter, tmp_path / "elsewhere")
    assert main(["reproduce", "again.png", "--image-adapter", str(elsewhere)]) == 0


def test_a_single_file_keeps_it(
    model: Path, pipe: mezzotint.Pipeline, pictures: list[Image.Image], tmp_path: Path
) -> None:
    file, back = tmp_path / "x.safetensors", tmp_path / "back"
    assert main(["convert", str(model), str(file), "--to", "single-file"]) == 0
    assert main(["convert", str(file), str(back), "--to", "diffusers"]) == 0
    expected = pipe(PROMPT, seed=1, image_prompt=pictures)
    for path in (file, back):
        assert mezzotint.load(path)(PROMPT, seed=1, image_prompt=pictures).tobytes() == expected.tobytes()
        assert "image_prompt" in inspect(path)["parts"]
    assert inspect(file)["unused_keys"] == []


def test_an_image_tower_for_a_model_that_has_none(debug_run: Path, tmp_path: Path) -> None:
    """The text tower stays what it is; then pictures are learned to be read, and the model is what it was beside."""
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(debug_run / "model", start)
    settings = ["--out", str(run), "--start", str(start), "--processes", "1"]
    assert main(["train", "image_prompt", "debug", *settings]) == 2
    assert main(["train", "clip", "debug", *settings]) == 0
    text = mezzotint.load(start).conditioner.text_model  # pyright: ignore[reportAttributeAccessIssue]
    own = load_clip(run / "clip").text_encoder()
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), text.parameters(), strict=True))
    assert main(["train", "image_prompt", "debug", "lr=1e-2", *settings]) == 0
    assert main(["train", "assemble", "debug", "--out", str(run), "--processes", "1"]) == 0
    stored = stored_in(run / "model" / "image_prompt")
    assert stored is not None
    tower = load_clip(run / "clip").vision_model.state_dict()
    kept = stored.conditioner().tower.vision_model.state_dict()
    moved = {name for name, tensor in tower.items() if not torch.allclose(kept[name], tensor, atol=1e-3)}
    assert "embeddings.patch_embedding.weight" in moved  # It learns along, but for the last block, which is not read.
    assert not any(name.startswith(("encoder.layers.0.", "post_layernorm.")) for name in moved)
    assert mezzotint.load(run / "model")(PROMPT, seed=1).tobytes() == mezzotint.load(start)(PROMPT, seed=1).tobytes()


def test_a_model_begun_from_goes_on_from_how_it_reads_pictures(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin, settings = ["train", "image_prompt", "debug"], ["--start", str(model), "--processes", "1", "--out"]
    assert main([*begin, "images=0", *settings, str(run)]) == 0
    assert not (run / "image_prompt" / "words").exists()
    before, after = stored_in(model / "image_prompt"), stored_in(run / "image_prompt")
    assert before is not None
    assert after is not None
    unet = mezzotint.load(model).denoiser.unet
    for kept, known in ((after.conditioner(), before.conditioner()), (after.layers(unet), before.layers(unet))):
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), known.parameters(), strict=True))
    assert main([*begin, "images=32", *settings, str(tmp_path / "further")]) == 0
    assert after.conditioner().looks == APART
    further = stored_in(tmp_path / "further" / "image_prompt")
    assert further is not None
    for kept, known in (
        (further.conditioner().projection, before.conditioner().projection),
        (further.conditioner().tower, before.conditioner().tower),
        (further.layers(unet), before.layers(unet)),
    ):
        assert not all(torch.equal(a, b) for a, b in zip(kept.parameters(), known.parameters(), strict=True))


def resampler(embed_dim: int, output_dim: int) -> ResamplerConfig:
    return ResamplerConfig(embed_dim=embed_dim, width=16, output_dim=output_dim, heads=1)


def test_a_resampler_goes_on_as_it_is(model: Path, tmp_path: Path) -> None:
    start, run = shutil.copytree(model, tmp_path / "start"), tmp_path / "run"
    (start / "mezzotint.json").unlink()  # It has the sums of what is another now.
    own = stored_in(model / "image_prompt")
    assert own is not None
    unet = mezzotint.load(model).denoiser.unet
    tower = own.conditioner().tower
    reads = Resampler(resampler(tower.config.hidden_size, unet.config.cross_attention_dim))
    save_image_prompts(PictureConditioner(tower, reads), own.layers(unet), start / "image_prompt")
    given = ["--start", str(start), "--processes", "1", "--out", str(run)]
    assert main(["train", "image_prompt", "debug", "images=8", *given]) == 0
    after = stored_in(run / "image_prompt")
    assert after is not None
    reader = after.conditioner()
    assert isinstance(reader.projection, Resampler)
    assert reader.looks == (WHOLE,)
    assert alike(reader.tower, tower)


def test_all_of_the_tower_that_is_read_learns_along(debug_run: Path, tmp_path: Path) -> None:
    """Though it was fixed while its tokens learned to say words; not the last block and the projection."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower = CLIPVisionModel(CLIPVisionConfig(image_size=SIZE, patch_size=8, projection_dim=8, **sizes))
    still_life = StillLife(tmp_path, 2, SIZE)
    for projection, learns in ((PerToken(32, 16), True), (Resampler(resampler(32, 16)), False)):
        reader = PictureConditioner(tower, projection)
        tokenizer = Tokenizer.from_folder(debug_run / "clip" / "tokenizer")
        conditioner = TextConditioner(tokenizer, load_clip(debug_run / "clip").text_encoder())
        SayingTask(reader, conditioner, still_life)
        assert not any(parameter.requires_grad for parameter in tower.parameters())
        tokens, _, _ = PicturePrompts(reader, still_life, 0.0)(torch.arange(2), torch.Generator().manual_seed(0))
        (tokens * torch.randn(tokens.shape)).sum().backward()
        moved = {name for name, parameter in tower.named_parameters() if parameter.grad is not None}
        unread = ("vision_model.encoder.layers.1.", "vision_model.post_layernorm.", "visual_projection.")
        read = {name for name, _ in tower.named_parameters() if not name.startswith(unread)}
        assert moved == (read if learns else set())
        assert all(parameter.grad is not None for parameter in projection.parameters())
        tower.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("setting", "goes_on"), [("fit.seed=1", True), ("projection=8", True), ("patch=16", False)])
def test_an_image_tower_goes_on_where_it_has_these_sizes(
    model: Path, tmp_path: Path, pictures: list[Image.Image], setting: str, goes_on: bool
) -> None:
    settings = ["--start", str(model), "--processes", "1", "--out", str(tmp_path)]
    assert main(["train", "clip", "debug", setting, "images=0", *settings]) == 0
    before = stored_in(model / "image_prompt")
    assert before is not None
    tower, known = load_clip(tmp_path / "clip").vision_model, before.conditioner().tower.vision_model
    assert alike(tower, known) == goes_on
    assert main(["train", "image_prompt", "debug", "images=0", "words.images=0", *settings]) == 0
    assert main(["train", "assemble", "debug", *settings]) == 0
    mezzotint.load(tmp_path / "model")(PROMPT, image_prompt=pictures[0])


@pytest.mark.parametrize("said", [0, 8])
def test_what_reads_a_tower_of_the_run_goes_on_if_nothing_is_to_be_said(model: Path, tmp_path: Path, said: int) -> None:
    settings = ["--start", str(model), "--processes", "1", "--out", str(tmp_path)]
    assert main(["train", "clip", "debug", "images=32", *settings]) == 0
    assert main(["train", "image_prompt", "debug", "images=0", f"words.images={said}", *settings]) == 0
    before, after = stored_in(model / "image_prompt"), stored_in(tmp_path / "image_prompt")
    assert before is not None
    assert after is not None
    assert not alike(after.conditioner().tower, before.conditioner().tower)
    assert alike(after.conditioner().projection, before.conditioner().projection) == (said == 0)
    assert (tmp_path / "image_prompt" / "words").exists() == (said > 0)


def alike(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(a.shape == b.shape and torch.allclose(a, b, atol=2e-3) for a, b in pairs)


@pytest.mark.parametrize(("segment", "figures"), [(0.0, set[str]()), (2.0, {"segment"})])
def test_image_prompts_name_what_stands_where(
    debug_run: Path, tmp_path: Path, segment: float, figures: set[str]
) -> None:
    run = shutil.copytree(debug_run, tmp_path / "x")
    asked = ["words.images=0", "images=8", f"segment={segment}", "--out", str(run), "--processes", "1"]
    assert main(["train", "image_prompt", "debug", *asked]) == 0
    assert set(next(iter(read_log(run / "image_prompt")))) & {"segment"} == figures


def test_damaged_weights_are_told_when_they_are_asked_for(
    model: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    file = copy / "image_prompt" / "ip-adapter.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\x00\x3c\x00\x3c")
    pipe = mezzotint.load(copy)
    pipe(PROMPT, seed=1)
    with pytest.raises(UserError, match=r"ip-adapter\.safetensors is damaged"):
        pipe(PROMPT, image_prompt=pictures[0])


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [("a.png", "a.png", 1.0), ("a.png:0.5", "a.png", 0.5), ("a:b.png", "a:b.png", 1.0), ("a:2:3", "a:2", 3.0)],
)
def test_how_a_picture_and_its_weight_are_written(text: str, name: str, weight: float) -> None:
    parsed = ImagePrompt.parse(text)
    assert (parsed.name, parsed.weight) == (name, weight)
    assert ImagePrompt.parse(str(parsed)) == parsed


def test_what_is_no_image_prompt(pipe: mezzotint.Pipeline, pictures: list[Image.Image]) -> None:
    for text in (":0.5", "a.png:inf", "a.png:-1", "a.png:101"):
        with pytest.raises(UserError, match="image prompt"):
            Request(image_prompt=(text,))
    with pytest.raises(UserError, match="a picture and its weight"):
        pipe(PROMPT, image_prompt=[(pictures[0], "much")])
    with pytest.raises(UserError, match="given in memory"):
        pipe(Request(prompt=PROMPT, image_prompt=("memory:0123456789012345:0.5",)))
