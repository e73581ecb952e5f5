"""Pictures and what they carry."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mezzotint.store.checksum import FileSum
from mezzotint.store.png import Provenance, a1111_text, read_provenance, write_picture, write_plain
from mezzotint.types import Request, UserError

REQUEST = Request(
    prompt="a red sphere, left of\na blue cube 🟦", negative="lumps", seed=2**63 - 1, guidance=3.5, width=16
)
PROVENANCE = Provenance(request=REQUEST, weights="0123456789abcdef", made_with={"mezzotint": "0.1", "device": "cpu"})


@pytest.fixture
def image() -> Image.Image:
    return Image.frombytes("RGB", (4, 3), bytes(range(36)))


def test_a_png_carries_its_request(tmp_path: Path, image: Image.Image):
    path = tmp_path / "a.png"
    write_picture(image, path, PROVENANCE)
    again, provenance = read_provenance(path)
    assert again.tobytes() == image.tobytes()
    assert provenance == PROVENANCE
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


texts = st.text(st.characters(exclude_categories=()), max_size=60)  # Half of a surrogate pair too.


@given(prompt=texts, negative=texts, seed=st.integers(0, 2**63 - 1), guidance=st.floats(0, 100))
@settings(max_examples=30, deadline=None)
def test_every_request_comes_back(tmp_path_factory, prompt: str, negative: str, seed: int, guidance: float):
    request = Request(prompt=prompt, negative=negative, seed=seed, guidance=guidance)
    path = tmp_path_factory.mktemp("png") / "a.png"
    write_picture(Image.new("RGB", (1, 1)), path, Provenance(request=request))
    assert read_provenance(path)[1].request == request


def test_what_other_programs_read():
    lines = a1111_text(PROVENANCE, (64, 32)).split("\n")
    assert lines[0] == "a red sphere, left of a blue cube 🟦"
    assert lines[1] == "Negative prompt: lumps"
    assert lines[2] == (
        "Steps: 20, Sampler: DPM++ 2M, CFG scale: 3.5, Seed: 9223372036854775807, Size: 64x32, "
        "Model hash: 0123456789, Model: still-life, RNG: CPU, Version: mezzotint 0.1"
    )
    assert len(a1111_text(Provenance(request=Request(prompt="a cube")), (8, 8)).split("\n")) == 2


EXTRAS = Provenance(
    request=Request(
        prompt="a <cat>",
        vae="/files/a,b.pt",
        loras=("/files/cat.safetensors:0.8", "/files/ink:1:-0.5"),
        embeddings=("/files/word.pt",),
    ),
    weights="00",
    extras={
        "/files/a,b.pt": FileSum("1" * 64),
        "/files/cat.safetensors": FileSum("2" * 64, "3" * 64),
        "/files/ink/adapter_model.safetensors": FileSum("4" * 64, "5" * 64),
        "/files/ink/adapter_config.json": FileSum("6" * 64),
        "/files/word.pt": FileSum("7" * 64),
    },
)


def test_the_files_beside_the_model_in_the_web_uis_manner(tmp_path: Path, image: Image.Image):
    """It names LoRA in the prompt, and puts in quotation marks what has a comma or a colon."""
    prompt, settings = a1111_text(EXTRAS, (8, 8)).split("\n")
    assert prompt == "a <cat> <lora:cat:0.8> <lora:ink:-0.5:1>"
    assert f'VAE hash: {"1" * 10}, VAE: "a,b.pt", ' in settings
    assert f'Lora hashes: "cat: {"3" * 12}, ink: {"5" * 12}", TI hashes: "word: {"7" * 12}", ' in settings
    unknown = a1111_text(Provenance(request=EXTRAS.request), (8, 8))
    assert 'VAE: "a,b.pt", ' in unknown
    write_picture(image, tmp_path / "a.png", EXTRAS)
    assert read_provenance(tmp_path / "a.png")[1] == EXTRAS


def test_the_png_has_them_as_parameters(tmp_path: Path, image: Image.Image):
    write_picture(image, tmp_path / "a.png", PROVENANCE)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info["parameters"] == a1111_text(PROVENANCE, image.size)


@pytest.mark.parametrize("end", ["jpg", "jpeg", "webp", "JPG"])
def test_other_kinds_carry_the_parameters_in_exif(tmp_path: Path, image: Image.Image, end: str):
    path = tmp_path / f"a.{end}"
    write_picture(image, path, PROVENANCE)
    with Image.open(path) as opened:
        comment = opened.getexif().get_ifd(0x8769)[0x9286]
        assert comment.removeprefix(b"UNICODE\0").decode("utf-16-be") == a1111_text(PROVENANCE, image.size)
    with pytest.raises(UserError, match="carries no request"):
        read_provenance(path)


def damaged(path: Path, image: Image.Image) -> None:
    write_picture(image, path, PROVENANCE)
    path.write_bytes(path.read_bytes()[:-30])


def with_chunk(text: str):
    def write(path: Path, image: Image.Image) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("mezzotint", text)
        image.save(path, pnginfo=info)

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path, image: None, "There is no file"),
        (lambda path, image: path.write_text("hello"), "not a picture"),
        (lambda path, image: path.mkdir(), "not a picture"),
        (damaged, "damaged"),
        (lambda path, image: write_plain(image, path), "carries no request"),
        (with_chunk("{"), "request that is damaged"),
        (with_chunk("[]"), "request that is damaged"),
        (with_chunk('{"request": {"prompt": 3}, "weights": ""}'), "request that"),
        (with_chunk('{"request": {"colour": "red"}, "weights": ""}'), "colour"),
        (with_chunk('{"request": {"steps": -1}, "weights": ""}'), "steps"),
        (with_chunk('{"request": {"steps": "3"}, "weights": ""}'), "steps"),
        (with_chunk('{"request": null, "weights": ""}'), "request that is damaged"),
        (with_chunk('{"request": ["prompt"], "weights": ""}'), "request that is damaged"),
        (with_chunk('{"request": {}, "weights": 7}'), "request that is damaged"),
        (with_chunk('{"request": {}, "weights": "", "device": 7}'), "device"),
        (with_chunk('{"request": {}, "weights": "", "dtype": ["float32"]}'), "dtype"),
        (with_chunk('{"request": {}, "weights": "", "threads": "two"}'), "threads"),
        (with_chunk('{"request": {}, "weights": "", "threads": true}'), "threads"),
        (with_chunk('{"request": {}, "weights": "", "mezzotint": {}}'), "mezzotint"),
        (with_chunk('{"request": {}, "weights": "", "as_stored": "no"}'), "as_stored"),
        (with_chunk('{"request": {"loras": ["cat:nan"]}, "weights": ""}'), "weight of the LoRA cat"),
        (with_chunk('{"request": {"loras": {"cat": 1}}, "weights": ""}'), "loras"),
        (with_chunk('{"request": {}, "weights": "", "extras": ["cat"]}'), "request that is damaged"),
        (with_chunk('{"request": {}, "weights": "", "extras": {"cat": "00"}}'), "request that is damaged"),
        (with_chunk('{"request": {}, "weights": "", "extras": {"cat": {"sha256": 3}}}'), "request that is damaged"),
        (with_chunk('{"request": {}, "weights": "", "extras": {"cat": {"sum": "3"}}}'), "request that is damaged"),
        (with_chunk("[" * 100_000), "request that is damaged"),
    ],
)
def test_a_picture_that_cannot_be_drawn_again(tmp_path: Path, image: Image.Image, write, said: str):
    path = tmp_path / "a.png"
    write(path, image)
    with pytest.raises(UserError, match=said):
        read_provenance(path)


def test_nothing_is_left_where_writing_fails(tmp_path: Path, image: Image.Image):
    with pytest.raises(UserError, match="cannot be written"):
        write_picture(image, tmp_path / "none" / "a.png", PROVENANCE)
    with pytest.raises(UserError, match="kind of picture"):
        write_picture(image, tmp_path / "a.gif", PROVENANCE)
    assert list(tmp_path.iterdir()) == []


def test_what_a_later_version_notes_is_no_error(tmp_path: Path, image: Image.Image):
    with_chunk('{"request": {}, "weights": "", "moon": 7}')(tmp_path / "a.png", image)
    assert read_provenance(tmp_path / "a.png")[1].made_with == {"moon": 7}
