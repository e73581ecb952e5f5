"""Modules filled from files: pieces read where they lie, no number broken, and no more memory than the model itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mezzotint.store.keymap import KeyMap, Piece
from mezzotint.store.source import Source, open_source
from mezzotint.store.weights import build
from mezzotint.types import UserError

CPU = torch.device("cpu")
PLACES: KeyMap = {
    "q.weight": Piece("in_proj", 0, 2),
    "k.weight": Piece("in_proj", 1, 2),
    "out.weight": Piece("projection", transposed=True),
    "norm.weight": Piece("norm"),
}


class Small(nn.Module):
    """Four matrices and vectors of the width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 4, bias=False)
        self.norm = nn.RMSNorm(4)


def foreign(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors = {"in_proj": torch.randn(8, 4), "projection": torch.randn(4, 4), "norm": torch.ones(4)}
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def written(tensors: dict[str, Tensor], path: Path, kind: str = "safetensors") -> Source:
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    return open_source(path)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "stream"])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16])
def test_pieces_are_read_from_every_kind_of_file(tmp_path: Path, kind: str, dtype: torch.dtype | None):
    tensors = foreign()
    module = build(Small, [written(tensors, tmp_path / "x", kind)], device=CPU, dtype=dtype, places=PLACES)
    expected = {
        "q.weight": tensors["in_proj"][:4],
        "k.weight": tensors["in_proj"][4:],
        "out.weight": tensors["projection"].T,
        "norm.weight": tensors["norm"],
    }
    state = module.state_dict()
    final = torch.float32 if dtype is None else dtype
    assert all(torch.equal(state[name], tensor.to(final)) for name, tensor in expected.items())
    assert all(tensor.dtype == final and tensor.is_contiguous() for tensor in state.values())
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_what_is_stored_as_it_is_wanted_stays_in_the_mapped_file(tmp_path: Path):
    source = written(foreign(), tmp_path / "x")
    module = build(Small, [source], device=CPU, dtype=torch.float32, places=PLACES)
    assert module.norm.weight.data_ptr() == source.tensor("norm").data_ptr()
    # Half a tensor would hold on to the whole, and a transposed one would be slower to multiply by.
    assert module.q.weight.data_ptr() != source.tensor("in_proj").data_ptr()
    assert module.out.weight.untyped_storage().nbytes() == 64


def test_two_tensors_of_one_do_not_share_their_memory(tmp_path: Path):
    tensors = {"same": torch.ones(4, 4), "norm": torch.ones(4)}
    places = {name: Piece("same") for name in ("q.weight", "k.weight", "out.weight")} | {"norm.weight": Piece("norm")}
    module = build(Small, [written(tensors, tmp_path / "x")], device=CPU, places=places)
    module.q.weight.zero_()
    assert torch.equal(module.k.weight, torch.ones(4, 4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extra": torch.zeros(2)}, r"x has the tensor extra, which the model has not"),
        ({"norm": None}, r"x lacks the tensor norm, which the model needs"),
        ({"norm": None, "projection": None}, r"x lacks the tensor norm|projection and 1 more"),
        ({"norm": torch.ones(5)}, r"x has norm of shape \[5\]; the model has norm\.weight of \[4\]"),
        ({"in_proj": torch.ones(7, 4)}, r"x: in_proj has shape \[7, 4\], which cannot be cut into 2 parts"),
        ({"in_proj": torch.ones(10, 4)}, r"x has in_proj of shape \[10, 4\]"),
        ({"norm": torch.tensor([1.0, float("nan"), 1, 1])}, r"x has numbers in norm that are NaN or infinite"),
        ({"in_proj": torch.full((8, 4), -torch.inf)}, r"x has numbers in in_proj that are NaN or infinite"),
    ],
)
@pytest.mark.parametrize("kind", ["safetensors", "stream"])
def test_what_does_not_come_out_even_is_told_by_file_and_tensor(
    tmp_path: Path, change: dict[str, Tensor | None], said: str, kind: str
):
    tensors = {name: tensor for name, tensor in (foreign() | change).items() if tensor is not None}
    with pytest.raises(UserError, match=said) as error:
        build(Small, [written(tensors, tmp_path / "x", kind)], device=CPU, places=PLACES)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_what_is_ignored_may_be_there_and_what_is_not_may_not(tmp_path: Path):
    source = written(foreign() | {"other.x": torch.zeros(2)}, tmp_path / "x")
    build(Small, [source], device=CPU, places=PLACES, ignored=lambda name: name.startswith("other."))
    with pytest.raises(UserError, match=r"other\.x"):
        build(Small, [source], device=CPU, places=PLACES, ignored=lambda name: name.startswith("mine."))


