"""Everything a user can get wrong: one sentence on stderr, exit code 2, nothing on stdout, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mezzotint.cli import main

PROGRAM = Path(sys.executable).with_name("mezzotint")
PROMPT = "a red sphere"

BEFORE_LOADING = {
    "an empty prompt": ([""], "no word"),
    "an empty prompt in a certain schedule": (["", "--schedule", "karras"], "no word"),
    "a prompt of blanks": (["  \t "], "no word"),
    "a prompt of emoji": (["🟥🟦 🙂"], "no word"),
    "a prompt of signs": (["?!, ..."], "no word"),
    "a prompt of 10 000 characters": (["red " * 2500], "10000 characters"),
    "a negative of 10 000 characters": ([PROMPT, "--negative", "x" * 10_000], "10000 characters"),
    "an unknown sampler": ([PROMPT, "--sampler", "eular"], "euler"),
    "negative steps": ([PROMPT, "--steps", "-4"], "steps"),
    "no steps": ([PROMPT, "--steps", "0"], "steps"),
    "half a step": ([PROMPT, "--steps", "2.5"], "whole number"),
    "a size of 7x9": ([PROMPT, "--size", "7x9"], "from 8 to 4096"),
    "a negative size": ([PROMPT, "--size=-8x8"], "from 8 to 4096"),
    "no size": ([PROMPT, "--size", "0x0"], "from 8 to 4096"),
    "a size that is none": ([PROMPT, "--size", "big"], "128x128"),
    "a size of three sides": ([PROMPT, "--size", "8x8x8"], "128x128"),
    "a size beyond all": ([PROMPT, "--size", "80000x80000"], "4096"),
    "guidance that is no number": ([PROMPT, "--guidance", "nan"], "guidance"),
    "guidance beyond all": ([PROMPT, "--guidance", "1e9"], "guidance"),
    "a negative seed": ([PROMPT, "--seed", "-1"], "seed"),
    "a seed that is none": ([PROMPT, "--seed", "seven"], "whole number"),
    "seeds that count beyond the last": ([PROMPT, "--seed", str(2**63 - 1), "-n", "2"], "seed"),
    "no pictures": ([PROMPT, "-n", "0"], "number of pictures"),
    "a dtype that is none": ([PROMPT, "--dtype", "float7"], "float32"),
    "no prompt": ([], "prompt"),
    "two prompts": ([PROMPT, "and", "more"], "and more"),
    "an unknown flag": ([PROMPT, "--stepz", "3"], "--stepz"),
    "half a flag": ([PROMPT, "--step", "3"], "--step"),
    "a missing model": ([PROMPT, "--model", "moving-life"], "There is no model 'moving-life'"),
    "a model that is a file": ([PROMPT, "--model", str(PROGRAM)], "neither safetensors nor"),
    "a folder that does not exist": ([PROMPT, "-o", "none/out.png"], "no folder"),
    "a folder for a name": ([PROMPT, "-o", "."], "is a folder"),
    "a folder for several": ([PROMPT, "-o", ".", "-n", "2"], "is a folder"),
    "previews where nothing is written": ([PROMPT, "--preview", "/proc"], "cannot be written"),
    "a file for a folder": ([PROMPT, "-o", "/dev/null/out.png"], "/dev/null"),
    "no kind of picture": ([PROMPT, "-o", "out.xyz"], ".png"),
    "a name without an end": ([PROMPT, "-o", "out"], ".png"),
}


@pytest.fixture
def here(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with nothing but a link to the tiny model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    return tmp_path


def assert_one_sentence(code: int, out: str, err: str, said: str, here: Path) -> None:
    assert code == 2
    assert out == ""
    assert err.startswith("mezzotint: ")
    assert said in err
    assert err.rstrip("\n").endswith((".", "`)."))
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert [path.name for path in here.iterdir() if path.name not in ("tiny", "model")] == []


def generate(arguments: list[str]) -> list[str]:
    """The arguments of `mezzotint generate` on the tiny model, unless they name another."""
    return ["generate", *arguments, *([] if "--model" in arguments else ["--model", "tiny"])]


@pytest.mark.parametrize(("arguments", "said"), BEFORE_LOADING.values(), ids=BEFORE_LOADING)
def test_bad_input_through_the_installed_program(here: Path, arguments: list[str], said: str):
    run = subprocess.run([PROGRAM, *generate(arguments)], capture_output=True, text=True, check=False)
    assert_one_sentence(run.returncode, run.stdout, run.stderr, said, here)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything is writable for root")
def test_a_folder_that_is_write_protected(here: Path, capsys: pytest.CaptureFixture[str]):
    (here / "model").mkdir(mode=0o555)
    code = main(generate([PROMPT, "-o", "model/out.png"]))
    assert_one_sentence(code, *capsys.readouterr(), "Permission denied", here)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody can write is needed")
def test_a_folder_that_nobody_can_write(here: Path, capsys: pytest.CaptureFixture[str]):
    code = main(generate([PROMPT, "-o", "/proc/out.png"]))
    assert_one_sentence(code, *capsys.readouterr(), "/proc/out.png cannot be written", here)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def overwrite(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-2000:-1000] = os.urandom(1000)
    file.write_bytes(bytes(data))


@pytest.mark.parametrize("spoil", [cut, overwrite, Path.unlink, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_corrupted_weights(here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], part: str, spoil):
    shutil.copytree(tiny_folder, here / "model")
    (file,) = (here / "model" / part).glob("*.safetensors")
    spoil(file)
    code = main(generate([PROMPT, "--model", "model"]))
    assert_one_sentence(code, *capsys.readouterr(), f"model/{part}", here)


def test_corrupted_weights_through_the_installed_program(here: Path, tiny_folder: Path):
    shutil.copytree(tiny_folder, here / "model")
    cut(here / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    run = subprocess.run(
        [PROGRAM, *generate([PROMPT, "--model", "model"])], capture_output=True, text=True, check=False
    )
    assert_one_sentence(run.returncode, run.stdout, run.stderr, "get it again", here)


@pytest.mark.parametrize("device", ["toaster", "cuda:99", "meta"])
def test_a_device_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str], device: str):
    code = main(generate([PROMPT, "--device", device]))
    assert_one_sentence(code, *capsys.readouterr(), device, here)


def test_a_picture_beyond_memory(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def decode(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("mezzotint.vae.codec.Codec.decode", decode)
    code = main(generate([PROMPT, "--device", "cpu"]))
    assert_one_sentence(code, *capsys.readouterr(), "does not fit into memory", here)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["paint"], "generate"),
        (["reproduce"], "picture"),
        (["reproduce", "none.png"], "no file"),
        (["reproduce", "tiny/model_index.json"], "not a picture"),
        (["inspect", "none"], "'none'"),
        (["inspect", "tiny/model_index.json"], "model_index.json"),
        (["inspect"], "path"),
        (["models", "--all"], "--all"),
        (["samplers", "all"], "all"),
    ],
)
def test_other_verbs(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str):
    assert_one_sentence(main(arguments), *capsys.readouterr(), said, here)


def test_stopping_is_no_error(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mezzotint.pipeline.Pipeline.steps", stop)
    assert main(generate([PROMPT])) == 130
    assert capsys.readouterr().err == "mezzotint: stopped.\n"
    assert [path.name for path in here.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"device": 7}, "device"),
        ({"dtype": [3]}, "dtype"),
        ({"dtype": "float7"}, "float7"),
        ({"threads": "two"}, "threads"),
        ({"weights": None}, "damaged"),
        ({"request": {"prompt": "a cube", "model": 7}}, "model"),
        ({"request": {"prompt": "a cube", "model": "~nobody-of-this-name"}}, "give --model"),
        ({"request": {"prompt": "a cube", "model": "tiny", "sampler": "eular"}}, "eular"),
        ({"request": {"prompt": "a cube", "model": "tiny", "seed": 1e400}}, "seed"),
        ({"request": 3}, "damaged"),
    ],
)
def test_a_record_of_the_wrong_types(tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], record, said: str):
    info = PngInfo()
    info.add_itxt("mezzotint", json.dumps({"request": {"prompt": "a cube", "model": "tiny"}, "weights": ""} | record))
    (here / "model").mkdir()
    Image.new("RGB", (16, 16)).save(here / "model" / "a.png", pnginfo=info)
    assert_one_sentence(main(["reproduce", "model/a.png"]), *capsys.readouterr(), said, here)
