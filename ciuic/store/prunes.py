"""The log of prunes: which snapshots have given up what, and which ones gc has collected."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ciuic.store.reflog import SLOT, LogRecord, RefLog

PRUNES = "prunes"
WHOLE = "*"
NEEDED_TO_RESUME = frozenset((WHOLE, "model", "optimizer"))
"""Nobody goes on from a snapshot that has given up one of these."""
PRUNE, COLLECT = "prune ", "collect"
"""Actions: the one with what is given up behind it, and gc's."""


def prune_action(component: str) -> str:
    """What a record says: this component, or all ("*"), is given up."""
    return f"{PRUNE}{component}"


@dataclass(frozen=True)
class Prunes:
    """What the log said when its file was ``file`` (its inode, size and times; empty: unknown).

    ``pruned``: hex id → components given up. ``buried``: hex ids of what gc has collected.
    """

    file: tuple[int, ...] = ()
    records: list[LogRecord] = field(default_factory=list)
    pruned: dict[str, frozenset[str]] = field(default_factory=dict)
    buried: set[str] = field(default_factory=set)

    def now(self, log: RefLog) -> Prunes:
        """What the log says now: whoever looks at a snapshot asks, so only what was appended is read."""
        try:
            status = os.stat(log.path)
        except (FileNotFoundError, NotADirectoryError):
            return Prunes()
        file: tuple[int, ...] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if file == self.file:
            return self
        records = log.read_on(self.records if file[:2] == self.file[:2] else [])
        if len(records) * SLOT != status.st_size:  # it is being appended to, or its end is torn
            file = ()
        goes_on = bool(self.records) and records[: len(self.records)] == self.records
        start = len(self.records) if goes_on else 0
        pruned, buried = (dict(self.pruned), set(self.buried)) if goes_on else ({}, set())
        for record in records[start:]:
            if record.action.startswith(PRUNE):
                pruned[record.new] = pruned.get(record.new, frozenset()) | {record.action.removeprefix(PRUNE)}
            elif record.action == COLLECT:
                buried.add(record.new)
        return Prunes(file, records, pruned, buried)
