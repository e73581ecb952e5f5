"""A whole model is loaded in the memory that it takes, and what is put off is made up for before anything is drawn."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mezzotint
from mezzotint.denoise.unet import UNet
from mezzotint.store.folder import save_folder
from mezzotint.store.parts import Parts
from mezzotint.store.single_file import save_file
from mezzotint.types import UserError

PEAK = """
import sys
from pathlib import Path
import torch
import mezzotint

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

torch.set_num_threads(1)
small, path, dtype = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3])
mezzotint.load(small, "cpu", dtype)  # What is imported and made once.
Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here.
before = status("VmRSS")
pipe = mezzotint.load(path, "cpu", dtype)
networks = [pipe.conditioner.text_model, pipe.denoiser, pipe.codec.autoencoder]
size = sum(parameter.nbytes for network in networks for parameter in network.parameters())
print((status("VmHWM") - before) / size, size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts a peak anew")
@pytest.mark.parametrize(("stored", "asked"), [("float32", "float32"), ("float16", "float32"), ("float32", "bfloat16")])
def test_the_peak_of_memory_is_the_model(tiny_parts: Parts, tiny_folder: Path, tmp_path: Path, stored: str, asked: str):
    """More than 100 MB, most of it U-Net. Pages of the mapped file count where they were touched."""
    config = replace(tiny_parts.unet.config, block_out_channels=(256, 512), norm_num_groups=32)
    torch.manual_seed(0)
    parts = replace(tiny_parts, unet=UNet(config))
    dtype = getattr(torch, stored)
    save_folder(parts, tmp_path / "folder", dtype=dtype)
    save_file(parts, tmp_path / "model.safetensors", dtype=dtype)
    for path in (tmp_path / "folder", tmp_path / "model.safetensors"):
        arguments = [str(tiny_folder), str(path), asked]
        run = subprocess.run([sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True)
        ratio, size = map(float, run.stdout.split())
        print(f"{path.name}, {stored} as {asked}: {ratio:.3f} of {size:.0f} bytes")
        assert size > 50e6
        assert ratio < 1.15


@pytest.fixture
def broken(tiny_parts: Parts, tmp_path: Path) -> Path:
    """The tiny model with NaN in one weight of its U-Net."""
    save_file(tiny_parts, tmp_path / "broken.safetensors")
    data = bytearray((tmp_path / "broken.safetensors").read_bytes())
    weight = tiny_parts.unet.mid_block.resnets[0].conv1.weight.detach().contiguous()
    place = data.index(weight.numpy().tobytes())
    data[place : place + 4] = torch.tensor([torch.nan]).numpy().tobytes()
    (tmp_path / "broken.safetensors").write_bytes(data)
    return tmp_path / "broken.safetensors"


def test_what_is_large_is_looked_through_before_anything_is_drawn(broken: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"middle_block\.0\.in_layers\.2\.weight that are NaN"):
        mezzotint.load(broken, "cpu")
    monkeypatch.setattr(mezzotint, "SOON", 0)
    pipe = mezzotint.load(broken, "cpu")
    for _ in range(2):
        with pytest.raises(UserError, match=r"broken.safetensors has numbers in .*middle_block.* that are NaN"):
            pipe("a red cube", seed=0)


def test_what_changes_its_dtype_is_looked_through_as_it_is_read(broken: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mezzotint, "SOON", 0)
    with pytest.raises(UserError, match="NaN"):
        mezzotint.load(broken, "cpu", torch.bfloat16)


def test_a_number_without_room_in_16_bits_is_not_written(tiny_parts: Parts, tmp_path: Path):
    unet = UNet(tiny_parts.unet.config)
    unet.conv_in.weight.data[0, 0, 0, 0] = 70_000.0
    parts = replace(tiny_parts, unet=unet)
    with pytest.raises(UserError, match=r"conv_in\.weight too large for float16: take bfloat16"):
        save_file(parts, tmp_path / "x.safetensors", dtype=torch.float16)
    with pytest.raises(UserError, match=r"conv_in\.weight too large for float16"):
        save_folder(parts, tmp_path / "x", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_may_be_read_by_others_of_the_place(tiny_parts: Parts, tmp_path: Path):
    (tmp_path / "plain").touch()
    save_file(tiny_parts, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
