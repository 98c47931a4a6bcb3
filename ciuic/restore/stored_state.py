"""A stored component as a state tree: all of its metadata, and tensors that read their own chunks when asked."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

from ciuic.errors import DamagedData, DamageError, MissingObject
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import Kind
from ciuic.objects.plain import decode_plain
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, Value, path_text
from ciuic.objects.tree import LEAF, BlobEntry, ChildEntry, Entry, TensorEntry, Tree, ValueEntry
from ciuic.store.object_reader import read_tree
from ciuic.store.pack import Pack
from ciuic.store.store import Store

MAX_TREE_DEPTH = 200
MOST_NODES = 1_000_000
MOST_HELD_PACKS = 256
_held_packs: weakref.WeakSet[Pack] = weakref.WeakSet()


class StoredChunks:
    """The bytes behind a list of chunk ids: a TensorSource.

    The packs are held open from the start, so that a sweep that unlinks them meanwhile takes nothing away. Beyond
    MOST_HELD_PACKS in a process a chunk is looked up anew when it is read, since descriptors are few.
    """

    stable = True

    def __init__(self, store: Store, path: str, nbytes: int, chunk_size: int, chunks: tuple[bytes, ...]) -> None:
        self.store = store
        self.path = path
        self.nbytes = nbytes
        self.chunk_size = chunk_size
        self.chunks = chunks
        self._places: list[tuple[Pack | None, int, int]] | None = None

    def hold(self) -> None:
        """Look up where the chunks are and keep their packs open. Under the shared lock."""
        if self._places is None:
            self._places = [self._named(index, self._place) for index in range(len(self.chunks))]

    def _place(self, id: bytes) -> tuple[Pack | None, int, int]:
        pack, offset, stored_length = self.store.locate(id)
        if pack not in _held_packs and len(_held_packs) >= MOST_HELD_PACKS:
            return None, offset, stored_length
        _held_packs.add(pack)
        return pack, offset, stored_length

    def _named(self, index: int, action: Callable[[bytes], Any]) -> Any:
        """``action(chunk id)``; damage names the tensor and the chunk."""
        try:
            return action(self.chunks[index])
        except MissingObject as error:
            raise MissingObject(f"{self.path}, chunk {index}: {error}") from error
        except DamagedData as error:
            raise DamagedData(f"{self.path}, chunk {index}: {error}") from error

    def _length(self, index: int) -> int:
        return min(self.chunk_size, self.nbytes - index * self.chunk_size)

    def chunk(self, index: int) -> Any:
        """The raw bytes of one chunk, verified against its id."""

        def read(id: bytes) -> Any:
            if self._places is not None:
                pack, offset, stored_length = self._places[index]
                try:
                    if pack is not None:
                        return pack.raw(offset, stored_length, id)
                except DamagedData:
                    pass  # another copy may be intact
            with self.store.shared():
                return self.store.read(Kind.CHUNK, id)

        raw = self._named(index, read)
        if len(raw) != self._length(index):
            raise DamagedData(f"{self.path}, chunk {index}: not as long as its tensor says. Run `ciuic fsck`.")
        return raw

    def verify(self) -> None:
        """Check the stored bytes of every chunk against their checksums, decoding nothing."""
        self.hold()

        def check(index: int, id: bytes) -> None:
            pack, offset, stored_length = self._places[index]  # type: ignore[index]  # held above
            if pack is None:
                pack, offset, stored_length = self.store.locate(id)
            header, _ = pack.stored(offset, stored_length)
            if header.id != id or header.raw_length != self._length(index):
                raise DamagedData(f"{pack.path} at offset {offset}: another object stands here. Run `ciuic fsck`.")

        for index in range(len(self.chunks)):
            try:
                self._named(index, lambda id, index=index: check(index, id))  # type: ignore[misc]
            except DamagedData:
                self.store.forget(self.chunks[index])
                self.chunk(index)  # falls back to another copy, or says what is lost

    def read(self, start: int, stop: int) -> Any:
        """Raw bytes ``[start, stop)``, reading only the chunks that they touch."""
        first, last = start // self.chunk_size, (stop - 1) // self.chunk_size
        if start >= stop:
            return b""
        if first == last:
            base = first * self.chunk_size
            return memoryview(self.chunk(first))[start - base : stop - base]
        out = bytearray(stop - start)
        self.read_into(memoryview(out), start)
        return out

    def read_into(self, target: memoryview, start: int = 0) -> None:
        """Fill ``target`` (writable, one byte an item) with the bytes from ``start`` on, a chunk at a time."""
        stop = start + len(target)
        for index in range(start // self.chunk_size, -(-stop // self.chunk_size)):
            base = index * self.chunk_size
            low, high = max(start, base), min(stop, base + self.chunk_size)
            target[low - start : high - start] = memoryview(self.chunk(index))[low - base : high - base]


def read_component(store: Store, name: str, root: bytes) -> StateNode:
    """The state tree of one component. Its tensors hold their packs open and read when asked. Under the shared lock."""
    tree = _Reader(store).container(root, (name,), 0)
    return tree.items[0][1] if tree.kind == LEAF else tree


class _Reader:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.nodes = 0
        self._trees: dict[bytes, Tree] = {}

    def _count(self, path: tuple[Key, ...]) -> None:
        # A few trees that hold each other many times over would never come to an end.
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise DamagedData(f"{path_text(path)}: more than {MOST_NODES} trees below one component. Run `ciuic fsck`.")

    def _tree(self, id: bytes) -> Tree:
        """Each is read once, however many times it is held."""
        tree = self._trees.get(id)
        if tree is None:
            tree = self._trees[id] = read_tree(self.store, id)
        return tree

    def container(self, id: bytes, path: tuple[Key, ...], depth: int) -> Container:
        self._count(path)
        if depth > MAX_TREE_DEPTH:
            raise DamagedData(f"{path_text(path)}: trees nested more than {MAX_TREE_DEPTH} deep. Run `ciuic fsck`.")
        try:
            tree = self._tree(id)
        except DamageError as error:
            raise type(error)(f"{path_text(path)}: {error}") from error
        if tree.kind == "module":
            return Container("module", tuple(self.module(tree, path, "", depth)))
        return Container(tree.kind, tuple((key, self.entry(entry, (*path, key), depth)) for key, entry in tree.entries))

    def module(self, tree: Tree, path: tuple[Key, ...], prefix: str, depth: int) -> Iterator[tuple[Key, StateNode]]:
        """The entries of a module and of those below it, under their dotted names."""
        self._count(path)
        if depth > MAX_TREE_DEPTH:
            raise DamagedData(f"{path_text(path)}: modules nested more than {MAX_TREE_DEPTH} deep. Run `ciuic fsck`.")
        for key, entry in tree.entries:
            name = f"{prefix}{key}"
            yield name, self.entry(entry, (*path, name), depth)
        for key, child in tree.modules:
            below = self._tree(child)
            if below.kind != "module":
                raise DamagedData(f"{path_text(path)}: {prefix}{key} is not a module. Run `ciuic fsck`.")
            yield from self.module(below, path, f"{prefix}{key}.", depth + 1)

    def entry(self, entry: Entry, path: tuple[Key, ...], depth: int) -> StateNode:
        if isinstance(entry, ValueEntry):
            return Value(entry.value)
        if isinstance(entry, ChildEntry):
            return self.container(entry.id, path, depth + 1)
        if isinstance(entry, BlobEntry):
            return Value(self.blob(entry, path_text(path)))
        return self.tensor(entry, path_text(path))

    def blob(self, entry: BlobEntry, path: str) -> Any:
        # Joined chunk by chunk: a stated length alone must not allocate anything.
        source = StoredChunks(self.store, path, entry.length, entry.chunk_size, entry.chunks)
        data = b"".join(source.chunk(index) for index in range(len(entry.chunks)))
        try:
            return decode_plain(data)
        except EncodingError as error:
            raise DamagedData(f"{path}: {error}. Run `ciuic fsck`.") from error

    def tensor(self, entry: TensorEntry, path: str) -> Tensor:
        source = StoredChunks(self.store, path, entry.nbytes, entry.chunk_size, entry.chunks)
        source.hold()
        return Tensor(entry.dtype, entry.shape, source, tie=entry.tie, array=entry.array, quantizer=entry.quantizer)
