"""The supervisor's end of the heartbeat, and how long it may be silent."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

from ciuic.heartbeat import SIZE, Heartbeat, blank, read


@dataclass(frozen=True)
class Patience:
    """``step_s``: the longest time that a step may take; ``outside_s``: the same before the first step and after the
    last. None: any time."""

    step_s: float | None = None
    outside_s: float | None = None

    def deadline(self, beat: Heartbeat, began: float) -> float | None:
        """When a command that began then, and has told this, counts as hung; of the monotonic clock."""
        within = self.outside_s if _is_outside(beat) else self.step_s
        return None if within is None else silent_since(beat, began) + within


def silent_since(beat: Heartbeat, began: float) -> float:
    """When the last step was; of several processes, that of the one which has told none for longest and still lives:
    ranks that go on would hide one that hangs."""
    told = beat.time_ns
    if not _is_outside(beat):
        told = next((each.time_ns for each in beat.tellers if each.lives), told)
    return max(began, told / 1e9)


def _is_outside(beat: Heartbeat) -> bool:
    return beat.closed or not beat.beats


class Pulse:
    """The pages that a training tells its steps in."""

    def __init__(self, path: str) -> None:
        """Makes the file; OSError when there is no making it."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, blank())  # all: a page without a block on a full disk would kill whoever writes
            self._page = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)

    def reset(self) -> None:
        """Nothing is told yet. Only while nobody else writes."""
        self._page[:] = blank()

    def read(self) -> Heartbeat:
        return read(self._page)

    def close(self) -> None:
        self._page.close()
