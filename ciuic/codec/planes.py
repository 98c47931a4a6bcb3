"""Planes: neighbouring bytes of all elements together, each group of bytes kept or coded in its own way.

Stored bytes, integers little-endian. An element is ``width`` bytes, 1, 2, 4 or 8; there are n = raw length // width.

    header    transform   u8
              groups      u8      k, from 1 to 8
              zeros       2
              factor      f32     of transform 4, finite and more than 0; otherwise zero
              k times     first byte u8, bytes u8 (1, 2, 4 or 8), method u8, zero u8, stored length u32
    streams   one for each group, in the order of the header
    tail      the raw length % width bytes that are no element, as they are

A group is some bytes of every transformed element, counted from the least significant; its first byte is a multiple of
their number. Together the groups have each byte once. What a stream gives is n integers, one of each element:

    method 0  raw         n · bytes
    method 1  zstandard   one frame with its content size, which is n · bytes
    method 2  constant    one integer of ``bytes`` bytes, the same in all elements
    method 3  split       bits u8 (0, 1 or 2), coded u8 (0 or 1), zeros 2, length of the codes u32, number of the
                          rest u32, zeros 4, centre u64; the codes (split.py), as they are or as one frame, or instead
                          the gaps: header and streams as above, of elements of 4 bytes, transform 0; then the rest:
                          the same, of elements of ``bytes`` bytes. At most 4 in one another.

Transforms, modulo 2^(8·width), x being the element and b that of the base or the guess:

    0    x itself
    1    x rotated left by one bit, so that a float's exponent fills the highest byte and its sign is the lowest bit
    2    zigzag of the difference d = x − b: 2·d for d < 2^(8·width−1), otherwise 2·(2^(8·width) − d) − 1
    3    d itself
    4    x − b', b' being b · factor, as floats of 4 bytes: what fades by a constant share is nearly known

PLANES has transform 0 or 1, DELTA and PREDICTED have the others; their tail is that of the raw bytes, too.
"""

from __future__ import annotations

import math
import struct
import time
from typing import Any, NamedTuple

import numpy as np

from ciuic.codec import CodecError, choice, split, zstd
from ciuic.codec.choice import CONSTANT, RAW, SPLIT, ZSTD, Group, Plan
from ciuic.codec.transforms import DIFFERENCES, NONE, SCALED, Elements, elements_of, restore, scratch, transformed

HEAD = struct.Struct("<BB2xf")
GROUP = struct.Struct("<BBBxI")
SPLIT_HEAD = struct.Struct("<BB2xII4xQ")
MOST_GROUPS = 8
MOST_NESTED = 4
WIDTHS = (1, 2, 4, 8)
FRAME_WORTH_IT = 0.97
MOST_REST = 0.6
GAPS_PLAN = Plan(NONE, (Group(0, 1, ZSTD), Group(1, 1, ZSTD), Group(2, 2, CONSTANT, 1)), 1.0)


