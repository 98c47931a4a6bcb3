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
    method 3  split       bits u8 (0, 1, 2 or 4), coded u8 (0 or 1), zeros 2, length of the codes u32, number of the
                          rest u32, zeros 4, centre u64; the codes (split.py), as they are or as one frame, or instead
                          the gaps: header and streams as above, of elements of 4 bytes, transform 0; then the rest:
                          the same, of elements of ``bytes`` bytes. At most 4 in one another.

Transforms, modulo 2^(8·width), x being the element and b that of the base or the guess:

    0    x itself
    1    x rotated left by one bit, so that a float's exponent fills the highest byte and its sign is the lowest bit
    2    zigzag of the difference d = x − b: 2·d for d < 2^(8·width−1), otherwise 2·(2^(8·width) − d) − 1
    3    d itself
    4    x − b', b' being b · factor, as floats of 4 bytes: what fades by a constant share is nearly known
    5    d plus the number whose bytes are all 128: the digits of d to the base 256, from −128 to 127, each plus 128

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
from ciuic.codec.parts import put_together, take_apart
from ciuic.codec.transforms import BALANCED, DIFFERENCES, NONE, SCALED, Elements, elements_of, scratch

HEAD = struct.Struct("<BB2xf")
GROUP = struct.Struct("<BBBxI")
SPLIT_HEAD = struct.Struct("<BB2xII4xQ")
MOST_GROUPS = 8
MOST_NESTED = 4
WIDTHS = (1, 2, 4, 8)
FRAME_WORTH_IT = 0.97
MOST_REST = 0.6
BITS = (split.GAPS, split.ONE_BIT, split.TWO_BITS, split.FOUR_BITS)
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

    def payload(self, x: Elements, plan: Plan, depth: int, base: Elements | None = None, tail: Any = b"") -> Elements:
        """Header, streams and tail."""
        begin = HEAD.size + GROUP.size * len(plan.groups)
        out = np.empty(begin + x.nbytes + len(tail), np.uint8)
        parts, there = _parts(x, base, plan, depth, out[begin:])
        head, at = [HEAD.pack(plan.transform, len(plan.groups), plan.factor)], begin
        for group, part in zip(plan.groups, parts, strict=True):
            method, stream = self.stream(part, group, depth)
            length = part.nbytes if method == RAW else sum(map(len, stream))
            head.append(GROUP.pack(group.place, group.size, method, length))
            if method == RAW and at - begin >= there:
                stream = [part.view(np.uint8)]
            _put(out, at, stream)
            at += length
        _put(out, 0, head)
        _put(out, at, [tail])
        return out[: at + len(tail)]

    def stream(self, plane: Elements, group: Group, depth: int) -> tuple[int, list[Any]]:
        """The method in the end and the parts of a group's stream; none for RAW."""
        if group.method == RAW or not len(plane):
            return RAW, []
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
    before = None if base is None else elements_of(base, width)
    return coder.payload(x, plan, 0, before, raw[len(x) * width :]).data, coder.check_s


def _parts(x: Elements, base: Elements | None, plan: Plan, depth: int, out: Elements) -> tuple[list[Elements], int]:
    """The integers of each group. The first so many bytes of them stand in ``out`` already, where they belong if they
    are kept as they are."""
    first = plan.groups[0]
    if plan.transform == NONE and first.size == x.itemsize and first.method != RAW:
        return [x], 0
    parts: list[Elements] = []
    there = 0
    for group in plan.groups:
        nbytes = group.size * len(x)
        if group.method == RAW and there == sum(part.nbytes for part in parts):
            parts.append(out[there : there + nbytes].view(f"<u{group.size}"))
            there += nbytes
        else:
            parts.append(scratch(f"plane {depth} {group.place}", len(x), group.size))
    targets = {(group.place, group.size): part for group, part in zip(plan.groups, parts, strict=True)}
    take_apart(x, base, plan.transform, plan.factor, targets)
    return parts, there


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
    _fill(x, streams, 0, transform, _factor(stored))
    out[len(x) * width :] = tail


def _fill(x: Elements, streams: list[_Stream], depth: int, transform: int = NONE, factor: float = 0.0) -> None:
    """Put the groups together, and undo the transform; ``x`` holds the base if there is one."""
    if len(x):
        values = {(stream.place, stream.size): _values(stream, len(x), depth) for stream in streams}
        put_together(values, transform, factor, x)


def _values(stream: _Stream, count: int, depth: int) -> Elements:
    """A group's integers, or one for all of them."""
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
    data, slot = stream.data[SPLIT_HEAD.size :], f"{depth} {stream.place}"
    if bits not in BITS or coded > 1 or length > len(data) or many > count or centre >> 8 * stream.size:
        raise CodecError("not the header of a split")
    rest = _nested(data[length:], many, stream.size, depth + 1)
    if bits == split.GAPS:
        places = split.places(_nested(data[:length], many, 4, MOST_NESTED), count)
        x = split.filled(centre, count, stream.size, slot)
        x[places] = rest
        return x
    nbytes = split.codes_length(bits, count)
    if not coded and length != nbytes:
        raise CodecError("codes of the wrong length")
    codes = zstd.decompress(data[:length], nbytes) if coded else data[:length]
    x, escaped = split.joined(np.frombuffer(codes, np.uint8), bits, centre, count, stream.size, slot)
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
    if len(stored) < HEAD.size or stored[0] > BALANCED or not 1 <= stored[1] <= MOST_GROUPS or any(stored[2:4]):
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
