"""Staged components ↔ bytes: the state trees with places in the slot where the tensors were.

Columns rather than nested maps: a tree of any depth is flat, and thousands of leaves take milliseconds. Nodes stand in
preorder. This is never stored: both sides run the same code on the same machine.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

from ciuic.errors import UnsupportedState
from ciuic.objects.encoding import EncodingError
from ciuic.objects.plain import from_encodable, to_encodable
from ciuic.objects.state_tree import CONTAINER_KINDS, Container, Key, StateNode, Tensor, Value, path_text

TENSOR, VALUE = len(CONTAINER_KINDS), len(CONTAINER_KINDS) + 1
KIND_CODES = {kind: code for code, kind in enumerate(CONTAINER_KINDS)}
TEXT_KEY, INTEGER_KEY = 0, 1
WIDE = "Q"


class SlotSource:
    """The TensorSource of a placed tensor in the process that has mapped its slot: no copy is made."""

    __slots__ = ("_progress", "_view", "nbytes")
    stable = True

    def __init__(self, view: memoryview, progress: Callable[[], None]) -> None:
        self.nbytes = len(view)
        self._view = view
        self._progress = progress

    def read(self, start: int, stop: int) -> memoryview:
        self._progress()
        return self._view[start:stop]


class _Names:
    """Distinct things by number: dtypes and shapes repeat from leaf to leaf."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def number(self, thing: Any) -> int:
        return self.numbers.setdefault(thing, len(self.numbers))


def encodable(components: Mapping[str, StateNode]) -> dict[str, Any]:
    """The components in the encoder's terms. UnsupportedState for a plain value that cannot be stored."""
    codes, counts = bytearray(), array(WIDE)
    keys: list[str] = []
    key_types = bytearray()
    dtypes, shapes, arrays = _Names(), _Names(), _Names()
    tensors = array(WIDE)
    ties: list[list[Any]] = []
    quantizers: list[list[Any]] = []
    values: list[Any] = []
    tensor_count = 0
    stack: list[StateNode] = [*components.values()][::-1]
    while stack:
        node = stack.pop()
        if isinstance(node, Tensor):
            source: Any = node.source
            codes.append(TENSOR)
            tensors.extend(
                (
                    source.offset,
                    source.nbytes,
                    dtypes.number(node.dtype),
                    shapes.number(tuple(node.shape)),
                    arrays.number(node.array),
                )
            )
            if node.tie is not None:
                ties.append([tensor_count, list(node.tie)])
            if node.quantizer is not None:
                quantizers.append([tensor_count, to_encodable(node.quantizer, "quantizer")])
            tensor_count += 1
        elif isinstance(node, Value):
            codes.append(VALUE)
            value = node.value
            if type(value) is not float and value is not None:
                try:
                    value = to_encodable(value, "")
                except UnsupportedState:
                    to_encodable(value, path_text(_path(components, node)))
                    raise
            values.append(value)
        else:
            codes.append(KIND_CODES[node.kind])
            counts.append(len(node.items))
            for key, _ in node.items:
                if isinstance(key, str):
                    key_types.append(TEXT_KEY)
                    keys.append(key)
                elif isinstance(key, bool):
                    raise UnsupportedState(f"dict key {key!r} is a bool. Keys must be strings or integers.")
                else:
                    key_types.append(INTEGER_KEY)
                    keys.append(str(int(key)))
            stack.extend([child for _, child in reversed(node.items)])
    return {
        "components": list(components),
        "nodes": bytes(codes),
        "counts": counts.tobytes(),
        # Text that is no Unicode is for the commit to refuse.
        "keys": "".join(keys).encode("utf-8", "surrogatepass"),
        "key_lengths": array(WIDE, map(len, keys)).tobytes(),
        "key_types": bytes(key_types),
        "tensors": tensors.tobytes(),
        "dtypes": list(dtypes.numbers),
        "shapes": [list(shape) for shape in shapes.numbers],
        "arrays": list(arrays.numbers),
        "ties": ties,
        "quantizers": quantizers,
        "values": values,
    }


def _path(components: Mapping[str, StateNode], wanted: StateNode) -> tuple[Key, ...]:
    """Where a node stands."""
    stack: list[tuple[tuple[Key, ...], StateNode]] = [((name,), node) for name, node in components.items()]
    while stack:
        path, node = stack.pop()
        if node is wanted:
            return path
        if isinstance(node, Container):
            stack.extend(((*path, key), child) for key, child in node.items)
    return ()


def components_of(manifest: Mapping[str, Any], slot: memoryview, progress: Callable[[], None]) -> dict[str, StateNode]:
    """The components over a mapped slot. EncodingError when a place is outside of it.

    ``progress`` is called whenever a tensor is read.
    """
    leaves = _leaves(manifest, slot, progress)
    values = iter(manifest["values"])
    counts = iter(_numbers(manifest["counts"]))
    keys = _keys(manifest)
    roots: list[StateNode] = []
    open_nodes: list[tuple[str, list[tuple[Key, StateNode]], list[Key]]] = []  # kind, items so far, keys to come
    node: StateNode
    for code in manifest["nodes"]:
        if code == TENSOR:
            node = next(leaves)
        elif code == VALUE:
            node = Value(from_encodable(next(values)))
        else:
            own = [next(keys) for _ in range(next(counts))]
            own.reverse()
            if own:
                open_nodes.append((CONTAINER_KINDS[code], [], own))
                continue
            node = Container(CONTAINER_KINDS[code], ())
        while open_nodes:  # a finished node ends those that it is the last child of
            kind, items, own = open_nodes[-1]
            items.append((own.pop(), node))
            if own:
                break
            open_nodes.pop()
            node = Container(kind, tuple(items))
        else:
            roots.append(node)
    return dict(zip(manifest["components"], roots, strict=True))


def _numbers(data: bytes) -> Any:
    numbers = array(WIDE)
    numbers.frombytes(data)
    return numbers


def _keys(manifest: Mapping[str, Any]) -> Any:
    text = manifest["keys"].decode("utf-8", "surrogatepass")
    start = 0
    for length, kind in zip(_numbers(manifest["key_lengths"]), manifest["key_types"], strict=True):
        key = text[start : start + length]
        start += length
        yield key if kind == TEXT_KEY else int(key)


def _leaves(manifest: Mapping[str, Any], slot: memoryview, progress: Callable[[], None]) -> Any:
    dtypes, arrays = manifest["dtypes"], manifest["arrays"]
    shapes = [tuple(shape) for shape in manifest["shapes"]]
    ties = {number: tuple(path) for number, path in manifest["ties"]}
    quantizers = {number: from_encodable(value) for number, value in manifest["quantizers"]}
    columns = iter(_numbers(manifest["tensors"]))
    for number, (offset, nbytes, dtype, shape, kind) in enumerate(zip(*[columns] * 5, strict=True)):
        if offset + nbytes > len(slot):
            raise EncodingError("a tensor outside of its slot")
        yield Tensor(
            dtypes[dtype],
            shapes[shape],
            SlotSource(slot[offset : offset + nbytes], progress),
            tie=ties.get(number),
            array=arrays[kind],
            quantizer=quantizers.get(number),
        )
