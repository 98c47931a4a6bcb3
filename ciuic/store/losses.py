"""What is lost of a snapshot: which tensors, and which of their chunks."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from ciuic.errors import CiuicError
from ciuic.objects.tree import BlobEntry, ChildEntry, TensorEntry
from ciuic.store.object_reader import read_tree
from ciuic.store.store import Store

MOST_DEPTH = 200
MOST_LOSSES = 100_000
"""Below one tree. A few trees that hold each other many times over would never come to an end."""


@dataclass(frozen=True)
class Loss:
    """``path``: of a tensor or a value as in ``model/layers.0.weight``, or of all below a tree that is lost.

    ``chunks``: numbers of the chunks that cannot be read; none where it is a tree. ``reason``: of the first one.
    """

    path: str
    chunks: tuple[int, ...]
    reason: str


class Losses:
    """Walks trees, each once, however many snapshots share it."""

    def __init__(
        self, store: Store, listed: Container[bytes], why: Callable[[bytes], str], say: Callable[[str], None]
    ) -> None:
        """``listed``: chunks that can be read; ``why`` one cannot; ``say``: called with a line for each loss."""
        self.store = store
        self.listed = listed
        self.why = why
        self.say = say
        self.trees: dict[bytes, tuple[Loss, ...]] = {}

    def of_component(self, name: str, root: bytes) -> tuple[Loss, ...]:
        return tuple(_under(f"{name}/", each) for each in self._below(root, f"{name}/", 0))

    def _below(self, id: bytes, path: str, depth: int) -> tuple[Loss, ...]:
        """Relative to the tree. ``path``: with what separates it from names below."""
        if id in self.trees:
            return self.trees[id]
        if depth > MOST_DEPTH:
            self.say(f"{path[:-1]}: trees nested too deep.")
            return (Loss("", (), "nested too deep"),)
        self.trees[id] = ()  # a cycle would need a hash collision; this ends it all the same
        try:
            tree = read_tree(self.store, id)
        except CiuicError as error:
            self.say(f"{path[:-1]}: {error}")
            self.trees[id] = (Loss("", (), str(error)),)
            return self.trees[id]
        found: list[Loss] = []
        for key, entry in tree.entries:
            if isinstance(entry, ChildEntry):
                below = self._below(entry.id, f"{path}{key}/", depth + 1)
                found += [_under(f"{key}/", each) for each in below]
            elif isinstance(entry, (TensorEntry, BlobEntry)):
                lost = [number for number, chunk in enumerate(entry.chunks) if chunk not in self.listed]
                for number in lost:
                    chunk = entry.chunks[number]
                    self.say(f"{path}{key}: chunk {number} ({chunk.hex()[:12]}) is {self.why(chunk)}.")
                if lost:
                    found.append(Loss(str(key), tuple(lost), self.why(entry.chunks[lost[0]])))
        for name, child in tree.modules:
            found += [_under(f"{name}.", each) for each in self._below(child, f"{path}{name}.", depth + 1)]
        self.trees[id] = tuple(found[:MOST_LOSSES])
        return self.trees[id]


def _under(prefix: str, loss: Loss) -> Loss:
    return replace(loss, path=prefix + loss.path if loss.path else prefix[:-1])
