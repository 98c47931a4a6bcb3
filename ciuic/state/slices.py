"""A part of a stored tensor, without reading the rest."""

from __future__ import annotations

import math
from typing import Any

import torch

from ciuic.errors import UnsupportedState
from ciuic.objects.dtypes import PACKED_ELEMENTS, element_width
from ciuic.objects.state_tree import Tensor
from ciuic.state.tensors import byte_view, copy_bytes, torch_dtype

BLOCK_BYTES = 1 << 20
"""Rows up to this size are read whole when a part of each is asked for."""


class TensorSlice:
    """A stored tensor that is indexed before it is read: ``[2:5]``, ``[..., :8]``, ``[3]``.

    Whole numbers, slices with positive steps and ``...`` are understood. What comes is a new tensor, verified; only
    the chunks that it touches are read. ``shape`` and ``dtype`` cost nothing.
    """

    def __init__(self, node: Tensor, device: torch.device | str = "cpu") -> None:
        if node.quantizer is not None or node.dtype in PACKED_ELEMENTS:
            raise UnsupportedState(f"A tensor of dtype {node.dtype} cannot be read in part. Read it whole.")
        self._node = node
        self._device = device
        self.shape = torch.Size(node.shape)
        self.dtype = torch_dtype(node.dtype)

    def __repr__(self) -> str:
        return f"<stored tensor of {self.dtype}, {list(self.shape)}>"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> torch.Tensor:
        ranges, kept = _ranges(index, self.shape)
        out = torch.empty(math.prod(map(len, ranges)) * element_width(self._node.dtype), dtype=torch.uint8)
        shaped = out.view(self.dtype).view([len(each) for each in ranges])
        if shaped.numel():
            self._read(0, self.shape, ranges, shaped)
        return shaped.view([len(each) for each, keep in zip(ranges, kept, strict=True) if keep]).to(self._device)

    def _read(self, start: int, shape: tuple[int, ...], ranges: list[range], out: torch.Tensor) -> None:
        """Fill ``out`` (contiguous) with ``ranges`` of the sub-tensor of ``shape`` whose first element is ``start``."""
        width = out.element_size()
        whole = 0  # trailing dimensions that are read as they stand
        while whole < len(shape) and ranges[-1 - whole] == range(shape[-1 - whole]):
            whole += 1
        leading = len(shape) - whole
        if leading == 0 or (leading == 1 and ranges[0].step == 1):
            row = math.prod(shape[1:])
            first = ranges[0].start * row if leading else 0
            copy_bytes(self._node.source, byte_view(out), (start + first) * width)
            return
        row = math.prod(shape[1:])
        together = BLOCK_BYTES // max(1, row * width * ranges[0].step)
        if together <= 1 and leading > 1 and row * width > BLOCK_BYTES:
            for number, position in enumerate(ranges[0]):
                self._read(start + position * row, shape[1:], ranges[1:], out[number])
            return
        inner = tuple(slice(each.start, each.stop, each.step) for each in ranges[1:])
        for number in range(0, len(ranges[0]), max(1, together)):
            part = ranges[0][number : number + max(1, together)]
            rows = part[-1] + 1 - part[0]
            block = torch.empty(rows * row * width, dtype=torch.uint8)
            copy_bytes(self._node.source, byte_view(block), (start + part[0] * row) * width)
            bits = block.view(out.dtype).view(rows, *shape[1:])
            rest = (slice(None, None, part.step), *inner)
            _copy(out[number : number + len(part)], bits[rest])


def _copy(out: torch.Tensor, new: torch.Tensor) -> None:
    if out.element_size() == 1:  # torch cannot copy int1 … uint7; as bytes it can
        out, new = out.view(torch.uint8), new.view(torch.uint8)
    out.copy_(new)


def _ranges(index: Any, shape: tuple[int, ...]) -> tuple[list[range], list[bool]]:
    """The positions of each dimension, and which dimensions stay. IndexError and TypeError as torch has them."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if parts.count(Ellipsis) > 1:
        raise IndexError("an index has at most one ellipsis")
    given = len(parts) - parts.count(Ellipsis)
    if given > len(shape):
        raise IndexError(f"too many indices for a tensor of {len(shape)} dimensions")
    gap = parts.index(Ellipsis) if Ellipsis in parts else len(parts)
    parts[gap : gap + 1] = [slice(None)] * (len(shape) - given)
    ranges, kept = [], []
    for number, (part, size) in enumerate(zip(parts, shape, strict=True)):
        if isinstance(part, slice):
            if part.step is not None and part.step < 1:
                raise ValueError("a step must be positive")
            ranges.append(range(*part.indices(size)))
        elif hasattr(part, "__index__") and not isinstance(part, bool):
            if not -size <= part < size:
                raise IndexError(f"index {part} is out of bounds for dimension {number} with size {size}")
            position = part.__index__() % size
            ranges.append(range(position, position + 1))
        else:
            raise TypeError(f"a stored tensor is indexed by whole numbers, slices and ..., not by {part!r}")
        kept.append(isinstance(part, slice))
    return ranges, kept
