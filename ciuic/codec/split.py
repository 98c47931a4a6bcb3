"""Few values that most elements have, apart from the rest: a code of one or two bits each, and the rest by themselves.

Huffman codes spend a whole bit on a value however common it is, and zstandard finds matches in such planes that cost
more than they save. Four or eight codes in a byte are coded within a few percent of their entropy, and many times
faster. With ``centre`` c and an element e, as integers modulo 2^(8·width):

    1 bit    0 for e = c; 1 for the rest
    2 bits   e − c where that is 0, 1 or 2; 3 for the rest

Codes fill bytes from the lowest bit up; the last byte is filled with zeros.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ciuic.codec.transforms import Elements, scratch

ESCAPE = 3
SPARSE = 0.13
"""Share of marked elements up to which it is faster to look for eights with a mark first."""
GATHER = np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
"""Times the codes in the lowest two bits of four bytes: all four in the highest byte."""


def codes_length(bits: int, count: int) -> int:
    per_byte = 8 // bits
    return -(-count // per_byte)


def split(x: Elements, bits: int, centre: int) -> tuple[Elements, Elements]:
    """The codes, as bytes, and the rest, of ``x``'s dtype. The codes are scratch."""
    count = len(x)
    escaped = scratch("marks", -(-count // 8) * 8).view(bool)
    escaped[count:] = False
    if bits == 1:
        np.not_equal(x, x.dtype.type(centre), out=escaped[:count])
        return np.packbits(escaped.view(np.uint8)[:count], bitorder="little"), _marked(escaped, x)
    ranks = scratch("ranks", count, x.itemsize)
    np.subtract(x, x.dtype.type(centre), out=ranks)
    np.greater_equal(ranks, x.dtype.type(ESCAPE), out=escaped[:count])
    codes = scratch("codes", -(-count // 4) * 4)
    codes[count:] = 0
    np.negative(escaped.view(np.uint8)[:count], out=codes[:count])
    if x.itemsize > 1:
        low = scratch("low", count)
        np.copyto(low, ranks, casting="unsafe")
        ranks = low
    np.bitwise_or(codes[:count], ranks, out=codes[:count])
    fours = codes.view("<u4")
    np.bitwise_and(fours, np.uint32(0x03030303), out=fours)
    np.multiply(fours, GATHER, out=fours)
    np.right_shift(fours, np.uint32(24), out=fours)
    packed = scratch("packed", len(fours))
    np.copyto(packed, fours, casting="unsafe")
    return packed, _marked(escaped, x)


def joined(codes: Elements, bits: int, centre: int, count: int, width: int, depth: int) -> tuple[Elements, Elements]:
    """``count`` elements with anything for the rest, and which are the rest: bool, of a multiple of 8. Scratch of
    ``depth``."""
    kind = np.dtype(f"<u{width}")
    whole = -(-count // 8) * 8
    if bits == 1:
        x = scratch(f"joined {depth}", count, width)
        x.fill(centre)
        escaped = np.unpackbits(codes, bitorder="little").view(bool)
        escaped[count:] = False
        return x, escaped
    x = scratch(f"joined {depth}", 4 * len(codes), width)
    np.take(_fours(centre, width), codes, axis=0, out=x.reshape(-1, 4), mode="clip")
    x = x[:count]
    escaped = scratch(f"marks {depth}", whole).view(bool)
    escaped[count:] = False
    np.equal(x, kind.type(centre + ESCAPE & (1 << 8 * width) - 1), out=escaped[:count])
    return x, escaped


@functools.lru_cache(64)
def _fours(centre: int, width: int) -> Elements:
    """The four elements of each byte of 2-bit codes."""
    numbers = np.arange(256, dtype=np.uint64)
    codes = np.stack([numbers >> np.uint64(shift) & np.uint64(ESCAPE) for shift in (0, 2, 4, 6)], 1)
    return (codes + np.uint64(centre)).astype(f"<u{width}")


def _marked(escaped: Elements, x: Elements) -> Elements:
    """The elements of ``x`` that ``escaped`` (bool, of a multiple of 8) marks."""
    hits = _eights(escaped, len(x))
    if hits is None:
        return x[np.flatnonzero(escaped[: len(x)])]
    marked = np.flatnonzero(escaped.view("<u8")[hits].view(bool))
    eights: Elements = _rows(x)[hits].view(x.dtype)
    return eights[marked]


def place(x: Elements, escaped: Elements, rest: Elements) -> None:
    """Set the elements of ``x`` that ``escaped`` marks to those of ``rest``, in their order."""
    hits = _eights(escaped, len(x))
    if hits is None:
        x[np.flatnonzero(escaped[: len(x)])] = rest
        return
    rows = _rows(x)
    eights = rows.take(hits)
    eights.view(x.dtype)[np.flatnonzero(escaped.view("<u8").take(hits).view(bool))] = rest
    rows[hits] = eights


def positions(escaped: Elements) -> Elements:
    """Where the few marks are."""
    hits = np.flatnonzero(escaped.view("<u8") != 0)
    marked = np.flatnonzero(escaped.view("<u8")[hits].view(bool))
    return (hits[marked >> 3] << 3) + (marked & 7)


def _eights(escaped: Elements, count: int) -> Elements | None:
    """Which eights have a mark, where it pays to ask."""
    if count % 8 or np.count_nonzero(escaped) > SPARSE * count:
        return None
    return np.flatnonzero(escaped.view("<u8") != 0)


def _rows(x: Elements) -> Any:
    return x.view("<u8" if x.itemsize == 1 else f"V{8 * x.itemsize}")
