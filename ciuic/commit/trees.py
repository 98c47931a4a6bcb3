"""A state tree → tree objects, children first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ciuic.codec import encode_object
from ciuic.commit.adam_steps import adam_steps
from ciuic.commit.bases import Bases
from ciuic.commit.chunks import ChunkWriter
from ciuic.commit.earlier import Earlier, Groups
from ciuic.commit.leaves import Leaf, chunked_leaves
from ciuic.errors import UnsupportedState
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.state_tree import Container, StateNode, Value
from ciuic.objects.tree import LEAF, BlobEntry, ChildEntry, Entry, TensorEntry, Tree, ValueEntry, encode_tree
from ciuic.store.pack_session import PackSession
from ciuic.store.store import Store

MOST_MODULES = 100


class TreeWriter:
    """Writes components into a session; ``raw_bytes`` adds up what each holds before dedup and coding.

    ``leaves`` and ``ids``: what was chunked, and the chunks' ids; ``groups``: hyper-parameters, for the next snapshot.
    """

    def __init__(self, store: Store, session: PackSession, earlier: Earlier, groups: Groups) -> None:
        """``earlier``, ``groups``: the parent's, as ``Memory`` has them."""
        self.store = store
        self.session = session
        self.raw_bytes: dict[str, int] = {}
        self.leaves: Sequence[Leaf] = ()
        self.ids: Sequence[tuple[bytes, ...]] = ()
        self.groups: Groups = {}
        self._bases = Bases(store, earlier)
        self._earlier_groups = groups
        self.chunks = ChunkWriter(store, session, self._bases)
        self._by_node: dict[int, tuple[Leaf, tuple[bytes, ...]]] = {}

    def write(self, components: Mapping[str, StateNode]) -> dict[str, bytes]:
        """Component name → id of its root tree; every chunk and tree is in the session on return."""
        self.leaves = list(chunked_leaves(components, self.raw_bytes, self.chunks.chunk_size))
        steps, self.groups = adam_steps(components, self.leaves, self._bases, self._earlier_groups)
        self.ids = self.chunks.write(self.leaves, steps)
        self._by_node = {id(leaf.node): (leaf, ids) for leaf, ids in zip(self.leaves, self.ids, strict=True)}
        return {name: self._root(node) for name, node in components.items()}

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
            if id(node) not in self._by_node:
                return ValueEntry(node.value)
            leaf, ids = self._by_node[id(node)]
            return BlobEntry(leaf.source.nbytes, self.chunks.chunk_size, ids)
        return TensorEntry(
            node.dtype,
            node.shape,
            self.chunks.chunk_size,
            self._by_node[id(node)][1],
            tie=node.tie,
            array=node.array,
            quantizer=node.quantizer,
        )

    def _add(self, tree: Tree) -> bytes:
        raw = encode_tree(tree)
        tree_id = object_id(Kind.TREE, raw)
        if tree_id not in self.session and not self.store.known(tree_id):
            encoded = encode_object(raw)
            self.session.add(Kind.TREE, tree_id, encoded.stored, codec=encoded.codec, raw_length=len(raw))
        return tree_id
