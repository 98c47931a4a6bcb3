"""A part of a snapshot's state, named by the path that people type after ``REV:``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ciuic.errors import UnknownPath
from ciuic.history.leaves import LONGEST_LISTED_SEQUENCE
from ciuic.objects.state_tree import Container, Key, Plain, StateNode, Tensor, Value, path_text, walk


@dataclass(frozen=True)
class Part:
    """A node and where it stands; ``path`` begins with the component."""

    path: tuple[Key, ...]
    node: StateNode

    @property
    def text(self) -> str:
        """The path as people type it."""
        return path_text(self.path)

    def children(self) -> Iterator[Part]:
        """What lies one level below; nothing below a leaf."""
        for key, child in children_of(self.node):
            yield Part((*self.path, key), child)

    def leaves(self) -> Iterator[Part]:
        """Every tensor and plain value at or below; a long plain list is one value, not one an element."""
        children = list(self.children())
        whole = isinstance(self.node, Value) and len(children) > LONGEST_LISTED_SEQUENCE
        if whole or not children:
            yield self
        else:
            for child in children:
                yield from child.leaves()

    def tensors(self) -> list[Tensor]:
        """Every tensor at or below; of names that share memory, the first alone."""
        return [leaf for _, leaf in walk(self.node) if isinstance(leaf, Tensor) and leaf.tie is None]


def children_of(node: StateNode) -> tuple[tuple[Key, StateNode], ...]:
    """Keys and nodes one level below; a plain dict, list or tuple is opened like any other container."""
    if isinstance(node, Container):
        return node.items
    if isinstance(node, Tensor):
        return ()
    if isinstance(node.value, dict):
        return tuple((key, Value(value)) for key, value in node.value.items())
    if isinstance(node.value, (list, tuple)):
        return tuple((index, Value(value)) for index, value in enumerate(node.value))
    return ()


def select(state: Mapping[str, StateNode], path: str) -> Part:
    """The part of ``state`` (component → tree) at ``path``, all of it for ""; raises UnknownPath."""
    part = Part((), Container("dict", tuple(state.items())))
    rest = path.strip("/")
    while rest:
        for child in part.children():
            name = str(child.path[-1])
            if rest == name or rest.startswith(f"{name}/"):
                part, rest = child, rest[len(name) + 1 :]
                break
        else:
            return _module_below(part, rest) or _refuse(part, path)
    return part


def _module_below(part: Part, name: str) -> Part | None:
    """The tensors of one module, "layers.0", out of the flat names of its parent."""
    if not isinstance(part.node, Container):
        return None
    items = tuple(item for item in part.node.items if str(item[0]).startswith(f"{name}."))
    return Part(part.path, Container(part.node.kind, items)) if items else None


def _refuse(part: Part, path: str) -> Part:
    where = f"{part.text} holds" if part.path else "There are"
    names = [str(child.path[-1]) for child in part.children()]
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise UnknownPath(f"No {path} in this snapshot. {where} {listed or 'nothing'}. `ciuic ls REV:PATH` lists a part.")


def plain(node: StateNode) -> Plain:
    """The node as plain values, when there is no tensor in it; ValueError otherwise."""
    if isinstance(node, Value):
        return node.value
    if isinstance(node, Tensor):
        raise ValueError("a tensor")
    if node.kind in ("list", "tuple"):
        return [plain(child) for _, child in node.items]
    return {key: plain(child) for key, child in node.items}
