"""A stored component as a state tree: all of its metadata, and tensors that read their own chunks when asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ciuic.errors import DamagedData, DamageError
from ciuic.objects.encoding import EncodingError
from ciuic.objects.extent import Extent
from ciuic.objects.plain import decode_plain
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, path_text
from ciuic.objects.tree import LEAF, BlobEntry, ChildEntry, Entry, TensorEntry, Tree, ValueEntry
from ciuic.restore.holding import Holder
from ciuic.restore.stored_chunks import StoredChunks
from ciuic.store.object_reader import read_tree
from ciuic.store.store import Store

MAX_TREE_DEPTH = 200


def read_component(store: Store, name: str, root: bytes, holder: Holder | None = None) -> StateNode:
    """The state tree of one component. Its tensors hold their packs open and read when asked. Under the shared lock.

    ``holder``: of the snapshot, when several components are read.
    """
    tree = _Reader(Holder(store) if holder is None else holder).container(root, (name,), 0)
    return tree.items[0][1] if tree.kind == LEAF else tree


class _Reader:
    def __init__(self, holder: Holder) -> None:
        self.holder = holder
        self.store = holder.store
        self.extent = Extent()
        self._trees: dict[bytes, Tree] = {}

    def _count(self, fits: bool, path: str) -> None:
        # A few trees that hold each other many times over would never come to an end.
        if not fits:
            raise DamagedData(f"{path[:200]}: {self.extent.problem}, which no writer makes. Run `ciuic fsck`.")

    def _tree(self, id: bytes) -> Tree:
        """Each is read once, however many times it is held."""
        tree = self._trees.get(id)
        if tree is None:
            tree = self._trees[id] = read_tree(self.store, id)
        return tree

    def container(self, id: bytes, path: tuple[Key, ...], depth: int) -> Container:
        text = path_text(path)
        self._count(self.extent.leaf(len(text)), text)
        if depth > MAX_TREE_DEPTH:
            raise DamagedData(f"{text[:200]}: trees nested more than {MAX_TREE_DEPTH} deep. Run `ciuic fsck`.")
        try:
            tree = self._tree(id)
        except DamageError as error:
            raise type(error)(f"{text[:200]}: {error}") from error
        if tree.kind == "module":
            return Container("module", tuple(self.module(tree, path, "", depth)))
        return Container(tree.kind, tuple((key, self.entry(entry, (*path, key), depth)) for key, entry in tree.entries))

    def module(self, tree: Tree, path: tuple[Key, ...], prefix: str, depth: int) -> Iterator[tuple[Key, StateNode]]:
        """The entries of a module and of those below it, under their dotted names."""
        text = path_text(path)
        self._count(self.extent.leaf(len(text)), text)
        if depth > MAX_TREE_DEPTH:
            raise DamagedData(f"{text[:200]}: modules nested more than {MAX_TREE_DEPTH} deep. Run `ciuic fsck`.")
        for key, entry in tree.entries:
            name = f"{prefix}{key}"
            yield name, self.entry(entry, (*path, name), depth)
        for key, child in tree.modules:
            below = self._tree(child)
            if below.kind != "module":
                raise DamagedData(f"{path_text(path)}: {prefix}{key} is not a module. Run `ciuic fsck`.")
            yield from self.module(below, path, f"{prefix}{key}.", depth + 1)

    def entry(self, entry: Entry, path: tuple[Key, ...], depth: int) -> StateNode:
        if isinstance(entry, ChildEntry):
            return self.container(entry.id, path, depth + 1)
        text = path_text(path)
        if isinstance(entry, ValueEntry):
            self._count(self.extent.value(len(text), entry.value), text)
            return Value(entry.value)
        if isinstance(entry, BlobEntry):
            return Value(self.blob(entry, text))
        self._count(self.extent.leaf(len(text), chunks=len(entry.chunks)), text)
        return self.tensor(entry, text)

    def blob(self, entry: BlobEntry, path: str) -> Any:
        self._count(self.extent.value(0, None, entry.length), path)
        # Joined chunk by chunk: a stated length alone must not allocate anything.
        source = StoredChunks(self.holder, path, entry.length, entry.chunk_size, entry.chunks)
        data = b"".join(source.chunk(index) for index in range(len(entry.chunks)))
        try:
            value = decode_plain(data)
        except EncodingError as error:
            raise DamagedData(f"{path}: {error}. Run `ciuic fsck`.") from error
        self._count(self.extent.value(len(path), value), path)
        return value

    def tensor(self, entry: TensorEntry, path: str) -> Tensor:
        source = StoredChunks(self.holder, path, entry.nbytes, entry.chunk_size, entry.chunks)
        source.hold()
        return Tensor(entry.dtype, entry.shape, source, tie=entry.tie, array=entry.array, quantizer=entry.quantizer)
