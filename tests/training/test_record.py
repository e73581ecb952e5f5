"""What a run's folder says of itself binds what comes after; what is there already has to fit what comes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mezzotint.conditioning.clip_config import CLIPTextConfig
from mezzotint.denoise.config import UNetConfig
from mezzotint.training.recipe import Recipe
from mezzotint.training.recipes import changed, debug
from mezzotint.training.record import alone, begin, check_parts, recipe_of, recorded, settled
from mezzotint.training.run import Run
from mezzotint.training.stages import carry_out
from mezzotint.types import UserError
from mezzotint.vae.config import AutoencoderConfig
from mezzotint.vae.tiny_config import TinyAutoencoderConfig


def a_run(folder: Path, recipe: Recipe | None = None, stage: str = "vae", **told: Any) -> Run:
    """A run of which one stage has a checkpoint."""
    run = Run(debug() if recipe is None else recipe, folder, "debug")
    folder.mkdir(exist_ok=True)
    begin(run, [stage])
    path = folder / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    (folder / stage).mkdir()
    (folder / stage / "checkpoint.pt").touch()
    return run


def test_a_run_s_recipe_comes_before_the_named_one(tmp_path: Path):
    mine = changed(debug(), ["scenes=7", "name=mine", "unet.fit.images=48"])
    assert recorded(tmp_path) == {}
    assert recipe_of(tmp_path, "debug", mine) is mine
    a_run(tmp_path, mine)
    assert recipe_of(tmp_path, "debug", debug()) == mine
    with pytest.raises(UserError, match="another recipe"):
        recipe_of(tmp_path, "still-life-64", debug())


def test_a_run_that_was_stopped_before_its_first_checkpoint_is_resumed_as_it_was(tmp_path: Path):
    """Without --resume it binds nobody."""
    mine = changed(debug(), ["scenes=7"])
    begin(Run(mine, tmp_path, "debug", start=tmp_path / "model"), ["vae"])
    assert recipe_of(tmp_path, "debug", debug()) == debug()
    assert recipe_of(tmp_path, "debug", debug(), resume=True) == mine
    run = Run(mine, tmp_path, "debug", resume=True)
    assert settled(run, "vae").start == tmp_path / "model"
    assert settled(replace(run, resume=False), "vae").start is None
    other = replace(run, start=tmp_path / "other")  # It never began, so it may begin from another.
    assert settled(other, "vae").start == tmp_path / "other"


def test_a_stage_that_goes_with_one_that_is_gone(tmp_path: Path):
    run = a_run(tmp_path, stage="unet")
    with pytest.raises(UserError, match="unet goes with a vae that is gone"):
        carry_out(replace(run, resume=True), "all")


def test_an_older_run_says_less_of_itself(tmp_path: Path):
    """It names no recipe but by the model's name, and no pictures: those given are taken."""
    run = a_run(tmp_path)
    path = tmp_path / "recipe.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in told.items() if key not in ("recipe", "data", "start")}))
    assert recipe_of(tmp_path, "debug", replace(debug(), scenes=3)) == debug()
    given = replace(run, pictures_from=tmp_path, start=tmp_path, resume=True)
    assert settled(given, "vae") == given


def test_what_is_no_choice_any_more_is_passed_over(tmp_path: Path):
    run = a_run(tmp_path / "run")
    path = run.folder / "recipe.json"
    told = json.loads(path.read_text())
    told["image_prompt"] |= {"tokens": 32, "width": 192, "layers": 4, "heads": 3}
    path.write_text(json.dumps(told))
    assert recipe_of(run.folder, "debug", debug()) == run.recipe
    told["image_prompt"] |= {"colour": 1}
    path.write_text(json.dumps(told))
    with pytest.raises(UserError, match="wrong kind"):
        recipe_of(run.folder, "debug", debug())


def test_an_older_run_goes_on(tmp_path: Path):
    """What it does not say is what a recipe has by default."""
    run = a_run(tmp_path, stage="unet")
    path = tmp_path / "recipe.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in told.items() if key not in ("bert", "encoder")}))
    recipe = recipe_of(tmp_path, "debug", debug())
    begin(replace(run, recipe=recipe, resume=True), ["unet"])
    assert json.loads(path.read_text())["encoder"] == "clip"
    other = replace(recipe, encoder="bert", bert=debug().bert)
    with pytest.raises(UserError, match="other settings"):
        begin(replace(run, recipe=other, resume=True), ["unet"])


@pytest.mark.parametrize("setting", ["scenes=3", "tinted=0.5"])
def test_a_stage_goes_on_with_the_scenes_that_it_began_with(tmp_path: Path, setting: str):
    run = a_run(tmp_path, stage="vae")
    with pytest.raises(UserError, match="other settings"):
        begin(replace(run, recipe=changed(debug(), [setting]), resume=True), ["vae"])


