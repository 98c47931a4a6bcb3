"""What packs take, and what each snapshot of them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ciuic.retention.history import NOTHING, History
from ciuic.store.marking import Marks
from ciuic.store.store import Store


class PackSizes:
    """The sizes of packs, which never change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._sizes: dict[str, int] = {}

    def total(self) -> int:
        """Of all packs that are there, as files. Under the shared lock."""
        known, present = self._sizes, self.store.present
        for name in present - known.keys():
            known[name] = os.stat(self.store.join("packs", f"{name}.pack")).st_size
        for name in known.keys() - present:
            del known[name]
        return sum(known.values())


def measured(store: Store, history: History, order: Iterable[str]) -> dict[str, int]:
    """Id → the stored bytes that giving it up frees, if those before it in ``order`` are given up first.

    What live snapshots that are not in ``order`` need counts for none; what they only rest on, gc encodes anew. Under
    the shared lock.
    """
    marks = Marks(store, history.prunes, {}, history.snapshots)
    going = dict.fromkeys(order)
    sizes: dict[str, int] = {}
    for id in (*(each for each in history.whole() if each not in going), *reversed(going)):
        before = marks.needed_bytes
        gone = history.prunes.get(id, NOTHING)
        marks.walk_trees([bytes.fromhex(tree) for name, tree in history.snapshots[id].tree.items() if name not in gone])
        sizes[id] = marks.needed_bytes - before
    return {id: sizes[id] for id in going}
