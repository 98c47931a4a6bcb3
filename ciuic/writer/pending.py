"""``PendingSnapshot``: a snapshot on its way, and what became of it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from ciuic.errors import CiuicError, SnapshotTimeout, StorageError
from ciuic.objects.snapshot import Snapshot


class PendingSnapshot:
    """What ``commit(wait=False)`` returns. Its methods may be called from any thread.

    First the copy is *staged*: complete, in the hands of the writer process, safe from the death of this one.
    Then the snapshot is *done*: durable, the branch points to it.
    """

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        self._staged = threading.Event()
        self._done = threading.Event()
        self._snapshot: Snapshot | None = None
        self._error: CiuicError | None = None
        self._after: list[Callable[[PendingSnapshot], object]] = []
        self._guard = threading.RLock()  # a signal handler may come in between

    def __repr__(self) -> str:
        if self.done():
            return f"PendingSnapshot(step={self.step}, {self._error or self._snapshot!r})"
        return f"PendingSnapshot(step={self.step}, {'staged' if self._staged.is_set() else 'staging'})"

    def staged(self, timeout: float | None = None) -> bool:
        """Wait until the copy is complete, at most ``timeout`` seconds. True: the snapshot survives this process.

        False: not within ``timeout``, or there is nothing to survive (``exception()`` tells).
        """
        self._staged.wait(timeout)
        return self._staged.is_set() and (self._error is None)

    @property
    def is_staged(self) -> bool:
        """What ``staged`` says now; takes no lock, so that a signal handler may ask."""
        return self._staged.is_set() and self._error is None

    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> Snapshot:
        """The durable snapshot. Raises what went wrong; SnapshotTimeout after ``timeout`` seconds (it goes on)."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        assert self._snapshot is not None
        return self._snapshot

    def exception(self, timeout: float | None = None) -> CiuicError | None:
        """What went wrong, None if nothing; SnapshotTimeout after ``timeout`` seconds."""
        if not self._done.wait(timeout):
            raise SnapshotTimeout(f"The snapshot of step {self.step} is still being written. Wait longer; it goes on.")
        return self._error

    # For those who bring it about.

    def set_staged(self) -> None:
        self._staged.set()

    def set_result(self, snapshot: Snapshot) -> None:
        self._end(snapshot, None)

    def set_exception(self, error: CiuicError) -> None:
        self._end(None, error)

    def _end(self, snapshot: Snapshot | None, error: CiuicError | None) -> None:
        with self._guard:
            if self._done.is_set():
                return
            self._snapshot, self._error = snapshot, error
            self._done.set()
            self._staged.set()
            after, self._after = self._after, []
        for call in after:
            self._call(call)

    def add_done_callback(self, call: Callable[[PendingSnapshot], object]) -> None:
        """``call(self)`` when it has ended: in the thread that ends it, or now. It must not wait for a snapshot.

        What it raises is logged.
        """
        with self._guard:
            if not self._done.is_set():
                self._after.append(call)
                return
        self._call(call)

    def _call(self, call: Callable[[PendingSnapshot], object]) -> None:
        try:
            call(self)
        except Exception:  # it is somebody else's, and this thread serves other snapshots
            with contextlib.suppress(Exception):
                logging.getLogger("ciuic").exception("A callback of the snapshot of step %s failed.", self.step)


def completed(step: int | None, commit: Callable[[], Snapshot]) -> PendingSnapshot:
    """A pending snapshot that has ended already: ``commit()`` makes it, and its error is kept."""
    pending = PendingSnapshot(step)
    try:
        pending.set_result(commit())
    except CiuicError as error:
        pending.set_exception(error)
    except OSError as error:
        pending.set_exception(StorageError(f"{error}. Check the disk, then run `ciuic fsck`."))
    return pending


def failed(step: int | None, error: CiuicError) -> PendingSnapshot:
    """A pending snapshot that has ended in ``error``."""
    pending = PendingSnapshot(step)
    pending.set_exception(error)
    return pending
