"""The classifier's stage: what it counts, what it takes for granted, what it leaves open, and where it ends up."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mezzotint.denoise.classifier import Classifier, init_for_training
from mezzotint.noise.schedule import NoiseSchedule
from mezzotint.store.folder import Parts, load_folder, save_folder
from mezzotint.training.classifier import ClassifierTask, counts, prior_of, trained
from mezzotint.training.data import StillLife
from mezzotint.training.recipe import Recipe
from mezzotint.training.recipes import changed, debug
from mezzotint.training.run import Run
from mezzotint.training.settings import STILL_LIFE
from mezzotint.training.stages import carry_out
from mezzotint.types import UserError
from mezzotint.vae.codec import Codec
from mezzotint.world.scene import Scene, Solid, gather

SMALL = replace(STILL_LIFE, widths=(16,), blocks=(2,), heads=2, norm_num_groups=4)


def recipe(*settings: str) -> Recipe:
    small = ("scenes=12", "size=16", "clip.patch=8", "vae.crop=16", "decoder.crop=16")
    return changed(debug(), [*small, "classifier.fit.images=16", *settings])


def test_counts_in_closed_form():
    solids = (Solid("cube", "red"), Solid("cube", "blue"), Solid("cone", "red"))
    scenes = gather([Scene(solids)])
    found = counts(scenes, STILL_LIFE)[0]
    assert int(found[0, 0]) == 3
    cube, cone, red, blue = 2, 4, 1, 6
    assert found[cube].tolist() == [2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert (int(found[cone, 0]), int(found[cone, red]), int(found[cone, blue])) == (1, 1, 0)
    assert (int(found[0, red]), int(found[0, blue])) == (2, 1)
    assert int(found.sum()) == 3 * 4  # Each solid by its shape, its colour, both and neither.


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> StillLife:
    return StillLife(tmp_path_factory.mktemp("data"), 24, 16)


def test_the_prior_is_how_often_it_is_so(pictures: StillLife):
    prior, seen = prior_of(pictures, SMALL)
    solids = [len(pictures.scene(place).solids) for place in range(24)]
    for number in (1, 2, 3, 4):
        expected = math.log(solids.count(number) + 0.5) - math.log(0.5)  # No scene is empty.
        assert float(prior[0, 0, number - 1]) == pytest.approx(expected)
    assert not bool(seen[1, 5])  # Cyan spheres are kept out of training.
    assert bool(prior.isfinite().all())
    rare = min(float(prior[s, k, 0]) for s in range(1, 7) for k in range(1, 11) if seen[s, k])
    assert float(prior[1, 5, 0]) >= rare


def a_task(tiny_parts: Parts, pictures: StillLife) -> ClassifierTask:
    prior, seen = prior_of(pictures, SMALL)
    torch.manual_seed(0)
    classifier = Classifier(SMALL)
    init_for_training(classifier, prior)
    return ClassifierTask(classifier, Codec(tiny_parts.vae), pictures, NoiseSchedule(), seen)


def test_at_first_it_is_as_surprised_as_the_prior(tiny_parts: Parts, pictures: StillLife):
    task = a_task(tiny_parts, pictures)
    index = torch.arange(24)
    loss, figures = task.loss(index, torch.Generator().manual_seed(0))
    prior, seen = prior_of(pictures, SMALL)
    answers = torch.cat([torch.zeros_like(prior[..., :1]), prior], dim=2).log_softmax(dim=2)
    truth = counts(pictures.unmirrored(index), SMALL)
    surprise = -answers.expand(24, -1, -1, -1).gather(3, truth[..., None])[..., 0]
    expected = (surprise * seen).flatten(1).sum(dim=1).mean() / 18
    assert float(loss.detach()) - 3.0 * float(figures["segment"]) == pytest.approx(float(expected), rel=1e-5)


def test_everything_learns_but_what_was_never_seen(tiny_parts: Parts, pictures: StillLife):
    """The pair's own weights of cyan spheres stay zero, so it is what is known of cyan and of spheres."""
    task = a_task(tiny_parts, pictures)
    classifier = trained(task.network)
    for step in range(2):  # At the first step all but the last layers stand behind zeros.
        loss, _ = task.loss(torch.arange(8), torch.Generator().manual_seed(step))
        task.network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in task.network.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad
    loss, _ = task.loss(torch.arange(8), torch.Generator().manual_seed(2))
    loss.backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in task.network.parameters() if parameter.dim() > 1)
    weight = classifier.pair.weight.detach().unflatten(0, (4, 7, 11))
    assert not bool(weight[:, 1, 5].any())
    assert bool(weight[:, 0, 0].any())


def test_a_model_is_given_a_classifier(tiny_parts: Parts, tmp_path: Path):
    """`train classifier --start MODEL`, then `train assemble --start MODEL`: the rest of the model stays as it is."""
    save_folder(tiny_parts, tmp_path / "before", card="# tiny\n", dtype=torch.float16)
    run = Run(recipe(), tmp_path / "run", "debug", start=tmp_path / "before")
    assert carry_out(run, "classifier") == tmp_path / "run" / "classifier"
    model = carry_out(Run(recipe(), tmp_path / "run", "debug", start=tmp_path / "before"), "assemble")
    before, after = json.loads((tmp_path / "before" / "mezzotint.json").read_text()), json.loads(
        (model / "mezzotint.json").read_text()
    )  # fmt: skip
    assert after["sha256"].items() > before["sha256"].items()
    assert after["recipe"]["classifier"]["fit"]["images"] == 16
    assert {name: after[name] for name in ("name", "sizes", "defaults")} == {
        name: before[name] for name in ("name", "sizes", "defaults")
    }
    assert (model / "README.md").read_text() == "# tiny\n"
    parts = load_folder(model)
    assert parts.classifier is not None
    classifier = parts.classifier()
    assert classifier.config == recipe().classifier.network
    assert bool(classifier(torch.zeros(1, 4, 2, 2), torch.ones(1)).isfinite().all())
    # Fine-tuning the U-Net keeps it.
    again = Run(recipe("unet.fit.images=8"), tmp_path / "tuned", "debug", start=model)
    tuned = load_folder(carry_out(again, "all"))
    assert tuned.classifier is not None
    assert torch.equal(tuned.classifier().prior, classifier.prior)


def test_it_does_not_learn_from_pictures_that_nobody_knows(tmp_path: Path, tiny_folder: Path):
    from PIL import Image

    (tmp_path / "data").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "a.txt").write_text("a square")
    run = Run(recipe(), tmp_path / "run", "debug", pictures_from=tmp_path / "data", start=tiny_folder)
    with pytest.raises(UserError, match="without --data"):
        carry_out(run, "classifier")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("classifier.network.in_channels=3", "classifier reads 3 channels"),
        ("classifier.focus=2", "focus is 2"),
        ("classifier.network.colours=(('mauve',),)", "leave its words"),
        ("classifier.network.widths=(8, 9)", "widths"),
    ],
)
def test_settings_that_cannot_be(setting: str, said: str):
    with pytest.raises(UserError, match=said):
        changed(debug(), [setting])


def test_an_older_run_s_recipe_has_no_classifier():
    values = json.loads(json.dumps(debug().to_dict()))
    assert Recipe.from_dict(values) == debug()
    del values["classifier"]
    assert Recipe.from_dict(values).unet == debug().unet
