"""A tensor that is the cast of another one: rounded to the nearest even, and bits that say which NaN it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ciuic.codec import CodecError

BLOCK = 32768
"""Elements at a time: scratch stays in the processor's caches."""

Bits = np.ndarray[Any, np.dtype[Any]]


class _Scratch(threading.local):
    """One block for every thread."""

    def __init__(self) -> None:
        self.bits = np.empty(BLOCK, np.uint32)


_scratch = _Scratch()


def to_bfloat16(source: Bits, out: Bits) -> None:
    """uint32 bits of float32 → uint16 bits of bfloat16. A NaN becomes 0xFFFF, as with torch on a CPU."""
    rounded = np.right_shift(source, np.uint32(16), out=_scratch.bits[: len(source)])
    np.bitwise_and(rounded, np.uint32(1), out=rounded)
    np.add(rounded, np.uint32(0x7FFF), out=rounded)
    np.add(rounded, source, out=rounded)
    np.right_shift(rounded, np.uint32(16), out=rounded)
    np.copyto(out, rounded, casting="same_kind")
    nans = np.isnan(source.view(np.float32))
    if nans.any():
        out[nans] = 0xFFFF


def to_float16(source: Bits, out: Bits) -> None:
    """uint32 bits of float32 → uint16 bits of float16. A NaN stays one, quiet, with its first bits."""
    floats = source.view(np.float32)
    np.copyto(out.view(np.float16), floats, casting="same_kind")
    nans = np.isnan(floats)
    if nans.any():
        bits = source[nans]
        out[nans] = (bits >> np.uint32(16) & np.uint32(0x8000)) | (bits >> np.uint32(13) & np.uint32(0x3FF)) | 0x7E00


def to_float32(source: Bits, out: Bits) -> None:
    """uint64 bits of float64 → uint32 bits of float32. A NaN stays one, quiet, with its first bits."""
    floats = source.view(np.float64)
    np.copyto(out.view(np.float32), floats, casting="same_kind")
    nans = np.isnan(floats)
    if nans.any():
        bits = source[nans]
        sign, first = bits >> np.uint64(32) & np.uint64(0x80000000), bits >> np.uint64(29) & np.uint64(0x7FFFFF)
        out[nans] = sign | first | np.uint64(0x7FC00000)


Cast = Callable[[Bits, Bits], None]
CASTS: dict[tuple[str, str], tuple[Any, Any, Cast]] = {
    ("float32", "bfloat16"): (np.uint32, np.uint16, to_bfloat16),
    ("float32", "float16"): (np.uint32, np.uint16, to_float16),
    ("float64", "float32"): (np.uint64, np.uint32, to_float32),
}
"""(from, to) → types of their bits, and the cast."""


def cast(between: tuple[str, str], skip: int, bases: Sequence[memoryview], out: memoryview) -> None:
    """``out`` becomes the cast of the joined ``bases``, from byte ``skip`` on. CodecError where they are too short."""
    if between not in CASTS:
        raise CodecError(f"no cast from {between[0]} to {between[1]}")
    wide, narrow, convert = CASTS[between]
    width = np.dtype(wide).itemsize
    if len(out) % (width // 2):
        raise CodecError("a cast does not end with an element")
    into = np.frombuffer(out, narrow)
    position = 0
    for base in bases:
        if len(base) % width:
            raise CodecError("a base of a cast does not end with an element")
        first = min(skip, len(base))
        skip -= first
        source = np.frombuffer(base, wide, offset=first)[: len(into) - position]
        for start in range(0, len(source), BLOCK):
            block = source[start : start + BLOCK]
            convert(block, into[position + start : position + start + len(block)])
        position += len(source)
    if position != len(into):
        raise CodecError("the bases of a cast are too short")
