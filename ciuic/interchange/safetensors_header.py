"""The header of a safetensors file, written and read; a foreign one is checked before it is used.

Format: 8 bytes of little-endian header length, a JSON object from tensor name to dtype, shape and byte
range, then the data, without holes or overlaps (https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from ciuic.errors import InvalidImport
from ciuic.objects.state_tree import Tensor

METADATA = "__metadata__"

LARGEST_HEADER = 100_000_000
"""Bytes; the reference implementation's limit."""

DTYPES = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "uint16": ("U16", 2),
    "int16": ("I16", 2),
    "uint32": ("U32", 4),
    "int32": ("I32", 4),
    "uint64": ("U64", 8),
    "int64": ("I64", 8),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "float32": ("F32", 4),
    "float64": ("F64", 8),
    "complex64": ("C64", 8),
    "float8_e4m3fn": ("F8_E4M3", 1),
    "float8_e4m3fnuz": ("F8_E4M3FNUZ", 1),
    "float8_e5m2": ("F8_E5M2", 1),
    "float8_e5m2fnuz": ("F8_E5M2FNUZ", 1),
    "float8_e8m0fnu": ("F8_E8M0", 1),
}
"""torch's name → safetensors' name, bytes an element."""

_FROM_FILE = {code: (name, width) for name, (code, width) in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor. ``dtype`` is torch's name; ``start`` and ``stop`` count from the first byte of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """The data, which the offsets of ``tensors`` count from, begins ``data_start`` bytes into the file."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]
    data_start: int


def encode_header(tensors: Mapping[str, Tensor], data_order: Iterable[str], metadata: Mapping[str, str]) -> bytes:
    """Length and header, padded to align the data. Names stand in the order of ``tensors``, data in ``data_order``."""
    header: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    header.update(dict.fromkeys(tensors))
    end = 0
    for name in data_order:
        tensor = tensors[name]
        start, end = end, end + tensor.source.nbytes
        offsets = {"data_offsets": [start, end]}
        header[name] = {"dtype": DTYPES[tensor.dtype][0], "shape": list(tensor.shape), **offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(stream: BinaryIO, file_size: int, name: str) -> Header:
    """Read and check the header at the start of ``stream``.

    Raises InvalidImport for anything the format forbids. Allocates no more than a small multiple of the
    header, whose length is checked against the file first.
    """
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > LARGEST_HEADER or length > file_size - 8:
        _refuse(name, "its header is longer than the file or than the format allows")
    text = stream.read(length)
    if len(text) < length or not text.startswith(b"{"):
        _refuse(name, "its header is cut short or is no JSON object")
    try:
        fields = json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(name, f"its header is not valid: {error}")
    metadata = fields.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(name, "its metadata is not a mapping of strings")
    tensors = {key: _entry(key, value, name) for key, value in fields.items()}
    _check_layout(tensors, file_size - 8 - length, name)
    return Header(tensors, metadata, 8 + length)


def _entry(key: str, value: Any, file: str) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _refuse(file, f"{key!r} does not have exactly dtype, shape and data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _FROM_FILE:
        _refuse(file, f"{key!r} has the dtype {code!r}, which cannot be imported")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        _refuse(file, f"the shape or the offsets of {key!r} are not lists of sizes")
    dtype, width = _FROM_FILE[code]
    if offsets[1] - offsets[0] != width * math.prod(shape):
        _refuse(file, f"the offsets of {key!r} do not fit its dtype and shape")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def _sizes(value: Any) -> bool:
    """A list of sizes whose product, zeros aside, is below 2**63: torch can count it."""
    if not isinstance(value, list) or len(value) > 64 or not all(type(size) is int and size >= 0 for size in value):
        return False
    return math.prod(size or 1 for size in value) < 1 << 63


def _check_layout(tensors: Mapping[str, Entry], data_size: int, file: str) -> None:
    end = 0
    for key, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            _refuse(file, f"the data of {key!r} overlaps another tensor's or leaves a hole before it")
        end = entry.stop
    if end != data_size:
        _refuse(file, f"it holds {data_size} bytes of data where its header describes {end}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _refuse(file: str, why: str) -> NoReturn:
    raise InvalidImport(f"{file} is not a valid safetensors file: {why}. Get an intact copy of the file.")