def test_one_tensor_in_two_files_is_told(tmp_path: Path):
    sources = [written(foreign(), tmp_path / "x"), written({"norm": torch.ones(4)}, tmp_path / "y")]
    with pytest.raises(UserError, match="y has the tensor norm a second time"):
        build(Small, sources, device=CPU, places=PLACES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_every_number_that_is_not_finite_is_found(tmp_path: Path, dtype: torch.dtype, bad: float):
    for place in ((0, 0), (7, 3)):
        tensors = foreign(dtype)
        tensors["in_proj"][place] = bad
        source = written(tensors, tmp_path / "x")
        for final in (None, torch.float32, torch.float16):
            with pytest.raises(UserError, match="numbers in in_proj that are NaN or infinite"):
                build(Small, [source], device=CPU, dtype=final, places=PLACES)


def test_large_numbers_are_told_only_where_they_are_too_large(tmp_path: Path):
    """The sum of these is infinite in 16 bits, and none of them is."""
    source = written(foreign() | {"norm": torch.full((4,), 60_000.0)}, tmp_path / "x")
    module = build(Small, [source], device=CPU, dtype=torch.float16, places=PLACES)
    assert module.norm.weight.tolist() == [60_000.0] * 4
    source = written(foreign() | {"norm": torch.full((4,), 70_000.0)}, tmp_path / "y")
    build(Small, [source], device=CPU, dtype=torch.bfloat16, places=PLACES)
    with pytest.raises(UserError, match="y has numbers in norm too large for float16: ask for float32"):
        build(Small, [source], device=CPU, dtype=torch.float16, places=PLACES)


def test_whole_numbers_are_no_weights(tmp_path: Path):
    source = written(foreign() | {"norm": torch.ones(4, dtype=torch.int32)}, tmp_path / "x")
    with pytest.raises(UserError, match="x has norm of dtype int32, which no weights are"):
        build(Small, [source], device=CPU, places=PLACES)


PEAK = """
import sys
from pathlib import Path
import torch
from torch import nn
from mezzotint.store.keymap import Piece
from mezzotint.store.source import open_source
from mezzotint.store.weights import build

def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

torch.set_num_threads(1)
path, dtype, layers, width = Path(sys.argv[1]), getattr(torch, sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
make = lambda: nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
build(lambda: nn.Linear(1, 1), [open_source(path.with_name("first"))], device=torch.device("cpu"), dtype=dtype)
Path("/proc/self/clear_refs").write_text("5")  # The peak is counted from here.
before = status("VmHWM")
module = build(make, [open_source(path)], device=torch.device("cpu"), dtype=dtype)
size = sum(parameter.nbytes for parameter in module.parameters())
assert all(parameter.dtype == dtype for parameter in module.parameters())
print((status("VmHWM") - before) / size, size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts a peak anew")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "stream"])
@pytest.mark.parametrize(
    ("stored", "asked", "layers"),
    [("float32", "float16", 400), ("float32", "float32", 200), ("float16", "float32", 200)],
)
def test_the_peak_of_memory_is_the_model(tmp_path: Path, kind: str, stored: str, asked: str, layers: int):
    """200 MB in the dtype asked for; the bound is the project's, 1.15 times that."""
    width, dtype = 512, getattr(torch, stored)
    written(nn.Linear(1, 1).to(dtype).state_dict(), tmp_path / "first", kind)
    state: dict[str, Tensor] = {}
    for layer in range(layers):
        state[f"{layer}.weight"] = torch.ones(width, width, dtype=dtype)
        state[f"{layer}.bias"] = torch.ones(width, dtype=dtype)
    written(state, tmp_path / "large", kind)
    del state
    arguments = [str(tmp_path / "large"), asked, str(layers), str(width)]
    out = subprocess.run([sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True).stdout
    ratio, size = (float(number) for number in out.split())
    assert size > 200e6
    print(f"{kind}, {stored} as {asked}: {ratio:.3f} of {size:.0f} bytes")
    assert 0.9 < ratio < 1.15
