"""The graph of snapshots."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from ciuic.objects.snapshot import Snapshot
from ciuic.store.object_reader import read_snapshot
from ciuic.store.store import Store


def ancestors(store: Store, tips: Iterable[str]) -> Iterator[Snapshot]:
    """The tips (hex ids) and all their ancestors, each once, newest first. Under the shared lock."""
    waiting: list[tuple[float, str, Snapshot]] = []
    seen: set[str] = set()

    def add(id: str) -> None:
        if id not in seen:
            seen.add(id)
            snapshot = read_snapshot(store, bytes.fromhex(id))
            heapq.heappush(waiting, (-snapshot.timestamp.timestamp(), id, snapshot))

    for tip in tips:
        add(tip)
    while waiting:
        _, _, snapshot = heapq.heappop(waiting)
        yield snapshot
        for parent in snapshot.parents:
            add(parent)


def first_parents(store: Store, tip: str) -> Iterator[Snapshot]:
    """The line of a branch: the tip, its first parent, and so on. Under the shared lock."""
    following: str | None = tip
    while following is not None:
        snapshot = read_snapshot(store, bytes.fromhex(following))
        yield snapshot
        following = snapshot.parents[0] if snapshot.parents else None
