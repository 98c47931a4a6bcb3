"""The snapshot before: the chunks of each of its leaves, and their bytes where they are still in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ciuic.commit.leaves import Leaf, Path
from ciuic.errors import CiuicError
from ciuic.objects.state_tree import Key, Plain, TensorSource
from ciuic.objects.tree import LEAF, ChildEntry, TensorEntry
from ciuic.store.object_reader import read_snapshot, read_tree
from ciuic.store.store import Store


class EarlierLeaf(NamedTuple):
    """``source``: the raw bytes; None when they are in the packs only."""

    dtype: str
    shape: tuple[int, ...]
    chunk_size: int
    chunks: tuple[bytes, ...]
    source: TensorSource | None

    def fits(self, leaf: Leaf, chunk_size: int) -> bool:
        """Chunk by chunk the two are of one length and one kind."""
        return (self.dtype, self.shape, self.chunk_size) == (leaf.dtype, leaf.shape, chunk_size) and bool(leaf.dtype)


Earlier = Mapping[Path, EarlierLeaf]
Groups = dict[Path, Mapping[Key, Plain]]
"""Hyper-parameters by the path of a parameter's optimizer state."""


class Memory:
    """What a committer remembers of the snapshot that it wrote last.

    With ``bytes_stay`` its sources are remembered too: whoever sets that says so when they are no longer what they
    were (``forget_bytes``). All of it is void after a sweep.
    """

    def __init__(self, *, bytes_stay: bool = False) -> None:
        self.bytes_stay = bytes_stay
        self._snapshot: str | None = None
        self._generation = -1
        self._leaves: Earlier = {}
        self.groups: Groups = {}

    def before(self, store: Store, parents: Sequence[str]) -> Earlier:
        """The leaves of the first parent; none when there is no parent, or it cannot be read."""
        if not parents:
            return {}
        if self._snapshot != parents[0] or self._generation != store.generation:
            self._snapshot, self._generation = parents[0], store.generation
            self._leaves, self.groups = _stored_leaves(store, parents[0]), {}
        return self._leaves

    def remember(
        self, store: Store, snapshot: str, leaves: Iterable[Leaf], ids: Iterable[tuple[bytes, ...]], groups: Groups
    ) -> None:
        """A snapshot that has just been written."""
        size = store.config.chunk_size
        self._snapshot, self._generation, self.groups = snapshot, store.generation, groups
        self._leaves = {
            leaf.path: EarlierLeaf(leaf.dtype, leaf.shape, size, chunks, leaf.source if self.bytes_stay else None)
            for leaf, chunks in zip(leaves, ids, strict=True)
        }

    def forget_bytes(self) -> None:
        """The sources are written over, or were: their ids are all that is known."""
        self._leaves = {path: leaf._replace(source=None) for path, leaf in self._leaves.items()}


def _stored_leaves(store: Store, snapshot: str) -> Earlier:
    """The tensors of a stored snapshot, with dotted names put together again."""
    leaves: dict[Path, EarlierLeaf] = {}
    try:
        stack: list[tuple[Path, str, bytes]] = [
            ((name,), "", bytes.fromhex(root))
            for name, root in read_snapshot(store, bytes.fromhex(snapshot)).tree.items()
        ]
        while stack:
            path, prefix, id = stack.pop()
            tree = read_tree(store, id)
            stack += [(path, f"{prefix}{name}.", child) for name, child in tree.modules]
            for key, entry in tree.entries:
                below = path if tree.kind == LEAF else (*path, f"{prefix}{key}" if prefix else key)
                if isinstance(entry, ChildEntry):
                    stack.append((below, "", entry.id))
                elif isinstance(entry, TensorEntry):
                    leaves[below] = EarlierLeaf(entry.dtype, entry.shape, entry.chunk_size, entry.chunks, None)
    except CiuicError:  # pruned or damaged: the next snapshot stands by itself
        return {}
    return leaves
