"""The tree of leaves: what a run's state looks like between the live objects and the store.

``state/`` builds it from live objects, with nothing copied yet; ``commit/`` writes it; ``restore/`` builds the same
tree over stored bytes; ``state/`` puts it back. So neither side needs to know the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

Key: TypeAlias = "str | int"
Plain: TypeAlias = Any
"""None, bool, int, float, complex, str, bytes; list, tuple, dict (str or int keys), OrderedDict, Counter of these."""

CONTAINER_KINDS = ("dict", "OrderedDict", "Counter", "list", "tuple", "module")


class TensorSource(Protocol):
    """The row-major bytes of one tensor."""

    @property
    def nbytes(self) -> int: ...

    @property
    def stable(self) -> bool:
        """The bytes stay as they are while a commit reads them; it copies those of any other source first."""
        ...

    def read(self, start: int, stop: int) -> Any:
        """Bytes ``[start, stop)`` as a contiguous buffer (bytes-like, ``stop - start`` long), read-only to the caller.

        ``start`` and ``stop`` are multiples of the element width.
        """
        ...


class Target(NamedTuple):
    """Where the bytes of a stored source go.

    ``memory``: writable, one byte an item; it takes the bytes from ``start`` on, as many as it has. Without it,
    ``take(position, piece)`` is called for all the source's bytes, piece by piece, in any order, in the thread that
    asked; a piece begins at a multiple of the element width, and is valid during the call.
    """

    source: TensorSource
    memory: Any = None
    take: Callable[[int, Any], None] | None = None
    start: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor leaf.

    ``dtype`` is torch's name without the prefix ("bfloat16"); ``shape`` is a tuple of ints (``()`` for a scalar).
    ``tie`` is the path, inside the component, of the first tensor that shares this one's memory.
    ``array`` says what it was: "torch", "numpy" (an array) or "numpy.generic" (a scalar).
    ``quantizer`` holds the scheme of a quantised tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    source: TensorSource = field(repr=False, compare=False)
    tie: tuple[Key, ...] | None = None
    array: str = "torch"
    quantizer: Plain = None

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, ...],
        source: TensorSource,
        tie: tuple[Key, ...] | None = None,
        array: str = "torch",
        quantizer: Plain = None,
    ) -> None:
        # A commit makes hundreds while training waits, and a frozen dataclass's own __init__ takes twice as long.
        own = self.__dict__
        own["dtype"] = dtype
        own["shape"] = shape
        own["source"] = source
        own["tie"] = tie
        own["array"] = array
        own["quantizer"] = quantizer


@dataclass(frozen=True)
class Value:
    """A plain value without a tensor in it, containers included."""

    value: Plain


@dataclass(frozen=True)
class Container:
    """An inner node. ``kind`` is one of CONTAINER_KINDS; keys of "list" and "tuple" are 0, 1, 2, …

    A "module" is a flat mapping of dotted names ("layers.0.weight"), which the store keeps as one node a module path.
    """

    kind: str
    items: tuple[tuple[Key, StateNode], ...]

    def __getitem__(self, key: Key) -> StateNode:
        for name, node in self.items:
            if name == key and type(name) is type(key):
                return node
        raise KeyError(key)

    def get(self, key: Key) -> StateNode | None:
        try:
            return self[key]
        except KeyError:
            return None


StateNode: TypeAlias = "Tensor | Value | Container"


def expand(node: StateNode) -> StateNode:
    """A Value that is a dict, list or tuple as a Container of Values; anything else as it is."""
    if not isinstance(node, Value):
        return node
    value = node.value
    if isinstance(value, dict):
        kind = type(value).__name__ if type(value).__name__ in CONTAINER_KINDS else "dict"
        return Container(kind, tuple((key, Value(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return Container(kind, tuple((index, Value(item)) for index, item in enumerate(value)))
    return node


def walk(node: StateNode, path: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Tensor | Value]]:
    """Every leaf below ``node`` with its path, depth first, in order."""
    if isinstance(node, Container):
        for key, child in node.items:
            yield from walk(child, (*path, key))
    else:
        yield path, node


def path_text(path: tuple[Key, ...]) -> str:
    """A path as people type it: parts joined by "/"."""
    return "/".join(str(part) for part in path)
