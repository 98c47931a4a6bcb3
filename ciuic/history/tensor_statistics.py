"""What changed between two tensors of one dtype and shape: streamed, in float64, in bounded memory.

Changed elements are counted by their *bits*, so that -0.0 and 0.0 differ and a NaN equals itself. The
statistics are over the numbers that the bits stand for:

* integers: the difference is taken exactly (64 bits wide and unsigned) and rounded once, to float64;
* quantised integers: in steps of the quantisation, because the scale may differ between the two;
* complex numbers: |b - a| an element, and both as pairs of reals for the norms and the cosine;
* an element that is NaN or infinite on either side, is left out of all statistics, and counted if it changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.objects.state_tree import Tensor, TensorSource

PIECE_BYTES = 4 << 20
"""At most this much of each tensor is read at once, and as much again is its float64 form."""

Array = npt.NDArray[Any]

_INTEGERS = {
    "bool": "u1", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "qint8": "i1", "quint8": "u1", "qint32": "i4",
}  # fmt: skip
_FLOATS = {"float16": "f2", "float32": "f4", "float64": "f8"}
_COMPLEX = {"complex32": "f2", "complex64": "f4", "complex128": "f8"}


@dataclass(frozen=True)
class Statistics:
    """Differences b - a over one tensor. Norms and ``max_abs`` have the tensor's own unit."""

    l2: float
    norm_a: float
    norm_b: float
    dot: float
    max_abs: float
    nonfinite_elements: int

    @property
    def relative_l2(self) -> float:
        return relative_l2(self.l2, self.norm_a)

    @property
    def cosine(self) -> float | None:
        """a·b / (‖a‖ ‖b‖) within [-1, 1]; None where a norm is zero or the product out of range."""
        product = self.norm_a * self.norm_b
        if not 1e-290 < product < math.inf:
            return None
        return max(-1.0, min(1.0, self.dot / product))


def relative_l2(l2: float, norm_before: float) -> float:
    """‖b - a‖ / ‖a‖; infinite where a is all zeros and b is not."""
    if norm_before == 0.0:
        return math.inf if l2 else 0.0
    return l2 / norm_before


def same_chunks(a: TensorSource, b: TensorSource) -> bool:
    """True when the stored chunk ids say that both hold the same bytes. False proves nothing."""
    chunks_a, chunks_b = getattr(a, "chunks", None), getattr(b, "chunks", None)
    return (
        chunks_a is not None
        and chunks_a == chunks_b
        and getattr(a, "chunk_size", None) == getattr(b, "chunk_size", None)
        and a.nbytes == b.nbytes
    )


def counted_elements(tensor: Tensor) -> int:
    """Elements of the tensor; bytes, where a dtype packs several elements into one."""
    return tensor.source.nbytes // _element_width(tensor)


def compare_tensors(
    a: Tensor, b: Tensor, *, advance: Callable[[int], None] = lambda read: None
) -> tuple[int, Statistics | None]:
    """The number of changed elements, and the statistics, of two tensors of one dtype and shape.

    Statistics are None for an empty tensor and for a dtype without a number an element (packed types, raw
    bits). ``advance`` hears the bytes of each piece read.
    """
    width = _element_width(a)
    total = _Sum() if a.source.nbytes and _is_numeric(a.dtype, width) else None
    changed = 0
    for raw_a, raw_b in _pieces(a.source, b.source, width):
        differs = _differs(raw_a, raw_b, width)
        changed += int(np.count_nonzero(differs))
        if total is not None:
            total.add(raw_a, raw_b, differs, a.dtype)
        advance(raw_a.size)
    return changed, total.statistics() if total is not None else None


def _element_width(tensor: Tensor) -> int:
    """Bytes an element; 1 where elements share bytes."""
    elements = math.prod(tensor.shape)
    nbytes = tensor.source.nbytes
    return nbytes // elements if elements and nbytes and nbytes % elements == 0 else 1


def _pieces(a: TensorSource, b: TensorSource, width: int) -> Iterator[tuple[Array, Array]]:
    step = PIECE_BYTES // max(width, 8) * width
    for start in range(0, a.nbytes, step):
        stop = min(start + step, a.nbytes)
        raw_a = np.frombuffer(a.read(start, stop), dtype=np.uint8)
        shared = _covered_by_equal_chunks(a, b, start, stop)
        raw_b = raw_a if shared else np.frombuffer(b.read(start, stop), dtype=np.uint8)
        yield raw_a, raw_b


def _covered_by_equal_chunks(a: TensorSource, b: TensorSource, start: int, stop: int) -> bool:
    size = getattr(a, "chunk_size", None)
    chunks_a, chunks_b = getattr(a, "chunks", None), getattr(b, "chunks", None)
    if not size or size != getattr(b, "chunk_size", None) or chunks_a is None or chunks_b is None:
        return False
    first, last = start // size, -(-stop // size)
    return bool(chunks_a[first:last] == chunks_b[first:last])