class _Coder:
    """Codes one chunk; ``check_s`` adds up what checking takes."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.check_s = 0.0

    def frame(self, plane: Elements) -> bytes | None:
        """What zstandard makes of it, if that is worth it and comes back."""
        coded = zstd.compress_plane(plane)
        if len(coded) > FRAME_WORTH_IT * plane.nbytes:
            return None
        if self.check:
            began = time.thread_time()
            good = _comes_back(coded, plane)
            self.check_s += time.thread_time() - began
            if not good:
                return None
        return coded

    def payload(self, x: Elements, plan: Plan, depth: int, tail: Any = b"") -> Elements:
        """Header, streams and tail of transformed elements."""
        streams = [self.stream(x, group, depth) for group in plan.groups]
        lengths = [
            group.size * len(x) if method == RAW else sum(map(len, parts))
            for group, (method, parts) in zip(plan.groups, streams, strict=True)
        ]
        head = [HEAD.pack(plan.transform, len(streams), plan.factor)]
        for group, (method, _), length in zip(plan.groups, streams, lengths, strict=True):
            head.append(GROUP.pack(group.place, group.size, method, length))
        out = np.empty(HEAD.size + GROUP.size * len(streams) + sum(lengths) + len(tail), np.uint8)
        at = _put(out, 0, head)
        for group, (method, parts), length in zip(plan.groups, streams, lengths, strict=True):
            if method == RAW:
                _extract(x, group, out[at : at + length].view(f"<u{group.size}"))
                at += length
            else:
                at = _put(out, at, parts)
        _put(out, at, [tail])
        return out

    def stream(self, x: Elements, group: Group, depth: int) -> tuple[int, list[Any]]:
        """The method in the end and the parts of a group's stream; none for RAW."""
        if group.method == RAW or not len(x):
            return RAW, []
        plane = x
        if group.size < x.itemsize:
            plane = _extract(x, group, scratch(f"plane {depth}", len(x), group.size))
        if group.method == CONSTANT and (plane == plane.dtype.type(group.centre)).all():
            return CONSTANT, [group.centre.to_bytes(group.size, "little")]
        if group.method != ZSTD and depth < MOST_NESTED:
            parts = self.split(plane, group, depth)
            if 0 < sum(map(len, parts)) < plane.nbytes:
                return SPLIT, parts
        frame = self.frame(plane)
        return (RAW, []) if frame is None else (ZSTD, [frame])

    def split(self, plane: Elements, group: Group, depth: int) -> list[Any]:
        """The parts of the stream; none where too much is left over."""
        bits, codes, rest = split.split(plane, group.bits, group.centre)
        if len(rest) > MOST_REST * len(plane):
            return []
        coded = bits != split.GAPS
        kept: Any = self.frame(codes) if coded else self.payload(codes, GAPS_PLAN, MOST_NESTED)
        if kept is None:
            coded, kept = False, codes.tobytes()
        head = SPLIT_HEAD.pack(bits, coded, len(kept), len(rest), group.centre)
        return [head, kept, self.payload(rest, choice.rest(rest), depth + 1)]


def encode(raw: Any, width: int, plan: Plan, base: Any, check: bool) -> tuple[Any, float]:
    """The stored bytes by ``plan``, and the processor seconds that the check took."""
    x = elements_of(raw, width)
    coder = _Coder(check)
    z = transformed(plan.transform, x, None if base is None else elements_of(base, width), plan.factor)
    return coder.payload(z, plan, 0, raw[len(x) * width :]).data, coder.check_s


