"""What the next snapshot takes on the disk."""

from __future__ import annotations

from collections import deque
from statistics import median

from ciuic.objects.snapshot import Snapshot
from ciuic.retention.history import History

RECENT = 8
"""Deltas and a keyframe: mostly one among so many stands by itself."""
MORE = 1.25
MARGIN_BYTES = 2 << 20
"""Beside the data: logs, the index, the pack's footer; and what gc needs to free anything at all."""


class Forecast:
    """From what the last snapshots added."""

    def __init__(self) -> None:
        self._added: deque[int] = deque(maxlen=RECENT)

    @property
    def empty(self) -> bool:
        return not self._added

    def add(self, snapshot: Snapshot) -> None:
        self._added.append(snapshot.added_bytes)

    def learn(self, history: History) -> None:
        """From earlier runs."""
        newest = sorted(history.snapshots.values(), key=lambda each: (each.timestamp, each.id))[-RECENT:]
        self._added.extend(each.added_bytes for each in newest)

    def most(self, raw_bytes: int) -> int:
        """Bytes that a snapshot of a state of ``raw_bytes`` (0: unknown) hardly exceeds."""
        return _with_margin(max(self._added, default=raw_bytes), raw_bytes)

    def likely(self, raw_bytes: int) -> int:
        """Bytes that every other snapshot takes."""
        return _with_margin(median(self._added) if self._added else raw_bytes, raw_bytes)


def _with_margin(added: float, raw_bytes: int) -> int:
    return int(min(added, raw_bytes or added) * MORE) + MARGIN_BYTES
