"""The trainer's handle on its writer process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from ciuic.errors import CiuicError, SnapshotTimeout, WriterFailed
from ciuic.history.following import Position
from ciuic.writer.jobs import Job as Job
from ciuic.writer.jobs import Jobs
from ciuic.writer.keeper import Keeper
from ciuic.writer.memory_file import memory_file
from ciuic.writer.wire import encode_order

LEAVING_S = 5.0


class Writer:
    """One repository object's writer process, started when it is first needed. Any thread may call any method.

    Jobs are published in the order of ``submit``. ``moved`` gets the position after each; ``count`` the name of what
    happened: "published", "unchanged", "failed", "retries", "writer_deaths", "writer_stalls". Both are called before
    the PendingSnapshot ends, in a thread that must not be kept waiting.
    """

    def __init__(
        self,
        repository: str,
        *,
        priority: Literal["normal", "low"] = "normal",
        timeout: float = 30.0,
        moved: Callable[[Position], None],
        count: Callable[[str], None],
        start_up: Sequence[str] | None = None,
        retention: Sequence[str] | None = None,
    ) -> None:
        """``timeout``: seconds of silence after which the process is killed and another one started. ``retention``:
        policies as texts; None for those of the repository.

        ``start_up``: another command than this Python's, which serves its standard input.
        """
        self._repository = os.path.abspath(repository)
        self._low = priority == "low"
        self._timeout = timeout
        self._moved = moved
        self._start_up = start_up
        self._retention = retention
        self._jobs = Jobs(count)
        self._keeper: Keeper | None = None
        self._guard = threading.Lock()
        self._closed = False
        self._forgotten = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, if one does."""
        child = None if self._keeper is None else self._keeper.child
        return None if child is None else child.process.pid

    def start(self) -> None:
        """Start the process now rather than with the first job. Does not wait for it."""
        if not self._forgotten:
            with self._guard:
                self._kept()

    def _kept(self) -> Keeper:
        former = self._keeper
        if self._closed or (former is not None and former.closing and not former.failed):
            raise WriterFailed("The writer was closed: no snapshot can be handed to it any more.")
        if former is None or former.failed:
            former = self._keeper = Keeper(
                self._repository,
                self._jobs,
                self._moved,
                low=self._low,
                timeout=self._timeout,
                start_up=self._start_up,
                retention=self._retention,
                guard=self._guard,
                after=former,
            )
        return former

    def submit(self, job: Job) -> None:
        """Hand a job over; never waits for the process. A job that cannot be handed over ends at once."""
        memory = order = -1
        try:
            if self._forgotten:
                raise WriterFailed("This process was forked from the one that the writer belongs to.")
            order = memory_file(encode_order(job.details, job.action, job.components))
            memory = os.dup(job.memory)
            with self._guard:
                keeper = self._kept()
                self._jobs.add(job, memory, order)
                keeper.wake()
        except (CiuicError, OSError, RuntimeError, MemoryError) as error:
            for descriptor in (memory, order):
                if descriptor >= 0:
                    os.close(descriptor)
            typed = error if isinstance(error, CiuicError) else WriterFailed(f"{type(error).__name__}: {error}")
            self._jobs.refuse(job, typed)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all submitted jobs have ended; False when ``timeout`` seconds were not enough."""
        return self._jobs.wait(timeout)

    def close(self, timeout: float) -> None:
        """Wait for all jobs, let the process go and reap it. Further jobs fail. A second call does nothing more.

        After ``timeout`` seconds: a process that is silent or has no job is killed. One that works is left to finish
        by itself; its jobs end as SnapshotTimeout, and their slots are not released, since it reads them still.
        """
        if self._forgotten:
            return
        with self._guard:
            self._closed = True
            keeper = self._keeper
        if keeper is None:
            return
        keeper.closing = True
        keeper.wake()
        if not keeper.join(timeout):
            keeper.giving_up = True
            keeper.wake()
            if not keeper.join(LEAVING_S):
                for running in self._jobs.all():  # nobody is to wait for them
                    error = SnapshotTimeout("The writer process did not let itself be closed; it may go on by itself.")
                    self._jobs.fail(running, error, release=False)

    def forget(self) -> None:
        """In a forked child: give up what belongs to the parent, without a signal to the process or a wait for it."""
        self._forgotten = True
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.forget()
        self._jobs.forget()
        self._guard = threading.Lock()
