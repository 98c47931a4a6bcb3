"""The doctor: looks at what a run depends on, and says before it is too late what may go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ciuic.doctor import disk, lifetime, memory, repository
from ciuic.doctor.findings import Finding
from ciuic.errors import CiuicError
from ciuic.objects.snapshot import Snapshot
from ciuic.store.lineage import readable_line
from ciuic.store.store import Store

RECENT = 8

__all__ = ["Finding", "examine"]


def examine(store: Store, root: Path = Path("/")) -> Iterator[Finding]:
    """Every finding, in an order to read. ``root``: where ``proc``, ``sys`` and ``etc`` lie. Writes no more than one
    small file in ``tmp/``, which is gone when this returns. Raises when the repository cannot be opened."""
    with store.shared():
        recent = _recent(store)
        yield from disk.look(store, recent)
        yield from memory.look(recent[0] if recent else None, root)
        yield from repository.look(store)
    yield from lifetime.look(root)


def _recent(store: Store) -> list[Snapshot]:
    """The newest snapshots before HEAD, as far as they can be read."""
    try:
        tip = store.refs.head().snapshot
    except CiuicError:  # the look at the logs says so
        return []
    line = readable_line(store, [tip] if tip else [], list)
    return [snapshot for snapshot, _ in zip(line, range(RECENT), strict=False)]
