"""The components of one stored snapshot, those that were pruned told apart from those that never were."""

from __future__ import annotations

from ciuic.errors import Pruned
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import StateNode, Tensor, walk
from ciuic.restore.checking import check
from ciuic.restore.holding import Holder
from ciuic.restore.stored_state import read_component
from ciuic.store.refs import WHOLE
from ciuic.store.store import Store


class StoredSnapshot:
    """Reads a snapshot's components as state trees. Pruned when the snapshot was given up whole.

    To be used under the shared lock; the trees that it gives stay readable after it.
    """

    def __init__(self, store: Store, snapshot: Snapshot) -> None:
        self.store = store
        self.snapshot = snapshot
        self._holder = Holder(store)
        self.pruned = store.refs.prunes().get(snapshot.id, frozenset())
        if WHOLE in self.pruned:
            raise Pruned(
                f"{snapshot.named} was pruned: its state is gone, its place in the log stays. `ciuic log` shows others."
            )

    def component(self, name: str) -> StateNode | None:
        """The state tree of a component; None when the snapshot never had it, Pruned when it was given up."""
        root = self.snapshot.tree.get(name)
        if root is None:
            return None
        if name in self.pruned:
            raise Pruned(f"The {name} of {self.snapshot.named} was pruned. Other components are there.")
        return read_component(self.store, name, bytes.fromhex(root), self._holder)

    def components(self) -> dict[str, StateNode]:
        """Every component that is left."""
        trees = {name: self.component(name) for name in self.snapshot.tree if name not in self.pruned}
        return {name: tree for name, tree in trees.items() if tree is not None}

    def verify(self) -> None:
        """Read every stored byte; DamagedData or MissingObject names the first that is lost."""
        leaves = (leaf for tree in self.components().values() for _, leaf in walk(tree))
        check(leaf.source for leaf in leaves if isinstance(leaf, Tensor))  # type: ignore[misc]  # stored sources