def test_what_reads_the_texts_belongs_to_the_u_net(tmp_path: Path):
    """A later stage does not say of it what it is not."""
    run = a_run(tmp_path, changed(debug(), ["encoder=bert", "bert.read=0.5"]), stage="unet")
    begin(replace(run, recipe=debug()), ["decoder"])
    told = json.loads((tmp_path / "recipe.json").read_text())
    assert (told["encoder"], told["bert"]["read"]) == ("bert", 0.5)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"size": "large"}, {"vae": {"network": 3}}, {"defaults": 1}])
def test_a_recipe_that_is_damaged(tmp_path: Path, change: dict[str, Any]):
    a_run(tmp_path, **change)
    with pytest.raises(UserError, match=r"recipe\.json"):
        recipe_of(tmp_path, "debug", debug())


def test_another_start_is_refused(tmp_path: Path):
    run = a_run(tmp_path, start={"vae": str(tmp_path / "model")})
    assert settled(run, "vae").start == tmp_path / "model"
    assert settled(run, "clip").start is None  # Each stage began from its own.
    with pytest.raises(UserError, match=r"was begun from .*model"):
        settled(replace(run, start=tmp_path), "vae")


def parts(**changes: Any) -> Any:
    """A model to begin from, as far as its shapes go."""
    values = {"latent_channels": 4, "in_channels": 4, "cross_attention_dim": 32, "hidden_size": 32, **changes}
    network = debug().unet.network
    vae = AutoencoderConfig.of_widths(
        *(8,) * values.get("levels", 4),
        norm_num_groups=4,
        latent_channels=values["latent_channels"],
        use_quant_conv=values.get("use_quant_conv", True),
    )
    unet: UNetConfig = replace(
        network, in_channels=values["in_channels"], cross_attention_dim=values["cross_attention_dim"]
    )
    text = CLIPTextConfig(hidden_size=values["hidden_size"])
    return SimpleNamespace(
        vae=SimpleNamespace(config=vae), unet=SimpleNamespace(config=unet), text_encoder=SimpleNamespace(config=text)
    )


@pytest.mark.parametrize(
    ("changes", "stages", "said"),
    [
        ({"in_channels": 9}, ["unet"], "takes 9 channels"),
        ({"latent_channels": 16}, ["unet"], "latents have 16"),
        ({"cross_attention_dim": 64}, ["unet"], "tokens 64 wide"),
        ({"levels": 7}, ["unet"], "multiple of 64"),
        ({"use_quant_conv": False}, ["vae"], "without --start"),
    ],
)
def test_a_model_to_begin_from_has_to_fit(tmp_path: Path, changes: dict[str, Any], stages: list[str], said: str):
    run = Run(debug(), tmp_path, "debug", start=tmp_path)
    vars(run)["parts"] = parts()
    check_parts(run, stages)
    vars(run)["parts"] = parts(**changes)
    with pytest.raises(UserError, match=said):
        check_parts(run, stages)


def test_a_tiny_autoencoder_is_not_trained(tmp_path: Path):
    run = Run(debug(), tmp_path, "debug", start=tmp_path)
    begun = parts()
    begun.vae.config = TinyAutoencoderConfig()
    vars(run)["parts"] = begun
    check_parts(run, ["unet"])
    for stages in (["vae"], ["decoder"], ["vae", "decoder"]):
        with pytest.raises(UserError, match="is tiny, which is not trained"):
            check_parts(run, stages)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps(debug().vae.network.to_dict()))
    check_parts(run, ["decoder"])  # That of the run, which is not tiny.


def test_finished_stages_have_to_fit(tmp_path: Path):
    run = Run(changed(debug(), ["clip.width=64", "unet.network.cross_attention_dim=64"]), tmp_path, "debug")
    check_parts(run, ["unet"])
    (tmp_path / "clip").mkdir()
    text = {"hidden_size": 32, "num_attention_heads": 2}
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"text_config": text}))
    with pytest.raises(UserError, match="the text encoder's are 32 wide"):
        check_parts(run, ["unet"])
    check_parts(run, ["clip", "unet"])  # Where it is trained again it will fit.


def test_one_process_trains_in_a_folder(tmp_path: Path):
    with (
        alone(tmp_path / "a" / "run"),
        pytest.raises(UserError, match="Another process trains"),
        alone(tmp_path / "a/run"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # Nothing was trained, so nothing is left.
    with alone(tmp_path / "run"):
        (tmp_path / "run" / "recipe.json").touch()
    assert (tmp_path / "run").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), alone(tmp_path / "file" / "run"):
        pass


def test_a_run_is_carried_out_by_one_process(tmp_path: Path):
    run = Run(debug(), tmp_path / "run", "debug")
    with alone(run.folder), pytest.raises(UserError, match="Another process trains"):
        carry_out(run, "vae")


def test_a_stage_in_its_first_half_was_begun(tmp_path: Path):
    run = a_run(tmp_path, stage="image_prompt")
    (tmp_path / "image_prompt" / "words").mkdir()
    (tmp_path / "image_prompt" / "checkpoint.pt").rename(tmp_path / "image_prompt" / "words" / "checkpoint.pt")
    assert run.begun("image_prompt")
    assert recorded(tmp_path) != {}
    with pytest.raises(UserError, match="was begun before"):
        begin(run, ["image_prompt"])
