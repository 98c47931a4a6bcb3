"""Few values that most elements have, apart from the rest: which elements are the rest, and the rest by themselves.

Huffman codes spend a whole bit on a value however common it is, and zstandard finds matches in such planes that cost
more than they save. Two, four or eight codes in a byte are coded within a few percent of their entropy, and many times
faster. With ``centre`` c and an element e, as integers modulo 2^(8·width), by the bits of a code:

    0    no codes: the number of elements with e = c between one of the rest and the one before, for each of the rest
    1    0 for e = c; 1 for the rest
    2    e − c where that is 0, 1 or 2; 3 for the rest
    4    e − c where that is less than 15; 15 for the rest

Codes fill bytes from the lowest bit up; the last byte is filled with zeros.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ciuic.codec import CodecError
from ciuic.codec.transforms import Elements, scratch

GAPS, ONE_BIT, TWO_BITS, FOUR_BITS = 0, 1, 2, 4
ESCAPE = 3
LAST = 15
"""Of four bits: the rest."""
FEW = 0.05
"""Share of the elements up to which the gaps between them take less than codes."""
SPARSE = 0.13
"""Share of marked elements up to which it is faster to look for eights with a mark first."""
GATHER = np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
"""Times the codes in the lowest two bits of four bytes: all four in the highest byte."""


def codes_length(bits: int, count: int) -> int:
    per_byte = 8 // bits
    return -(-count // per_byte)


def split(x: Elements, bits: int, centre: int) -> tuple[int, Elements, Elements]:
    """The bits after all, the gaps (uint32) or the codes (bytes, scratch), and the rest, of ``x``'s dtype."""
    count = len(x)
    escaped = scratch("marks", -(-count // 8) * 8).view(bool)
    escaped[count:] = False
    if bits == ONE_BIT:
        np.not_equal(x, x.dtype.type(centre), out=escaped[:count])
        if np.count_nonzero(escaped) <= FEW * count:
            places = _places(escaped)
            return GAPS, _gaps(places), x[places]
        return bits, np.packbits(escaped.view(np.uint8)[:count], bitorder="little"), _marked(escaped, x)
    ranks = x
    if centre:
        ranks = scratch("ranks", count, x.itemsize)
        np.subtract(x, x.dtype.type(centre), out=ranks)
    if bits == FOUR_BITS:
        return bits, _nibbles(ranks, escaped), _marked(escaped, x)
    np.greater_equal(ranks, x.dtype.type(ESCAPE), out=escaped[:count])
    codes = scratch("codes", -(-count // 4) * 4)
    codes[count:] = 0
    np.negative(escaped.view(np.uint8)[:count], out=codes[:count])
    np.bitwise_or(codes[:count], _low(ranks), out=codes[:count])
    fours = codes.view("<u4")
    np.bitwise_and(fours, np.uint32(0x03030303), out=fours)
    np.multiply(fours, GATHER, out=fours)
    np.right_shift(fours, np.uint32(24), out=fours)
    packed = scratch("packed", len(fours))
    np.copyto(packed, fours, casting="unsafe")
    return bits, packed, _marked(escaped, x)


def _low(x: Elements) -> Elements:
    """The lowest byte of each element."""
    if x.itemsize == 1:
        return x
    low = scratch("low", len(x))
    np.copyto(low, x, casting="unsafe")
    return low


def _nibbles(ranks: Elements, escaped: Elements) -> Elements:
    """Codes of four bits, and in ``escaped`` which are the rest."""
    count = len(ranks)
    np.greater_equal(ranks, ranks.dtype.type(LAST), out=escaped[:count])
    codes = scratch("codes", -(-count // 2) * 2)
    codes[count:] = 0
    np.negative(escaped.view(np.uint8)[:count], out=codes[:count])  # ten times as fast as a minimum
    np.bitwise_or(codes[:count], _low(ranks), out=codes[:count])
    pairs = codes.view("<u2")
    np.bitwise_and(pairs, np.uint16(0x0F0F), out=pairs)
    seconds = scratch("seconds", len(pairs), 2)
    np.right_shift(pairs, np.uint16(4), out=seconds)
    np.bitwise_or(pairs, seconds, out=pairs)
    packed = scratch("packed", len(pairs))
    np.copyto(packed, pairs, casting="unsafe")
    return packed


def joined(codes: Elements, bits: int, centre: int, count: int, width: int, slot: str) -> tuple[Elements, Elements]:
    """``count`` elements with anything for the rest, and which are the rest: bool, of a multiple of 8.

    Both are scratch of this ``slot``.
    """
    kind = np.dtype(f"<u{width}")
    if bits == ONE_BIT:
        x = filled(centre, count, width, slot)
        escaped: Elements = np.unpackbits(codes, bitorder="little").view(bool)
        escaped[count:] = False
        return x, escaped
    if bits == FOUR_BITS:
        return _from_nibbles(codes, centre, count, width, slot)
    x = scratch(f"joined {slot}", 4 * len(codes), width)
    np.take(_fours(centre, width), codes, axis=0, out=x.reshape(-1, 4), mode="clip")
    x = x[:count]
    escaped = scratch(f"marks {slot}", -(-count // 8) * 8).view(bool)
    escaped[count:] = False
    np.equal(x, kind.type(centre + ESCAPE & (1 << 8 * width) - 1), out=escaped[:count])
    return x, escaped


def _from_nibbles(codes: Elements, centre: int, count: int, width: int, slot: str) -> tuple[Elements, Elements]:
    nibbles = scratch(f"nibbles {slot}", 2 * len(codes))
    pairs, seconds = nibbles.view("<u2"), scratch("seconds", len(codes), 2)
    np.copyto(pairs, codes)
    np.left_shift(pairs, np.uint16(4), out=seconds)
    np.bitwise_or(pairs, seconds, out=pairs)
    np.bitwise_and(pairs, np.uint16(0x0F0F), out=pairs)
    escaped = scratch(f"marks {slot}", -(-count // 8) * 8).view(bool)
    escaped[count:] = False
    np.equal(nibbles[:count], np.uint8(LAST), out=escaped[:count])
    x = nibbles[:count]
    if width > 1:
        x = scratch(f"joined {slot}", count, width)
        np.copyto(x, nibbles[:count])
    if centre:
        np.add(x, x.dtype.type(centre), out=x)
    return x, escaped


def filled(centre: int, count: int, width: int, slot: str) -> Elements:
    """``count`` times ``centre``, as scratch of this ``slot``."""
    x = scratch(f"joined {slot}", count, width)
    x.fill(centre)
    return x


def places(gaps: Elements, count: int) -> Elements:
    """Which of ``count`` elements are the rest, by the gaps between them."""
    found: Elements = np.cumsum(gaps, dtype=np.int64)
    found += np.arange(len(gaps))
    if len(found) and found[-1] >= count:
        raise CodecError("gaps that go beyond the last element")
    return found


def put(x: Elements, escaped: Elements, rest: Elements) -> None:
    """Set the elements of ``x`` that ``escaped`` marks to those of ``rest``, in their order."""
    hits = _eights(escaped, len(x))
    if hits is None:
        x[np.flatnonzero(escaped[: len(x)])] = rest
        return
    rows = _rows(x)
    eights = rows[hits]
    eights.view(x.dtype)[np.flatnonzero(escaped.view("<u8")[hits].view(bool))] = rest
    rows[hits] = eights


@functools.lru_cache(64)
def _fours(centre: int, width: int) -> Elements:
    """The four elements of each byte of 2-bit codes."""
    numbers = np.arange(256, dtype=np.uint64)
    codes = np.stack([numbers >> np.uint64(shift) & np.uint64(ESCAPE) for shift in (0, 2, 4, 6)], 1)
    table: Elements = (codes + np.uint64(centre)).astype(f"<u{width}")
    return table


def _gaps(places: Elements) -> Elements:
    gaps = np.empty(len(places), np.uint32)
    if len(places):
        gaps[0] = places[0]
        np.copyto(gaps[1:], places[1:] - places[:-1] - 1, casting="unsafe")
    return gaps


def _marked(escaped: Elements, x: Elements) -> Elements:
    """The elements of ``x`` that ``escaped`` (bool, of a multiple of 8) marks."""
    hits = _eights(escaped, len(x))
    marked: Elements
    if hits is None:
        marked = x[np.flatnonzero(escaped[: len(x)])]
    else:
        marked = _rows(x)[hits].view(x.dtype)[np.flatnonzero(escaped.view("<u8")[hits].view(bool))]
    return marked


def _eights(escaped: Elements, count: int) -> Elements | None:
    """Which eights have a mark, where it pays to ask."""
    if count % 8 or np.count_nonzero(escaped) > SPARSE * count:
        return None
    return np.flatnonzero(escaped.view("<u8") != 0)


def _rows(x: Elements) -> Any:
    return x.view("<u8" if x.itemsize == 1 else f"V{8 * x.itemsize}")


def _places(escaped: Elements) -> Elements:
    """Where the few marks are."""
    eights = escaped.view("<u8")
    hits = np.flatnonzero(eights != 0)
    marked = np.flatnonzero(eights[hits].view(bool))
    found: Elements = (hits[marked >> 3] << 3) + (marked & 7)
    return found
