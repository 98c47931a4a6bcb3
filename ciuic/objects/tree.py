"""Trees: the stored form of a state tree, one node a module path, so that diff and dedup cost what changed.

Encoding (a CBOR map):
    {"kind": <container kind>, "entries": [[key, entry], …], "modules": [[name, tree id], …]}
"modules" is there for kind "module" only: the part of a dotted name before the first dot leads to a node of its own.
An entry is a map with one of
    "value": a plain value;  "blob": {"length", "chunks"}, a plain value whose encoding is chunked;
    "tree": the id of a child;
    "tensor": {"dtype", "shape", "chunk", "chunks"} and optionally "tie" (path), "array", "quantizer".
Kind "leaf" is a root whose component is a single leaf.
"chunks" is the chunk ids joined; "chunk" is the chunk size in bytes (the last one may be shorter).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ciuic.objects.dtypes import DTYPE_WIDTHS, NUMPY_DTYPES, PACKED_ELEMENTS
from ciuic.objects.encoding import EncodingError, decode, encode
from ciuic.objects.ids import ID_LENGTH
from ciuic.objects.plain import from_encodable, to_encodable
from ciuic.objects.state_tree import CONTAINER_KINDS, Key, Plain

MAX_DIMENSIONS = 64
MOST_KEY_LENGTH = 4096
"""Characters of a key or of a module's name."""
MOST_CHUNK_BYTES = 1 << 26
ARRAYS = ("torch", "numpy", "numpy.generic")
LEAF = "leaf"  # the kind of a root that stands for one leaf: its only entry
TREE_KINDS = (*CONTAINER_KINDS, LEAF)


@dataclass(frozen=True)
class TensorEntry:
    """A tensor: ``chunks`` are the ids of its row-major bytes cut every ``chunk_size`` bytes."""

    dtype: str
    shape: tuple[int, ...]
    chunk_size: int
    chunks: tuple[bytes, ...]
    tie: tuple[Key, ...] | None = None
    array: str = "torch"
    quantizer: Plain = None

    @property
    def nbytes(self) -> int:
        return stored_nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class ValueEntry:
    value: Plain


@dataclass(frozen=True)
class BlobEntry:
    """A plain value whose canonical encoding, ``length`` bytes, is stored as chunks."""

    length: int
    chunk_size: int
    chunks: tuple[bytes, ...]


@dataclass(frozen=True)
class ChildEntry:
    id: bytes


Entry: TypeAlias = "TensorEntry | ValueEntry | BlobEntry | ChildEntry"


@dataclass(frozen=True)
class Tree:
    kind: str
    entries: tuple[tuple[Key, Entry], ...] = ()
    modules: tuple[tuple[str, bytes], ...] = field(default=())


