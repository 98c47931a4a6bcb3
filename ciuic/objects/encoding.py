"""One canonical encoding: deterministic CBOR (RFC 8949, section 4.2.1), a subset.

Integers, byte strings, text, arrays, maps with text keys in bytewise order of their encoding, true, false, null,
64-bit floats (always 64 bits, so that a value has one form), bignums (tags 2 and 3) and tag 27.
The decoder accepts exactly what the encoder writes: anything else is an error, so an object has one encoding.
It recurses to a fixed depth, and makes a bounded number of Python objects: compressed, a few kilobytes of input may
be a million times as long.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 100
MOST_ITEMS = 1 << 24
"""Of one encoding: a gigabyte of them would be ten of Python's objects."""
MOST_BIGNUM_BYTES = 1785
"""4 300 digits: Python prints no longer integer."""
OBJECT_TAG = 27  # "serialised object": [type name, arguments...], http://cbor.schmorp.de/generic-object

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)
LARGEST_REPEATED = 4096
SIMPLE_VALUES = {20: False, 21: True, 22: None}


class EncodingError(ValueError):
    """Bytes that are not the canonical encoding of anything, or a value that has none."""


@dataclass(frozen=True)
class Tagged:
    """Tag 27: a type name and its arguments."""

    name: str
    arguments: tuple[Any, ...]


def encode(value: Any, depth: int = 0) -> bytes:
    """The canonical bytes of ``value``; EncodingError for what has none, or would not inside ``depth`` containers."""
    out = bytearray()
    if _encode(value, out, depth) > MOST_ITEMS:
        raise EncodingError(f"more than {MOST_ITEMS} items")
    return bytes(out)


def _head(major: int, number: int, out: bytearray) -> None:
    major <<= 5
    if number < 24:
        out.append(major | number)
    elif number < 1 << 8:
        out += struct.pack(">BB", major | 24, number)
    elif number < 1 << 16:
        out += struct.pack(">BH", major | 25, number)
    elif number < 1 << 32:
        out += struct.pack(">BI", major | 26, number)
    else:
        out += struct.pack(">BQ", major | 27, number)


def _encode(value: Any, out: bytearray, depth: int) -> int:
    """Append the encoding; the number of items in it."""
    if depth > MAX_DEPTH:
        raise EncodingError(f"nested more than {MAX_DEPTH} deep")
    if value is None:
        out.append(0xF6)
    elif value is True:
        out.append(0xF5)
    elif value is False:
        out.append(0xF4)
    elif isinstance(value, int):
        _encode_int(value, out)
    elif isinstance(value, float):
        out.append(0xFB)
        out += struct.pack(">d", value)
    elif isinstance(value, str):
        try:
            data = value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise EncodingError(f"text that is not valid Unicode: {value!r}") from error
        _head(TEXT, len(data), out)
        out += data
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _head(BYTES, len(value), out)
        out += value
    elif isinstance(value, (list, tuple)):
        _head(ARRAY, len(value), out)
        return 1 + sum([_encode(item, out, depth + 1) for item in value])
    elif isinstance(value, dict):
        return _encode_map(value, out, depth)
    elif isinstance(value, Tagged):
        _head(TAG, OBJECT_TAG, out)
        return 1 + _encode([value.name, *value.arguments], out, depth + 1)
    else:
        raise EncodingError(f"no encoding for {type(value).__name__}")
    return 1


def _encode_int(value: int, out: bytearray) -> None:
    major, number = (UNSIGNED, value) if value >= 0 else (NEGATIVE, -1 - value)
    if number < 1 << 64:
        _head(major, number, out)
        return
    _head(TAG, 2 if major == UNSIGNED else 3, out)
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(data) > MOST_BIGNUM_BYTES:
        raise EncodingError(f"an integer of more than {MOST_BIGNUM_BYTES} bytes")
    _head(BYTES, len(data), out)
    out += data


def _encode_map(value: dict[Any, Any], out: bytearray, depth: int) -> int:
    pairs = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise EncodingError("a map takes text keys only")
        encoded = bytearray()
        _encode(key, encoded, depth + 1)
        pairs.append((bytes(encoded), item))
    _head(MAP, len(pairs), out)
    items = 1 + len(pairs)
    for encoded_key, item in sorted(pairs, key=lambda pair: pair[0]):
        out += encoded_key
        items += _encode(item, out, depth + 1)
    return items


Repeated = dict[int, tuple[bytes, bytes, str, Any]]
"""Place in an outermost map → the entry that it last had: encoding, encoded key, key, value."""
UNKNOWN = (b"", b"", "", None)


def decode(data: Any, repeated: Repeated | None = None) -> Any:
    """The value of canonical bytes; EncodingError for anything else, trailing bytes included.

    ``repeated`` goes from one call to the next when many like maps are decoded: an entry of an outermost map that is
    as it was the last time is not decoded again. Such values are shared, so the caller copies what it hands on.
    """
    if isinstance(data, int):  # of which Python would make so many zeros
        raise EncodingError("a number, and no bytes")
    reader = _Reader(bytes(data), repeated)
    try:
        value = reader.value(0)
    except (IndexError, struct.error) as error:
        raise EncodingError("truncated") from error
    except UnicodeDecodeError as error:
        raise EncodingError("text that is not UTF-8") from error
    if reader.position != reader.length:
        raise EncodingError("bytes after the end")
    return value