def _put(out: Elements, at: int, parts: list[Any]) -> int:
    for part in parts:
        if len(part):
            out[at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
    return at


def _comes_back(frame: bytes, plane: Elements) -> bool:
    try:
        decoded = zstd.decompress(frame, plane.nbytes)
    except CodecError:
        return False
    kind = np.uint64 if len(decoded) % 8 == 0 else np.uint8
    return bool((np.frombuffer(decoded, kind) == plane.view(kind)).all())


def _extract(x: Elements, group: Group, into: Elements) -> Elements:
    """The bytes of a group, one integer for each element. Narrowing is twice as fast as a strided copy."""
    if group.size == x.itemsize:
        np.copyto(into, x)
    elif group.place == 0:
        np.copyto(into, x, casting="unsafe")
    elif x.itemsize == 8:
        np.copyto(into, x.view(f"<u{group.size}")[group.place // group.size :: 8 // group.size])
    else:
        other = scratch("other", len(x), x.itemsize)
        np.right_shift(x, x.dtype.type(8 * group.place), out=other)
        np.copyto(into, other, casting="unsafe")
    return into


class _Stream(NamedTuple):
    place: int
    size: int
    method: int
    data: memoryview


def decode(stored: memoryview, raw_length: int, width: int) -> Any:
    """The raw bytes of PLANES."""
    _top(stored, raw_length, width)  # before anything of that length is allocated
    out = np.empty(raw_length, np.uint8).data
    decode_into(stored, out, width, False)
    return out


def decode_into(stored: memoryview, out: memoryview, width: int, based: bool) -> None:
    """Fill ``out``; ``based``: add to what is in it."""
    transform, streams, tail = _top(stored, len(out), width)
    if (transform in DIFFERENCES) != based:
        raise CodecError("a transform that this codec has not")
    x = elements_of(out, width)
    if transform == NONE:
        _fill(x, streams, 0)
    elif len(x):
        z = scratch("elements", len(x), width)
        _fill(z, streams, 0)
        restore(transform, z, x, _factor(stored))
    out[len(x) * width :] = tail


def _fill(x: Elements, streams: list[_Stream], depth: int) -> None:
    """Put the groups together, the lowest first: widening it sets all other bytes to zero."""
    if not len(x):
        return
    lowest, *others = sorted(streams)
    values = _values(lowest, len(x), depth)
    np.copyto(x, values)
    for stream in others:
        part = x.view(f"<u{stream.size}")[stream.place // stream.size :: x.itemsize // stream.size]
        values = _values(stream, len(x), depth, part)
        if values is not part and (values.shape or values):
            np.copyto(part, values)


def _values(stream: _Stream, count: int, depth: int, zeros: Elements | None = None) -> Elements:
    """A group's integers, or one for all of them; or ``zeros``, where these go, with those that are not zero set."""
    kind = np.dtype(f"<u{stream.size}")
    if stream.method == RAW:
        return np.frombuffer(stream.data, kind)
    if stream.method == CONSTANT:
        return np.frombuffer(stream.data, kind).reshape(())
    if stream.method == ZSTD:
        return np.frombuffer(zstd.decompress(stream.data, count * stream.size), kind)
    if depth >= MOST_NESTED:
        raise CodecError("too many splits in one another")
    bits, coded, length, many, centre = SPLIT_HEAD.unpack_from(stream.data)
    data = stream.data[SPLIT_HEAD.size :]
    if bits > 2 or coded > 1 or length > len(data) or many > count or centre >> 8 * stream.size:
        raise CodecError("not the header of a split")
    rest = _nested(data[length:], many, stream.size, depth + 1)
    if bits == split.GAPS:
        places = split.places(_nested(data[:length], many, 4, MOST_NESTED), count)
        x = split.filled(centre, count, stream.size, depth) if zeros is None or centre else zeros
        x[places] = rest
        return x
    nbytes = split.codes_length(bits, count)
    if not coded and length != nbytes:
        raise CodecError("codes of the wrong length")
    codes = zstd.decompress(data[:length], nbytes) if coded else data[:length]
    x, escaped = split.joined(np.frombuffer(codes, np.uint8), bits, centre, count, stream.size, depth)
    if np.count_nonzero(escaped) != many:
        raise CodecError("a rest of the wrong length")
    split.put(x, escaped, rest)
    return x


def _nested(data: memoryview, count: int, width: int, depth: int) -> Elements:
    """The gaps or the rest of a split."""
    transform, streams, tail = _parsed(data, count, width)
    if transform != NONE or len(tail):
        raise CodecError("not a part of a split")
    x = np.empty(count, f"<u{width}")
    _fill(x, streams, depth)
    return x


def _top(stored: memoryview, raw_length: int, width: int) -> tuple[int, list[_Stream], memoryview]:
    if width not in WIDTHS:
        raise CodecError(f"elements of {width} bytes")
    transform, streams, tail = _parsed(stored, raw_length // width, width)
    if len(tail) != raw_length % width:
        raise CodecError("planes that do not add up to the stated length")
    if transform == SCALED and width != 4:
        raise CodecError("a factor for what is no float of single precision")
    return transform, streams, tail


def _factor(stored: memoryview) -> float:
    return float(HEAD.unpack_from(stored)[2])


def _parsed(stored: memoryview, count: int, width: int) -> tuple[int, list[_Stream], memoryview]:
    """The transform, the streams, of which raw and constant ones have the right length, and what follows them."""
    if len(stored) < HEAD.size or stored[0] > SCALED or not 1 <= stored[1] <= MOST_GROUPS or any(stored[2:4]):
        raise CodecError("not the header of planes")
    if not 0 < _factor(stored) < math.inf if stored[0] == SCALED else any(stored[4:8]):
        raise CodecError("a factor that is none")
    transform, groups = stored[0], stored[1]
    at = HEAD.size + groups * GROUP.size
    if len(stored) < at:
        raise CodecError("not the header of planes")
    streams, seen = [], 0
    for place, size, method, length in GROUP.iter_unpack(stored[HEAD.size : at]):
        own = ((1 << size) - 1) << place
        if size not in WIDTHS or place % size or place + size > width or seen & own or method > SPLIT:
            raise CodecError("groups that do not fit the elements")
        least = {RAW: size * count, CONSTANT: size, ZSTD: 1, SPLIT: SPLIT_HEAD.size}[method]
        if length > len(stored) - at or length < least or (method in (RAW, CONSTANT) and length != least):
            raise CodecError("a stream of the wrong length")
        streams.append(_Stream(place, size, method, stored[at : at + length]))
        seen, at = seen | own, at + length
    if seen != (1 << width) - 1:
        raise CodecError("groups that do not make up the elements")
    return transform, streams, stored[at:]