def stored_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's row-major storage. Where a byte holds several elements, each row begins with a new byte."""
    if dtype in PACKED_ELEMENTS:
        rows, row = math.prod(shape[:-1]), shape[-1] if shape else 1
        return rows * -(-row // PACKED_ELEMENTS[dtype])
    return math.prod(shape) * DTYPE_WIDTHS[dtype]


def chunk_count(nbytes: int, chunk_size: int) -> int:
    return -(-nbytes // chunk_size)


def encode_tree(tree: Tree) -> bytes:
    for key in (*(key for key, _ in tree.entries), *(name for name, _ in tree.modules)):
        if isinstance(key, str) and len(key) > MOST_KEY_LENGTH:
            raise EncodingError(f"{key[:40]!r}… is longer than {MOST_KEY_LENGTH} characters")
    value: dict[str, Any] = {
        "kind": tree.kind,
        "entries": [[key, _entry(entry)] for key, entry in tree.entries],
    }
    if tree.kind == "module":
        value["modules"] = [list(pair) for pair in tree.modules]
    return encode(value)


def _entry(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, ValueEntry):
        return {"value": to_encodable(entry.value, "")}
    if isinstance(entry, ChildEntry):
        return {"tree": entry.id}
    chunked = {"chunk": entry.chunk_size, "chunks": b"".join(entry.chunks)}
    if isinstance(entry, BlobEntry):
        return {"blob": {"length": entry.length, **chunked}}
    tensor: dict[str, Any] = {"dtype": entry.dtype, "shape": list(entry.shape), **chunked}
    if entry.tie is not None:
        tensor["tie"] = list(entry.tie)
    if entry.array != "torch":
        tensor["array"] = entry.array
    if entry.quantizer is not None:
        tensor["quantizer"] = to_encodable(entry.quantizer, "quantizer")
    return {"tensor": tensor}


def decode_tree(data: bytes) -> Tree:
    """The tree of canonical bytes; EncodingError for anything else, a shape that disagrees with its chunks included."""
    value = decode(data)
    try:
        return _tree(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EncodingError(f"not a tree: {error}") from error


def _tree(value: dict[str, Any]) -> Tree:
    kind = value["kind"]
    _require(kind in TREE_KINDS, "unknown kind")
    _require(kind != LEAF or len(value["entries"]) == 1, "a leaf holds one entry")
    _require(set(value) == {"kind", "entries"} | ({"modules"} if kind == "module" else set()), "unknown fields")
    entries = tuple((_key(key), _read_entry(entry)) for key, entry in _pairs(value["entries"]))
    modules = tuple((_key(name), _id(child)) for name, child in _pairs(value.get("modules", [])))
    _require(all(isinstance(name, str) for name, _ in modules), "a module's name is not text")
    _require(len({(type(key), key) for key, _ in entries}) == len(entries), "a key stands twice")
    _require(len({name for name, _ in modules}) == len(modules), "a module stands twice")
    return Tree(kind, entries, modules)  # type: ignore[arg-type]  # names are text: just checked


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _list(value: Any) -> list[Any]:
    """Text, bytes and maps can be walked through, too."""
    _require(isinstance(value, list), "no array")
    return value  # type: ignore[no-any-return]  # just checked


def _pairs(value: Any) -> list[Any]:
    _require(all(len(_list(pair)) == 2 for pair in _list(value)), "no array of pairs")
    return value  # type: ignore[no-any-return]  # just checked


def _key(key: Any) -> Key:
    _require(isinstance(key, (str, int)) and not isinstance(key, bool), "a key is neither text nor integer")
    _require(not isinstance(key, str) or len(key) <= MOST_KEY_LENGTH, "a key that is too long")
    return key  # type: ignore[no-any-return]  # just checked


def _id(value: Any) -> bytes:
    _require(isinstance(value, bytes) and len(value) == ID_LENGTH, "an id of the wrong length")
    return value  # type: ignore[no-any-return]  # just checked


def _read_entry(entry: dict[str, Any]) -> Entry:
    _require(len(entry) == 1, "an entry holds one thing")
    ((what, value),) = entry.items()
    if what == "value":
        return ValueEntry(from_encodable(value))
    if what == "tree":
        return ChildEntry(_id(value))
    if what == "blob":
        length = value["length"]
        return BlobEntry(length, value["chunk"], _chunks(value, length))
    _require(what == "tensor", f"unknown entry {what!r}")
    return _tensor(value)


def _chunks(value: dict[str, Any], nbytes: int) -> tuple[bytes, ...]:
    chunk_size, joined = value["chunk"], value["chunks"]
    _require(type(chunk_size) is int and 0 < chunk_size <= MOST_CHUNK_BYTES, "bad chunk size")
    _require(type(nbytes) is int and nbytes >= 0 and isinstance(joined, bytes), "bad chunks")
    _require(len(joined) == chunk_count(nbytes, chunk_size) * ID_LENGTH, "the chunks do not add up to the size")
    return tuple(joined[start : start + ID_LENGTH] for start in range(0, len(joined), ID_LENGTH))


def _tensor(value: dict[str, Any]) -> TensorEntry:
    known = {"dtype", "shape", "chunk", "chunks", "tie", "array", "quantizer"}
    _require(set(value) <= known, "unknown tensor fields")
    dtype, shape = value["dtype"], tuple(_list(value["shape"]))
    _require(dtype in DTYPE_WIDTHS, f"unknown dtype {dtype!r}")
    _require(len(shape) <= MAX_DIMENSIONS, "too many dimensions")
    _require(all(type(size) is int and size >= 0 for size in shape), "bad shape")
    _require(math.prod(size or 1 for size in shape) < 1 << 63, "bad shape")
    tie = value.get("tie")
    array = value.get("array", "torch")
    _require(array in ARRAYS, "unknown array type")
    _require(array == "torch" or dtype in NUMPY_DTYPES, "no dtype of numpy's")
    quantizer = from_encodable(value.get("quantizer"))
    _require((quantizer is not None) == dtype.startswith(("qint", "quint")), "a quantised dtype and no quantizer")
    _require(quantizer is None or _is_quantizer(quantizer, shape), "bad quantizer")
    return TensorEntry(
        dtype,
        shape,
        value["chunk"],
        _chunks(value, stored_nbytes(dtype, shape)),
        tie=None if tie is None else tuple(_key(part) for part in _list(tie)),
        array=array,
        quantizer=quantizer,
    )


def _is_quantizer(value: Any, shape: tuple[int, ...]) -> bool:
    """{"scheme", "scale", "zero_point"}: numbers, or a list of them a channel with its "axis"."""
    if not isinstance(value, dict) or not {"scheme", "scale", "zero_point"} <= set(value):
        return False
    if type(value["scheme"]) is not str:
        return False
    scale, zero_point = value["scale"], value["zero_point"]
    if set(value) == {"scheme", "scale", "zero_point"}:
        return type(scale) is float and type(zero_point) is int and abs(zero_point) < 1 << 31
    axis = value.get("axis")
    return (
        len(value) == 4
        and type(axis) is int
        and 0 <= axis < len(shape)
        and isinstance(scale, list)
        and isinstance(zero_point, list)
        and len(scale) == len(zero_point) == shape[axis]
        and all(type(each) is float for each in scale)
        and any(all(type(each) is kind for each in zero_point) for kind in (int, float))
        and all(abs(each) < 1 << 31 for each in zero_point if type(each) is int)
    )
