"""The line of a snapshot where it is damaged: what can be read of it, and what a log knows beyond."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from ciuic.errors import DamageError, StorageError
from ciuic.objects.snapshot import Snapshot
from ciuic.store.object_reader import read_snapshot
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.store import Store


def readable_line(
    store: Store, tips: Iterable[str], more: Callable[[], Iterable[str]], lost: list[str] | None = None
) -> Iterator[Snapshot]:
    """The tips (hex ids) and their ancestors, each once, newest first, but for those that cannot be read, which
    ``lost`` gets. What is behind one of these is unknown: ``more`` names what else there may be. Under the shared lock.
    """
    waiting: list[tuple[float, str, Snapshot]] = []
    seen: set[str] = set()
    coming = [*tips]
    asked = False
    while coming or waiting:
        while coming:
            id = coming.pop()
            if id in seen:
                continue
            seen.add(id)
            try:
                snapshot = read_snapshot(store, bytes.fromhex(id))
            except (DamageError, StorageError):
                if lost is not None:
                    lost.append(id)
                coming += [] if asked else more()
                asked = True
                continue
            heapq.heappush(waiting, (-snapshot.timestamp.timestamp(), id, snapshot))
        if waiting:
            snapshot = heapq.heappop(waiting)[2]
            yield snapshot
            coming += snapshot.parents


def logged(store: Store, log: str) -> list[str]:
    """The snapshots that the records of a log name, as far as it can be read."""
    try:
        values = [record.new for record in store.refs.records(log)]
    except (DamageError, StorageError):
        return []
    return [value for value in values if value != NOTHING and not value.startswith(SYMBOLIC)]
