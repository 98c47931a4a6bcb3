"""Jobs on their way to a writer process, and how they end."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ciuic.commit.pipeline import Details
from ciuic.errors import CiuicError
from ciuic.history.following import Attempt, Position
from ciuic.objects.snapshot import Snapshot
from ciuic.objects.state_tree import StateNode
from ciuic.writer.pending import PendingSnapshot

logger = logging.getLogger("ciuic")


@dataclass
class Job:
    """A staged snapshot. ``components`` hold Placed sources; ``memory`` is the descriptor of the slot they lie in.

    ``details`` has its timestamp and cost, and no parents. ``memory_key`` is another one for each piece of memory.
    ``base_key``: of the memory in which the job before was staged, as long as it is untouched; else 0.
    ``position``: where the snapshot goes; None: on from the job before. ``released`` is called once, when the slot, and
    that of ``base_key``, may be written to again.
    """

    pending: PendingSnapshot
    details: Details
    action: str
    components: Mapping[str, StateNode]
    memory: int
    memory_size: int
    memory_key: int
    position: Position | None
    released: Callable[[], None]
    base_key: int = 0


@dataclass
class Running:
    """A job that was submitted. ``memory`` and ``order`` are descriptors of its own."""

    number: int
    job: Job
    memory: int
    order: int
    deaths: int = 0
    posted: bool = False
    sent: bool = False
    attempt: Attempt | None = None
    temporary: list[str] = field(default_factory=list)

    def staged(self) -> None:
        """The kernel would deliver it if this process died."""
        self.sent = True
        self.job.pending.set_staged()

    def close(self) -> None:
        descriptors, self.memory, self.order = (self.memory, self.order), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


class Jobs:
    """The jobs that have not ended, in order."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._changed = threading.Condition()
        self._running: dict[int, Running] = {}
        self._last = 0

    def add(self, job: Job, memory: int, order: int) -> None:
        with self._changed:
            self._last += 1
            self._running[self._last] = Running(self._last, job, memory, order)

    def all(self) -> list[Running]:
        with self._changed:
            return list(self._running.values())

    def get(self, number: int) -> Running | None:
        with self._changed:
            return self._running.get(number)

    def wait(self, timeout: float | None) -> bool:
        """Until there are none; False when ``timeout`` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)

    def succeed(self, running: Running, snapshot: Snapshot, *, unchanged: bool) -> None:
        self.count("published")
        if unchanged:
            say(logging.WARNING, "The snapshot of step %s equals its parent: nothing has changed since.", snapshot.step)
            self.count("unchanged")
        self._end(running, lambda: running.job.pending.set_result(snapshot))

    def fail(self, running: Running, error: CiuicError, *, release: bool = True) -> None:
        """``release``: no process reads the slot any more."""
        self._say(running.job, error)
        self._end(running, lambda: running.job.pending.set_exception(error), release=release)

    def refuse(self, job: Job, error: CiuicError) -> None:
        """A job that never was among them."""
        self._say(job, error)
        guarded(lambda: job.pending.set_exception(error))
        guarded(job.released)

    def _say(self, job: Job, error: CiuicError) -> None:
        say(logging.WARNING, "The snapshot of step %s was not stored: %s", job.details.step, error)
        self.count("failed")

    def count(self, name: str) -> None:
        guarded(lambda: self._count(name))

    def _end(self, running: Running, tell: Callable[[], None], *, release: bool = True) -> None:
        running.close()  # first: whoever is told may fork at once, and the child is to have none of it
        guarded(tell)
        if release:
            guarded(running.job.released)
        with self._changed:
            self._running.pop(running.number, None)
            self._changed.notify_all()

    def forget(self) -> None:
        """In a forked child: no lock is taken, since the thread that held it is not there."""
        for running in list(self._running.values()):
            running.close()
        self._running = {}
        self._changed = threading.Condition()


def guarded(call: Callable[[], None]) -> None:
    """What others gave us to call must not end the thread that serves all jobs."""
    try:
        call()
    except Exception:
        say(logging.ERROR, "A call that reports on a snapshot failed.", exc_info=True)


def say(level: int, message: str, *arguments: object, exc_info: bool = False) -> None:
    """Log, whatever a handler or a filter of the program's does."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *arguments, exc_info=exc_info)
