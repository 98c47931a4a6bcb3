"""A state as a flat mapping from paths to tensors and plain values: the form in which two are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ciuic.objects.state_tree import Container, Key, Plain, StateNode, Tensor, Value, path_text

LONGEST_LISTED_SEQUENCE = 16
"""A longer list or tuple (the state of a random generator) is one value, not one an element."""

Path = tuple[Key, ...]
Leaf = Tensor | Value


@dataclass(frozen=True)
class Leaves:
    """Leaves ``by_path``, the kind of each container, and which containers are ``empty``."""

    by_path: dict[Path, Leaf] = field(default_factory=dict)
    container_kinds: dict[Path, str] = field(default_factory=dict)
    empty: set[Path] = field(default_factory=set)

    def add(self, node: StateNode, path: Path) -> None:
        """Add what lies at and below ``node``. Plain containers inside a value are opened as well."""
        if isinstance(node, Tensor):
            self.by_path[path] = node
        elif isinstance(node, Container):
            self._add_container(node.kind, node.items, path)
        elif isinstance(node.value, dict):
            self._add_container(type(node.value).__name__, _values(node.value.items()), path)
        elif isinstance(node.value, (list, tuple)) and len(node.value) <= LONGEST_LISTED_SEQUENCE:
            self._add_container(type(node.value).__name__, _values(enumerate(node.value)), path)
        else:
            self.by_path[path] = node

    def _add_container(self, kind: str, items: Iterable[tuple[Key, StateNode]], path: Path) -> None:
        self.container_kinds[path] = kind
        self.empty.add(path)
        for key, child in items:
            self.empty.discard(path)
            self.add(child, (*path, key))

    def below(self, path: str) -> Leaves:
        """Only what lies at or below ``path``, written as people write it."""
        return Leaves(
            {key: leaf for key, leaf in self.by_path.items() if _within(path_text(key), path)},
            {key: kind for key, kind in self.container_kinds.items() if _within(path_text(key), path)},
            {key for key in self.empty if _within(path_text(key), path)},
        )

    def without(self, other: Leaves) -> tuple[str, ...]:
        """Paths of leaves and empty containers that ``other`` lacks, in order."""
        leaves = [path_text(key) for key in self.by_path if key not in other.by_path]
        return (*leaves, *sorted(path_text(key) for key in self.empty if key not in other.container_kinds))

    def __bool__(self) -> bool:
        return bool(self.by_path or self.container_kinds)


def leaves_of(state: Mapping[str, StateNode]) -> Leaves:
    """All leaves of a state given as component name → tree."""
    leaves = Leaves()
    for component, node in state.items():
        leaves.add(node, (component,))
    return leaves


def _values(items: Iterable[tuple[Key, Plain]]) -> Iterable[tuple[Key, StateNode]]:
    return ((key, Value(value)) for key, value in items)


def _within(text: str, path: str) -> bool:
    return text == path or text.startswith((path + "/", path + "."))


def same_plain(a: Plain, b: Plain) -> bool:
    """Equality that tells 1 from 1.0 and True, 0.0 from -0.0, and holds a NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_plain(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same_plain(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (float, complex)):
        return repr(a) == repr(b)
    return bool(a == b)


def describe(leaf: Leaf) -> str:
    """The type of a leaf: "float32[4, 3]", "float32[4, 3] tied to embed.weight", "int"."""
    if isinstance(leaf, Value):
        return type(leaf.value).__name__
    text = f"{leaf.dtype}[{', '.join(str(size) for size in leaf.shape)}]"
    if leaf.array != "torch":
        text = f"{leaf.array} {text}"
    return text if leaf.tie is None else f"{text} tied to {path_text(leaf.tie)}"
