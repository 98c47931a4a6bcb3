"""Planes: neighbouring bytes of all elements together, each group kept, entropy-coded or said once.

Stored bytes, integers little-endian. An element is ``width`` bytes, 1, 2, 4 or 8; ``n = raw length // width``.

    header   transform     u8
             groups        u8     k
             k times       bytes u8 (1, 2, 4 or 8), method u8, stored length u32
             zeros up to a multiple of 16
    streams  one for each group, in the order of the header
    tail     the raw length % width bytes that are no element, as they are

The groups take the transformed elements apart from the least significant byte up; their bytes add up to the width, and
each begins at a multiple of its size. A group's stream is n integers of its size, one of each element:

    method 0    raw           n · bytes
    method 1    zstandard     one frame with its content size, n · bytes when decompressed
    method 2    constant      one integer of ``bytes`` bytes, the same in all elements

Transforms, modulo 2^(8·width), x being the element: 0, x itself; 1, x rotated left by one bit, so that a float's
exponent fills the highest byte and its sign is the lowest bit; 2, zigzag of the difference d of x and the base's (the
guess's) element: 2·d for 0 ≤ d < 2^(8·width−1), otherwise −2·d − 1. PLANES has transform 0 or 1; DELTA and PREDICTED 2.
The tail of a delta is that of the raw bytes, too.
"""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np

from ciuic.codec import CodecError, zstd

NONE, ROTATED, ZIGZAG = 0, 1, 2
RAW, ZSTD, CONSTANT = 0, 1, 2
GROUP = struct.Struct("<BBI")
HEAD = 2
ALIGNMENT = 16
MOST_GROUPS = 8
PLANE_MOST = 0.97

Elements = Any


def elements_of(view: memoryview, width: int) -> Elements:
    """The whole elements of a buffer, as unsigned integers."""
    return np.frombuffer(view, f"<u{width}", len(view) // width)


def rotated(x: Elements) -> Elements:
    bits = x.itemsize * 8 - 1
    return (x << 1) | (x >> bits)


def zigzag(d: Elements) -> Elements:
    bits = d.itemsize * 8 - 1
    sign = (d.view(f"<i{d.itemsize}") >> bits).view(d.dtype)
    return (d << 1) ^ sign


def encode(view: memoryview, width: int, plan: Any, base: memoryview | None, check: bool) -> tuple[Any, float]:
    """The stored bytes by ``plan``, and the processor seconds that the check took."""
    x = elements_of(view, width)
    transform = plan.transform
    if transform == ZIGZAG:
        assert base is not None and len(base) == len(view), "a base has the length of the raw bytes"
        x = zigzag(x - elements_of(base, width))
    elif transform == ROTATED:
        x = rotated(x)
    octets = np.ascontiguousarray(x).view(np.uint8).reshape(-1, width)
    checked = 0.0
    methods: list[int] = list(plan.methods)
    frames: dict[int, Any] = {}
    for place, method in enumerate(methods):
        if method == CONSTANT and not (octets[:, place] == octets[0, place]).all():
            methods[place] = method = ZSTD
        if method == ZSTD:
            plane = np.ascontiguousarray(octets[:, place])
            frame = zstd.compress_plane(plane)
            if len(frame) > PLANE_MOST * len(plane):
                methods[place] = RAW
                continue
            if check:
                began = time.thread_time()
                good = np.array_equal(np.frombuffer(zstd.decompress(frame, len(plane)), np.uint8), plane)
                checked += time.thread_time() - began
                if not good:
                    methods[place] = RAW
                    continue
            frames[place] = frame
    groups = _groups(methods)
    parts: list[Any] = []
    for place, size, method in groups:
        if method == ZSTD:
            parts.append(frames[place])
        else:
            stream = x.view(f"<u{size}")[place // size :: width // size]
            parts.append(memoryview(np.ascontiguousarray(stream[: 1 if method == CONSTANT else None])).cast("B"))
    head = bytes((transform, len(groups))) + b"".join(
        GROUP.pack(size, method, len(part)) for (_, size, method), part in zip(groups, parts, strict=True)
    )
    tail = view[len(x) * width :]
    return b"".join((head, bytes(-len(head) % ALIGNMENT), *parts, tail)), checked


def _groups(methods: list[int]) -> list[tuple[int, int, int]]:
    """(first byte, bytes, method): neighbours that are kept alike together, each group at a multiple of its size."""
    groups: list[tuple[int, int, int]] = []
    place = 0
    while place < len(methods):
        size = 1
        while (
            methods[place] != ZSTD
            and place % (2 * size) == 0
            and methods[place : place + 2 * size] == [methods[place]] * (2 * size)
        ):
            size *= 2
        groups.append((place, size, methods[place]))
        place += size
    return groups


def decode(stored: memoryview, raw_length: int, width: int) -> Any:
    """The raw bytes of PLANES."""
    _parsed(stored, raw_length, width)  # before anything of that length is allocated
    out = memoryview(np.empty(raw_length, np.uint8))
    decode_into(stored, out, width, False)
    return out


def decode_into(stored: memoryview, out: memoryview, width: int, based: bool) -> None:
    """Fill ``out``; ``based``: add to what is in it."""
    transform, groups, tail = _parsed(stored, len(out), width)
    if (transform == ZIGZAG) != based:
        raise CodecError("a transform that this codec has not")
    x = elements_of(out, width)
    into = np.empty_like(x) if transform else x
    for place, size, method, stream in groups:
        part = into.view(f"<u{size}")[place // size :: width // size]
        part[...] = np.frombuffer(zstd.decompress(stream, size * len(x)) if method == ZSTD else stream, f"<u{size}")
    if transform == ROTATED:
        np.bitwise_or(into >> 1, into << (8 * width - 1), out=x)
    elif transform == ZIGZAG:
        np.add(x, (into >> 1) ^ (0 - (into & 1)), out=x)
    out[len(x) * width :] = tail


def _parsed(stored: memoryview, raw_length: int, width: int) -> tuple[int, list[tuple[int, int, int, memoryview]], Any]:
    """The transform, (first byte, bytes, method, stream) of each group, and the tail."""
    if width not in (1, 2, 4, 8):
        raise CodecError(f"elements of {width} bytes")
    if len(stored) < HEAD or stored[0] > ZIGZAG or not 1 <= stored[1] <= MOST_GROUPS:
        raise CodecError("not the header of planes")
    transform, count = stored[0], stored[1]
    end = HEAD + count * GROUP.size
    at = end + -end % ALIGNMENT
    if len(stored) < at or any(stored[end:at]):
        raise CodecError("not the header of planes")
    elements, place, groups = raw_length // width, 0, []
    for size, method, length in GROUP.iter_unpack(stored[HEAD:end]):
        if size not in (1, 2, 4, 8) or place % size or method > CONSTANT or place + size > width:
            raise CodecError("groups of bytes that do not fit the elements")
        if length > len(stored) - at or (method != ZSTD and length != size * (elements if method == RAW else 1)):
            raise CodecError("a stream of the wrong length")
        groups.append((place, size, method, stored[at : at + length]))
        place, at = place + size, at + length
    tail = stored[at:]
    if place != width or len(tail) != raw_length % width:
        raise CodecError("planes that do not add up to the stated length")
    return transform, groups, tail
