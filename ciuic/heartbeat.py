"""Two shared pages in which the processes of a training tell their supervisor each step, without a system call.

The first has the newest step of all; the second a place for each process, with the time of its own last one.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = 4096
MAGIC = b"ciuicbt1"
BEAT = struct.Struct("@QqQ")  # native, so that each number is written by one store
BEAT_AT, TIME_AT, CLOSED_AT, RESTORED_AT, PATH_AT = 8, 24, 32, 40, 56
FLAG, STEP, LENGTH = struct.Struct("@Q"), struct.Struct("@q"), struct.Struct("@Q")
LONGEST_PATH = PAGE - PATH_AT - LENGTH.size
PLACE = struct.Struct("@QQQ")  # a process, its start, and when its last step was; 0 when none is waited for
TIME_IN_PLACE = 16
PLACES, PLACES_AT, SIZE = PAGE // PLACE.size, PAGE, 2 * PAGE
NO_STEP = -1


@dataclass(frozen=True)
class Teller:
    """A process that has told a step, and has not closed its manager. ``started``: as the kernel has it; with ``pid``
    a name that no later process has. ``time_ns``: when its last step was."""

    pid: int
    started: int
    time_ns: int

    @property
    def lives(self) -> bool:
        """False also where that cannot be known."""
        return self.started != 0 and started(self.pid) == self.started


@dataclass(frozen=True)
class Heartbeat:
    """What a training has told. ``beats``: boundaries of steps; ``step``: the last one's; ``time_ns``: of the monotonic
    clock, then or when its manager was closed. ``closed``: it was, and no step came since. ``restored``: the step of
    the snapshot that it went on from. ``repository``: where its snapshots go; None until it has opened one.
    ``tellers``: each process by itself, as ranks are, the one that told its last step first before the others."""

    beats: int = 0
    step: int | None = None
    time_ns: int = 0
    closed: bool = False
    restored: int | None = None
    repository: str | None = None
    tellers: tuple[Teller, ...] = ()


def blank() -> bytes:
    """Pages in which nothing is told yet."""
    page = bytearray(SIZE)
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
        tellers=tuple(sorted(_tellers(page), key=lambda each: each.time_ns)),
    )


def _tellers(page: bytes | mmap.mmap) -> Iterator[Teller]:
    if len(page) == SIZE:
        for place in PLACE.iter_unpack(page[PLACES_AT : PLACES_AT + PLACES * PLACE.size]):
            teller = Teller(*place)
            if teller.time_ns:
                yield teller


def started(pid: int) -> int:
    """When a process began, in the kernel's ticks; 0 when it is dead, or nobody says."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if state in ("Z", "X") else int(fields[18])
    return 0


class Telling:
    """A process's side of the pages. OSError or ValueError where they cannot be had."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_size != SIZE:
                raise ValueError("not a file of two pages")
            self._page = mmap.mmap(descriptor, SIZE)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # two ranks look for a place at once
            try:
                self._place = _place(self._page) + TIME_IN_PLACE
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_UN)  # the mapping has a descriptor of its own, which keeps it
        finally:
            os.close(descriptor)
        self._beats = 0

    def opened(self, repository: str) -> None:
        """Its snapshots go there."""
        path = os.fsencode(repository)[:LONGEST_PATH]
        start = PATH_AT + LENGTH.size
        self._page[start : start + len(path)] = path
        LENGTH.pack_into(self._page, PATH_AT, len(path))
        self._beats = BEAT.unpack_from(self._page, BEAT_AT)[0]

    def restored(self, step: int | None) -> None:
        """It goes on from the snapshot of this step."""
        STEP.pack_into(self._page, RESTORED_AT, NO_STEP if step is None else step)

    def at_step(self, step: int) -> None:
        """The boundary after this step is reached. No system call."""
        self._beats += 1
        now = time.monotonic_ns()
        FLAG.pack_into(self._page, CLOSED_AT, 0)
        BEAT.pack_into(self._page, BEAT_AT, self._beats, step, now)
        FLAG.pack_into(self._page, self._place, now)

    def closed(self) -> None:
        """No further step is expected: what follows may take its time."""
        FLAG.pack_into(self._page, TIME_AT, time.monotonic_ns())
        FLAG.pack_into(self._page, CLOSED_AT, 1)
        FLAG.pack_into(self._page, self._place, 0)


def _place(page: mmap.mmap) -> int:
    """Of this process, as before or from now on; the last one is for all that find no other."""
    mine = os.getpid(), started(os.getpid())
    places = [PLACES_AT + number * PLACE.size for number in range(PLACES)]
    told = {at: Teller(*PLACE.unpack_from(page, at)) for at in places}
    ours = [at for at, each in told.items() if (each.pid, each.started) == mine]
    free = (at for at, each in told.items() if not each.lives)
    at = ours[0] if ours else next(free, places[-1])
    if not ours:
        PLACE.pack_into(page, at, *mine, 0)
    return at