def _differs(raw_a: Array, raw_b: Array, width: int) -> Array:
    if raw_a is raw_b:
        return np.zeros(raw_a.size // width, dtype=bool)
    if width in (1, 2, 4, 8):
        unsigned = f"u{width}"
        return np.asarray(raw_a.view(unsigned) != raw_b.view(unsigned))
    return np.asarray((raw_a.reshape(-1, width) != raw_b.reshape(-1, width)).any(axis=1))


class _Sum:
    """Running sums over the pieces of one tensor."""

    def __init__(self) -> None:
        self.l2 = self.norm_a = self.norm_b = self.dot = self.max_abs = 0.0
        self.nonfinite = 0

    def add(self, raw_a: Array, raw_b: Array, differs: Array, dtype: str) -> None:
        with np.errstate(all="ignore"):
            if dtype in _INTEGERS:
                ints_a, ints_b = raw_a.view(_INTEGERS[dtype]), raw_b.view(_INTEGERS[dtype])
                delta = _integer_distance(ints_a, ints_b)
                self._accumulate(ints_a.astype(np.float64), ints_b.astype(np.float64), delta)
                self._widen(_largest(delta))
                return
            self._add_numbers(_to_float64(raw_a, dtype), _to_float64(raw_b, dtype), differs)

    def _add_numbers(self, a: Array, b: Array, differs: Array) -> None:
        reals = 1 if a.size == differs.size else 2
        delta = b - a
        if not np.isfinite(delta).all():
            finite = (np.isfinite(a) & np.isfinite(b)).reshape(-1, reals).all(axis=1)
            self.nonfinite += int(np.count_nonzero(differs & ~finite))
            kept = np.repeat(finite, reals)
            a, b, delta = a[kept], b[kept], delta[kept]
        self._accumulate(a, b, delta)
        self._widen(_largest(delta if reals == 1 else np.hypot(delta[0::2], delta[1::2])))

    def _accumulate(self, a: Array, b: Array, delta: Array) -> None:
        self.l2 = math.hypot(self.l2, _norm(delta))
        self.norm_a = math.hypot(self.norm_a, _norm(a))
        self.norm_b = math.hypot(self.norm_b, _norm(b))
        self.dot += float(np.dot(a, b))

    def _widen(self, largest: float) -> None:
        self.max_abs = max(self.max_abs, largest)

    def statistics(self) -> Statistics:
        return Statistics(self.l2, self.norm_a, self.norm_b, self.dot, self.max_abs, self.nonfinite)


def _integer_distance(a: Array, b: Array) -> Array:
    """|b - a| in float64, exact up to 2**53. A difference of two int64 needs all 64 bits, unsigned."""
    larger, smaller = np.maximum(a, b).astype(np.uint64), np.minimum(a, b).astype(np.uint64)
    return np.asarray((larger - smaller).astype(np.float64))


def _norm(values: Array) -> float:
    """Euclidean norm; values whose squares leave the range of float64 are scaled first."""
    square = float(np.dot(values, values))
    if 1e-200 < square < 1e200:
        return math.sqrt(square)
    largest = _largest(values)
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    scaled = values / largest
    return largest * math.sqrt(float(np.dot(scaled, scaled)))


def _largest(values: Array) -> float:
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


def _is_numeric(dtype: str, width: int) -> bool:
    if dtype in _INTEGERS or dtype in _FLOATS or dtype in _COMPLEX or dtype == "bfloat16":
        return True
    return width == 1 and _byte_values(dtype) is not None


def _to_float64(raw: Array, dtype: str) -> Array:
    """A number an element; two, real and imaginary part, for complex ones."""
    if dtype in _FLOATS:
        return raw.view(_FLOATS[dtype]).astype(np.float64)
    if dtype in _COMPLEX:
        return raw.view(_COMPLEX[dtype]).astype(np.float64)
    if dtype == "bfloat16":  # the upper half of a float32
        return (raw.view("u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    table = _byte_values(dtype)
    assert table is not None
    return np.asarray(table[raw])


_BYTE_VALUES: dict[str, Array | None] = {}


def _byte_values(dtype: str) -> Array | None:
    """The 256 numbers of a one-byte float, as torch decodes them; None for what torch cannot convert."""
    if dtype not in _BYTE_VALUES:
        _BYTE_VALUES[dtype] = _decode_bytes_with_torch(dtype) if dtype.startswith("float8") else None
    return _BYTE_VALUES[dtype]


def _decode_bytes_with_torch(dtype: str) -> Array | None:
    import torch

    torch_dtype = getattr(torch, dtype, None)
    if torch_dtype is None:  # a dtype of a newer torch than this one
        return None
    return np.asarray(torch.arange(256, dtype=torch.uint8).view(torch_dtype).to(torch.float64).numpy())
