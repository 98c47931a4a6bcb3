"""What a supervisor asks of a training, and what the training tells it in return.

``ciuic run`` and ``ciuic verify-resume`` start a command that they know nothing of, so they speak to the
``SnapshotManager`` in it through the environment. This file alone reads it below the command line, and only these:

    CIUIC_HEARTBEAT        a file of one page that the training tells its step in, without a system call a step
    CIUIC_SNAPSHOTS        a repository to use in place of the script's own
    CIUIC_SNAPSHOT_EVERY   a snapshot after every so many steps, whatever the script's triggers say
    CIUIC_INTERRUPT        "12.25": SIGKILL to itself a quarter of a step's time after the boundary of step 12
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

HEARTBEAT = "CIUIC_HEARTBEAT"
REPOSITORY = "CIUIC_SNAPSHOTS"
EVERY = "CIUIC_SNAPSHOT_EVERY"
INTERRUPT = "CIUIC_INTERRUPT"
VARIABLES = (HEARTBEAT, REPOSITORY, EVERY, INTERRUPT)

PAGE = 4096
MAGIC = b"ciuicbt1"
BEAT = struct.Struct("@QqQ")  # native, so that each number is written by one store
BEAT_AT, TIME_AT, CLOSED_AT, RESTORED_AT, PATH_AT = 8, 24, 32, 40, 56
FLAG, STEP, LENGTH = struct.Struct("@Q"), struct.Struct("@q"), struct.Struct("@Q")
LONGEST_PATH = PAGE - PATH_AT - LENGTH.size
NO_STEP = -1

logger = logging.getLogger("ciuic")


@dataclass(frozen=True)
class Heartbeat:
    """What a training has told. ``beats``: boundaries of steps; ``step``: the last one's; ``time_ns``: of the monotonic
    clock, then or when its manager was closed. ``closed``: it was, and no step came since. ``restored``: the step of
    the snapshot that it went on from. ``repository``: where its snapshots go; None until it has opened one."""

    beats: int = 0
    step: int | None = None
    time_ns: int = 0
    closed: bool = False
    restored: int | None = None
    repository: str | None = None


def blank() -> bytes:
    """A page in which nothing is told yet."""
    page = bytearray(PAGE)
    page[: len(MAGIC)] = MAGIC
    BEAT.pack_into(page, BEAT_AT, 0, NO_STEP, 0)
    STEP.pack_into(page, RESTORED_AT, NO_STEP)
    return bytes(page)


def read(page: bytes | mmap.mmap) -> Heartbeat:
    """What a page tells; nothing when it is not one."""
    if len(page) < PAGE or page[: len(MAGIC)] != MAGIC:
        return Heartbeat()
    beats, step, time_ns = BEAT.unpack_from(page, BEAT_AT)
    (closed,), (restored,) = FLAG.unpack_from(page, CLOSED_AT), STEP.unpack_from(page, RESTORED_AT)
    (length,) = LENGTH.unpack_from(page, PATH_AT)
    start = PATH_AT + LENGTH.size
    path = os.fsdecode(bytes(page[start : start + min(length, LONGEST_PATH)]))
    return Heartbeat(
        beats=beats,
        step=None if step == NO_STEP else step,
        time_ns=time_ns,
        closed=bool(closed),
        restored=None if restored == NO_STEP else restored,
        repository=path or None,
    )


class Supervised:
    """One manager's line to its supervisor. Without a supervisor every method does nothing, in nanoseconds.

    ``repository`` and ``every``: what the supervisor asks for, or None.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        asked = os.environ if environment is None else environment
        self.repository = asked.get(REPOSITORY) or None
        self.every = int(asked[EVERY]) if asked.get(EVERY) else None
        self._page = _opened(asked.get(HEARTBEAT))
        self._beats = 0
        self._last: float | None = None
        self._interrupt = float(asked[INTERRUPT]) if asked.get(INTERRUPT) else None

    def opened(self, repository: str) -> None:
        """The manager's repository is this one."""
        if self._page is not None:
            path = os.fsencode(repository)[:LONGEST_PATH]
            start = PATH_AT + LENGTH.size
            self._page[start : start + len(path)] = path
            LENGTH.pack_into(self._page, PATH_AT, len(path))
            self._beats = BEAT.unpack_from(self._page, BEAT_AT)[0]

    def restored(self, step: int | None) -> None:
        """The run goes on from the snapshot of this step."""
        if self._page is not None:
            STEP.pack_into(self._page, RESTORED_AT, NO_STEP if step is None else step)

    def at_step(self, step: int) -> None:
        """The boundary after this step is reached. No system call."""
        if self._page is not None:
            self._beats += 1
            FLAG.pack_into(self._page, CLOSED_AT, 0)
            BEAT.pack_into(self._page, BEAT_AT, self._beats, step, time.monotonic_ns())
        if self._interrupt is not None:
            self._interrupted(step)

    def closed(self) -> None:
        """No further step is expected: what follows may take its time."""
        if self._page is not None:
            FLAG.pack_into(self._page, TIME_AT, time.monotonic_ns())
            FLAG.pack_into(self._page, CLOSED_AT, 1)

    def _interrupted(self, step: int) -> None:
        now = time.monotonic()
        if self._interrupt is not None and step >= int(self._interrupt):
            step_s = 0.0 if self._last is None else now - self._last  # the first one has no time yet
            after, self._interrupt = self._interrupt % 1 * step_s, None
            if not after:
                _die()
            timer = threading.Timer(after, _die)
            timer.daemon = True
            timer.start()
        self._last = now


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _opened(path: str | None) -> mmap.mmap | None:
    """The page, shared with the supervisor. None without one, or where it cannot be had: training goes on without."""
    if not path:
        return None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return mmap.mmap(descriptor, PAGE) if os.fstat(descriptor).st_size == PAGE else None
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        logger.warning("The supervisor will not see this run's steps (%s: %s).", path, error)
        return None
