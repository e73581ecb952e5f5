"""Where weights come from: the tensors of one file, mapped into memory and not copied.

Safetensors and what PyTorch pickled are told apart by their first bytes and are alike from here on: a header says where
each tensor's bytes lie, and a tensor is a view of the mapped file. The mapping is private: who writes into a tensor
changes their own copy of a page and never the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mezzotint.store.header import Header, TensorEntry, read_header
from mezzotint.store.layout import weight_files
from mezzotint.types import UserError


class Source:
    """The tensors of one file, by name."""

    def __init__(self, header: Header) -> None:
        self.path: Path = header.path
        self.entries: Mapping[str, TensorEntry] = header.tensors
        """dtype, shape and place of every tensor."""
        self.metadata: Mapping[str, str] = header.metadata
        """The words that were stored beside the tensors."""

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, on the CPU, as a view of the mapped file; one that stands askew is copied.

        Raises KeyError for a name that is not among the entries, and UserError where the file has changed since it was
        opened.
        """
        tensor = self.view(name)
        if is_askew(tensor):
            tensor = tensor.clone()
            self.release(name)
        return tensor

    def view(self, name: str) -> Tensor:
        """The tensor as it lies in the file, to copy from: it may stand askew. Raises as `tensor`."""
        entry = self.entries[name]
        dtype: torch.dtype = getattr(torch, entry.dtype)
        if entry.count == 0:
            return torch.empty(entry.shape, dtype=dtype)
        if entry.end > len(self._mapped):
            raise UserError(f"{self.path} has become shorter while it was read: get it again.")
        data = torch.frombuffer(self._mapped, dtype=torch.uint8, count=entry.end - entry.begin, offset=entry.begin)
        numbers = data.view(dtype)
        return numbers.view(entry.shape) if entry.strides is None else numbers.as_strided(entry.shape, entry.strides)

    def release(self, name: str) -> None:
        """Give the memory of a tensor's pages back, once it has been copied; the file has them still.

        What was written into a tensor of these pages is lost.
        """
        entry = self.entries[name]
        begin, end = -(-entry.begin // mmap.PAGESIZE) * mmap.PAGESIZE, entry.end // mmap.PAGESIZE * mmap.PAGESIZE
        if begin < end and hasattr(mmap, "MADV_DONTNEED"):  # Windows has none.
            self._mapped.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    @cached_property
    def _mapped(self) -> mmap.mmap:
        try:
            with self.path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{self.path} cannot be mapped into memory: {reason}.") from error


def is_askew(tensor: Tensor) -> bool:
    """Whether the numbers do not stand at a multiple of their size, as in most streams: not every kernel reads such."""
    return tensor.data_ptr() % tensor.dtype.itemsize != 0


def open_source(path: Path) -> Source:
    """The tensors of a safetensors file or of one that PyTorch saved (.ckpt, .pt, .bin), whatever it is called.

    Only its header is read. Raises UserError as `read_header`.
    """
    return Source(read_header(path))


def part_sources(folder: Path, dtype: torch.dtype | None) -> list[Source]:
    """The files of one part of a diffusers folder, those best for `dtype` where it has several precisions.

    Raises UserError as `weight_files` and `read_header`.
    """
    asked = None if dtype is None else str(dtype).removeprefix("torch.")
    return [open_source(path) for path in weight_files(folder, asked)]
