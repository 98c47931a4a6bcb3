"""What is done to whole elements before they are taken apart, and this thread's memory to do it in.

Elements are unsigned integers of 1, 2, 4 or 8 bytes; arithmetic is modulo 2^(8·width).
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

NONE, ROTATED, ZIGZAG, PLAIN, SCALED, BALANCED = 0, 1, 2, 3, 4, 5
DIFFERENCES = (ZIGZAG, PLAIN, SCALED, BALANCED)
KEPT = 2 << 20
"""Bytes of scratch that a thread keeps for each purpose; what is larger is allocated for one chunk."""

NAN = np.uint32(0x7FC00000)

Elements = np.ndarray[Any, np.dtype[Any]]


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[str, Elements] = {}


_scratch = _Scratch()


def scratch(purpose: str, count: int, width: int = 1) -> Elements:
    """``count`` elements with anything in them, this thread's until it asks for the same ``purpose`` again."""
    nbytes = count * width
    if nbytes > KEPT:
        return np.empty(count, f"<u{width}")
    buffers = _scratch.buffers
    kept = buffers.get(purpose)
    if kept is None or len(kept) < nbytes:
        kept = buffers[purpose] = np.empty(-(-nbytes // 4096) * 4096, np.uint8)
    return kept[:nbytes].view(f"<u{width}")


def elements_of(buffer: Any, width: int) -> Elements:
    """The whole elements of a buffer, in place."""
    count = len(buffer) // width
    return np.frombuffer(buffer, f"<u{width}", count) if count else np.empty(0, f"<u{width}")


def transformed(
    transform: int, x: Elements, base: Elements | None, factor: float = 0.0, out: Elements | None = None
) -> Elements:
    """``x`` itself for NONE, otherwise ``out`` or a new array. ``factor``: of SCALED, within ``exactly``."""
    if transform == NONE:
        return x
    top = x.dtype.type(8 * x.itemsize - 1)
    z = np.empty_like(x) if out is None else out
    if transform == ROTATED:
        other = scratch("other", len(x), x.itemsize)
        np.right_shift(x, top, out=other)
        np.add(x, x, out=z)
        np.bitwise_or(z, other, out=z)
        return z
    assert base is not None, "a difference is one to something"
    if transform == SCALED:
        _scale(base, factor, z)
        return np.subtract(x, z, out=z)
    np.subtract(x, base, out=z)
    if transform == BALANCED:
        np.add(z, middle(x.itemsize), out=z)
    elif transform == ZIGZAG:
        signed = f"<i{x.itemsize}"
        other = scratch("other", len(x), x.itemsize)
        np.right_shift(z.view(signed), top.astype(signed), out=other.view(signed))
        np.add(z, z, out=z)
        np.bitwise_xor(z, other, out=z)
    return z


def restore(transform: int, z: Elements, out: Elements, factor: float = 0.0) -> None:
    """What ``transformed`` made back into ``out``, which holds the base of a difference. ``z`` is spent."""
    if transform in (PLAIN, SCALED, BALANCED):
        if transform == SCALED:
            _scale(out, factor, out)
        np.add(out, z, out=out)
        if transform == BALANCED:
            np.subtract(out, middle(z.itemsize), out=out)
        return
    one = z.dtype.type(1)
    other = scratch("other", len(z), z.itemsize)
    if transform == ROTATED:
        np.left_shift(z, z.dtype.type(8 * z.itemsize - 1), out=other)
        np.right_shift(z, one, out=z)
        np.bitwise_or(z, other, out=out)
    else:
        np.bitwise_and(z, one, out=other)
        np.negative(other, out=other)
        np.right_shift(z, one, out=z)
        np.bitwise_xor(z, other, out=z)
        np.add(out, z, out=out)


def middle(width: int) -> Any:
    """The element whose bytes are all 128."""
    return np.dtype(f"<u{width}").type(int.from_bytes(b"\x80" * width, "little"))


def exactly(transform: int) -> AbstractContextManager[None]:
    """What SCALED needs of this thread's floating point; InexactArithmetic where that cannot be had."""
    if transform != SCALED:
        return nullcontext()
    from ciuic.codec.arithmetic import ieee

    return ieee()


def _scale(base: Elements, factor: float, out: Elements) -> None:
    """``out``: ``base`` as floats of single precision, times ``factor``, rounded once; the same on every machine."""
    floats = out.view(np.float32)
    np.multiply(base.view(np.float32), np.float32(factor), out=floats)
    nans = np.isnan(floats, out=scratch("nans", len(out)).view(bool))
    if nans.any():
        out[nans] = NAN
