"""Prune records: what a choice becomes on disk."""

from __future__ import annotations

from collections.abc import Mapping

from ciuic.store.prunes import PRUNES, prune_action
from ciuic.store.store import Store

FEW = 4
"""Records that are appended one by one, a sync each; more of them are one write, for which everybody else waits."""


def record_prunes(store: Store, pruned: Mapping[str, frozenset[str]], timeout_s: float) -> None:
    """Durable on return. Killed in between, some of them may be recorded. Not inside the shared lock.

    LockTimeout when there are many and readers and commits do not make room in time: then none is.
    """
    records = [(id, prune_action(name)) for id, gone in pruned.items() for name in sorted(gone)]
    if len(records) > FEW:
        with store.exclusive(timeout_s):
            store.refs.add_prunes(records)
        return
    with store.shared():
        for id, action in records:
            store.refs.set(PRUNES, id, action)
