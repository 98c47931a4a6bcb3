"""Prune records: what a choice becomes on disk."""

from __future__ import annotations

from collections.abc import Mapping

from ciuic.store.prunes import PRUNES, prune_action
from ciuic.store.refs import HEADS, TAGS
from ciuic.store.store import Store

FEW = 4
"""Records that are appended one by one, a sync each; more of them are one write, for which everybody else waits."""


def record_prunes(store: Store, pruned: Mapping[str, frozenset[str]], timeout_s: float) -> dict[str, frozenset[str]]:
    """Durable on return; what was recorded. Killed in between, some of it may be. Not inside the shared lock.

    Since the choice was made time has passed: what is a branch's tip, a tag or HEAD by now is spared.
    LockTimeout when there are many and readers and commits do not make room in time: then none is.
    """
    if sum(map(len, pruned.values())) > FEW:
        with store.exclusive(timeout_s):
            going = _unnamed(store, pruned)
            store.refs.add_prunes(_records(going))
        return going
    with store.shared():
        going = _unnamed(store, pruned)
        for id, action in _records(going):
            store.refs.set(PRUNES, id, action)
    return going


def _records(pruned: Mapping[str, frozenset[str]]) -> list[tuple[str, str]]:
    return [(id, prune_action(name)) for id, gone in pruned.items() for name in sorted(gone)]


def _unnamed(store: Store, pruned: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    refs = store.refs
    named = {*refs.listing(HEADS).values(), *refs.listing(TAGS).values(), refs.head().snapshot}
    return {id: gone for id, gone in pruned.items() if id not in named}
