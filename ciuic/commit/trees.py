"""A state tree → tree objects, children first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ciuic.codec import encode
from ciuic.commit.chunks import BytesSource, ChunkWriter
from ciuic.errors import UnsupportedState
from ciuic.objects.dtypes import element_width
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.plain import encode_plain
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, TensorSource, Value, path_text
from ciuic.objects.tree import LEAF, BlobEntry, ChildEntry, Entry, TensorEntry, Tree, ValueEntry, encode_tree
from ciuic.store.pack_session import PackSession
from ciuic.store.store import Store

MOST_NESTED = 190
"""Containers and modules in one another: a reader follows no more than 200 levels."""
MOST_MODULES = 100
WORTH_IT = 0.94
"""A tree is small beside its tensors, and names shrink: coding one costs next to nothing."""
INLINE_LIMIT = 4096
"""Bytes of a plain value's encoding up to which it stands in its tree; a longer one is chunked."""


class TreeWriter:
    """Writes components into a session; ``raw_bytes`` adds up what each holds before dedup and coding."""

    def __init__(self, store: Store, session: PackSession) -> None:
        self.store = store
        self.session = session
        self.chunks = ChunkWriter(store, session)
        self.raw_bytes: dict[str, int] = {}
        self._blobs: dict[int, bytes] = {}
        self._ids: dict[int, tuple[bytes, ...]] = {}

    def write(self, components: Mapping[str, StateNode]) -> dict[str, bytes]:
        """Component name → id of its root tree; every chunk and tree is in the session on return."""
        leaves = list(self._leaves(components))
        ids = self.chunks.write((source, width) for _, source, width in leaves)
        self._ids = {identity: chunk_ids for (identity, _, _), chunk_ids in zip(leaves, ids, strict=True)}
        return {name: self._root(node) for name, node in components.items()}

    def _leaves(self, components: Mapping[str, StateNode]) -> Iterator[tuple[int, TensorSource, int]]:
        """What is chunked: tensors, and plain values too long for their tree."""
        for name, component in components.items():
            self.raw_bytes[name] = 0
            stack: list[tuple[tuple[Key, ...], StateNode]] = [((name,), component)]
            while stack:
                path, node = stack.pop()
                if len(path) + sum(key.count(".") for key in path if isinstance(key, str)) > MOST_NESTED:
                    raise UnsupportedState(f"{path_text(path[:4])}/…: nested more than {MOST_NESTED} deep. Flatten it.")
                if isinstance(node, Container):
                    stack.extend(((*path, key), child) for key, child in reversed(node.items))
                elif isinstance(node, Tensor):
                    self.raw_bytes[name] += 0 if node.tie is not None else node.source.nbytes
                    yield id(node), node.source, element_width(node.dtype)
                else:
                    encoded = encode_plain(node.value, path_text(path))
                    self.raw_bytes[name] += len(encoded)
                    if len(encoded) > INLINE_LIMIT:
                        self._blobs[id(node)] = encoded
                        yield id(node), BytesSource(encoded), 1

    def _root(self, node: StateNode) -> bytes:
        if isinstance(node, Container):
            return self._container(node)
        return self._add(Tree(LEAF, ((0, self._entry(node)),)))

    def _container(self, node: Container) -> bytes:
        if node.kind == "module":
            return self._module([(str(key).split("."), child) for key, child in node.items])
        return self._add(Tree(node.kind, tuple((key, self._entry(child)) for key, child in node.items)))

    def _module(self, items: list[tuple[list[str], StateNode]], depth: int = 0) -> bytes:
        if depth > MOST_MODULES:
            raise UnsupportedState(f"A parameter's name has more than {MOST_MODULES} dots. Rename it.")
        entries = tuple((parts[0], self._entry(node)) for parts, node in items if len(parts) == 1)
        groups: dict[str, list[tuple[list[str], StateNode]]] = {}
        for parts, node in items:
            if len(parts) > 1:
                groups.setdefault(parts[0], []).append((parts[1:], node))
        modules = tuple((name, self._module(group, depth + 1)) for name, group in groups.items())
        return self._add(Tree("module", entries, modules))

    def _entry(self, node: StateNode) -> Entry:
        if isinstance(node, Container):
            return ChildEntry(self._container(node))
        if isinstance(node, Value):
            blob = self._blobs.get(id(node))
            if blob is None:
                return ValueEntry(node.value)
            return BlobEntry(len(blob), self.chunks.chunk_size, self._ids[id(node)])
        return TensorEntry(
            node.dtype,
            node.shape,
            self.chunks.chunk_size,
            self._ids[id(node)],
            tie=node.tie,
            array=node.array,
            quantizer=node.quantizer,
        )

    def _add(self, tree: Tree) -> bytes:
        raw = encode_tree(tree)
        tree_id = object_id(Kind.TREE, raw)
        if tree_id not in self.session and not self.store.known(tree_id):
            codec, stored = encode(raw, WORTH_IT)
            self.session.add(Kind.TREE, tree_id, stored, codec=codec, raw_length=len(raw))
        return tree_id
