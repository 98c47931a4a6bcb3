"""What retention knows of a repository: plain values, read once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from ciuic.objects.snapshot import EPOCH, Snapshot
from ciuic.store.refs import WHOLE

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class History:
    """``snapshots``: all that branches, tags and HEAD reach, by id. ``lines``: branch (or what else leads to snapshots
    that no branch has) → ids, oldest first, those that were pruned whole left out. ``protected``: id → why it is never
    pruned. ``prunes``: id → the components given up ("*": all). ``sizes``: id → what giving it up frees, where that
    was measured.
    """

    snapshots: Mapping[str, Snapshot]
    lines: Mapping[str, tuple[str, ...]]
    protected: Mapping[str, str] = field(default_factory=dict)
    prunes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def whole(self) -> list[str]:
        """Ids of those that were not pruned whole, in the order of the lines."""
        return list(dict.fromkeys(id for line in self.lines.values() for id in line))

    def newest(self, lines: Iterable[str]) -> datetime:
        """The newest time in these lines."""
        return max((self.snapshots[id].timestamp for name in lines for id in self.lines.get(name, ())), default=EPOCH)

    def bytes_of(self, id: str, components: frozenset[str]) -> int:
        """About how much a prune would free: what was measured, or else what the commit added; of components their
        share of the state's bytes. What others share with a snapshot, or rest on, stays: so it is mostly less.
        """
        gone = self.prunes.get(id, NOTHING)
        if WHOLE in gone:
            return 0
        snapshot = self.snapshots[id]
        left = 1.0 - share(snapshot, gone)
        size = self.sizes[id] if id in self.sizes else snapshot.added_bytes * left
        if WHOLE in components:
            return int(size)
        return int(size * share(snapshot, components - gone) / left) if left > 0 else 0


def share(snapshot: Snapshot, components: frozenset[str]) -> float:
    """Of a snapshot's raw bytes, those in these components."""
    total = sum(snapshot.raw_bytes.values())
    return sum(snapshot.raw_bytes.get(name, 0) for name in components) / total if total else 0.0