class _Reader:
    """Reading heads in line is worth its lines: `ciuic log` decodes a thousand snapshots before it prints."""

    __slots__ = ("data", "items", "length", "position", "repeated")

    def __init__(self, data: bytes, repeated: Repeated | None) -> None:
        self.data = data
        self.repeated = repeated
        self.length = len(data)
        self.position = 0
        self.items = 1

    def take(self, length: int) -> bytes:
        start = self.position
        end = self.position = start + length
        if end > self.length:
            raise EncodingError("truncated")
        return self.data[start:end]

    def long_number(self, info: int) -> int:
        """The number that follows a head whose low bits are 24 or more."""
        if info > 27:
            raise EncodingError("indefinite lengths are not canonical")
        width = 1 << (info - 24)
        number = int.from_bytes(self.take(width), "big")
        if number < (24 if width == 1 else 1 << (4 * width)):
            raise EncodingError("a number is not in its shortest form")
        return number

    def value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise EncodingError(f"nested more than {MAX_DEPTH} deep")
        first = self.data[self.position]
        self.position += 1
        major, number = first >> 5, first & 31
        if number >= 24 and major != SIMPLE:
            number = self.long_number(number)
        if major == TEXT:
            return self.take(number).decode()
        if major == UNSIGNED:
            return number
        if major == BYTES:
            return self.take(number)
        if major == SIMPLE:
            return self.simple(number)
        if major == MAP:
            return self.map(number, depth)
        if major == ARRAY:
            self.check_count(number, number)
            return [self.value(depth + 1) for _ in range(number)]
        if major == TAG:
            return self.tag(number, depth)
        return -1 - number

    def check_count(self, count: int, items: int) -> None:
        """There are so many entries ahead, which are so many items."""
        if count > self.length - self.position:
            raise EncodingError("truncated")
        self.items += items
        if self.items > MOST_ITEMS:
            raise EncodingError(f"more than {MOST_ITEMS} items")

    def map(self, count: int, depth: int) -> dict[str, Any]:
        self.check_count(count, 2 * count)
        if depth == 0 and self.repeated is not None:
            return self.outermost_map(count, self.repeated)
        result: dict[str, Any] = {}
        previous = b""
        for _ in range(count):
            encoded, key = self.key(previous)
            previous = encoded
            result[key] = self.value(depth + 1)
        return result

    def key(self, previous: bytes) -> tuple[bytes, str]:
        """A map's next key, encoded and plain."""
        start = self.position
        head = self.data[start]
        self.position = start + 1
        if head >> 5 != TEXT:
            raise EncodingError("a map's key is not text")
        key = self.take(head & 31 if head & 31 < 24 else self.long_number(head & 31)).decode()
        encoded = self.data[start : self.position]
        if encoded <= previous:
            raise EncodingError("map keys are not in canonical order")
        return encoded, key

    def outermost_map(self, count: int, repeated: Repeated) -> dict[str, Any]:
        result: dict[str, Any] = {}
        previous = b""
        for number in range(count):
            start = self.position
            entry, encoded, key, value = repeated.get(number, UNKNOWN)
            # No encoding is the beginning of another one: where these bytes stand, this key and this value stand.
            if encoded > previous and self.data.startswith(entry, start):
                self.position = start + len(entry)
            else:
                encoded, key = self.key(previous)
                value = self.value(1)
                if self.position - start <= LARGEST_REPEATED:
                    repeated[number] = (self.data[start : self.position], encoded, key, value)
            previous = encoded
            result[key] = value
        return result

    def tag(self, number: int, depth: int) -> Any:
        if number in (2, 3):
            data = self.value(depth + 1)
            if not isinstance(data, bytes) or len(data) < 9 or data[0] == 0:
                raise EncodingError("a bignum is not in its shortest form")
            if len(data) > MOST_BIGNUM_BYTES:
                raise EncodingError(f"an integer of more than {MOST_BIGNUM_BYTES} bytes")
            magnitude = int.from_bytes(data, "big")
            return magnitude if number == 2 else -1 - magnitude
        if number != OBJECT_TAG:
            raise EncodingError(f"unknown tag {number}")
        self.check_count(0, 1)
        arguments = self.value(depth + 1)
        if not isinstance(arguments, list) or not arguments or not isinstance(arguments[0], str):
            raise EncodingError("tag 27 without a type name")
        return Tagged(arguments[0], tuple(arguments[1:]))

    def simple(self, number: int) -> Any:
        if number == 27:
            return struct.unpack(">d", self.take(8))[0]
        if number not in SIMPLE_VALUES:
            raise EncodingError(f"unknown simple value {number}")
        return SIMPLE_VALUES[number]
