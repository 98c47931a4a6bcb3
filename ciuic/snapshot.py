"""``SnapshotManager``: snapshots in a training loop, in three lines."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from statistics import median
from typing import Any, Literal

from ciuic.errors import CiuicError, SnapshotSkipped, TornSnapshot
from ciuic.objects.snapshot import Snapshot
from ciuic.repo import Repo
from ciuic.store.refs import WHOLE
from ciuic.supervised import Supervised
from ciuic.writer.pending import PendingSnapshot, completed, failed

__all__ = ["Snapshot", "SnapshotManager"]

STEPS_REMEMBERED = 16

logger = logging.getLogger("ciuic")


class SnapshotManager:
    """Saves a snapshot when one is due, and finds the one to resume from.

    ``snapshot_dir`` becomes an ordinary repository if it is new or empty. ``auto_save_interval=100`` makes ``save``
    act after every 100th completed step (99, 199, …); without it only on ``force=True``.

    ``save`` returns in milliseconds, and another process stores the snapshot (see ``Repo.commit(wait=False)``).
    When every slot is in use it waits for one as long as a step takes, then skips, says so, and saves at the first
    step that finds one; ``when_busy`` "wait" waits without limit, "skip" not at all.
    A failure is logged and counted in ``failures``, and training goes on; the next calls try again, after
    1, 2, 4, … steps. ``on_error="raise"`` raises instead, at the next call. ``options``: those of ``Repo``.
    The end of a ``with`` block, ``close()`` or the end of the program waits for what was saved.
    """

    def __init__(
        self,
        snapshot_dir: str | os.PathLike[str],
        auto_save_interval: int | None = None,
        *,
        on_error: Literal["warn", "raise"] = "warn",
        when_busy: Literal["wait", "skip"] | None = None,
        **options: Any,
    ) -> None:
        if auto_save_interval is not None and auto_save_interval < 1:
            raise ValueError("auto_save_interval is a number of steps, at least 1")
        self._supervised = Supervised()  # `ciuic run` and `ciuic verify-resume` ask for things, and are told each step
        self.repo = Repo.open(self._supervised.repository or snapshot_dir, create=True, **options)
        self._supervised.opened(self.repo.path)
        self.repo.await_earlier_run()
        self.auto_save_interval = auto_save_interval
        self.on_error = on_error
        self.when_busy = "wait" if self._supervised.every else when_busy
        self.failures = 0
        self._retry_at: int | None = None
        self._retry_pause = 1
        self._failed_step: int | None = None
        self._missed = False  # a snapshot was due and skipped, or its copy was torn
        self._error: CiuicError | None = None
        self._underway = False  # a snapshot has been restored or saved
        self._resume: tuple[str | None, Snapshot | None] | None = None  # HEAD, and where to resume then
        self._step_seconds: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._last: tuple[int, float] | None = None

    def __enter__(self) -> SnapshotManager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def counts(self) -> dict[str, int]:
        """How the snapshots went: see ``Repo.counts``."""
        return self.repo.counts

    def prepare(self, model: Any = None, optimizer: Any = None, **objects: Any) -> None:
        """Make memory ready before the first step, and start the writer process: see ``Repo.prepare``."""
        self.repo.prepare(model, optimizer, **objects)

    def has_snapshots(self) -> bool:
        """Whether there is one to resume from."""
        return self.get_latest_snapshot() is not None

    def get_latest_snapshot(self) -> Snapshot | None:
        """The snapshot to resume from: the newest before HEAD whose state was not pruned; None without any.

        Until this run has restored or saved one, all of it is read: a damaged one is passed over, with a warning in the
        log, and the run goes on from the newest that is intact, on a branch of its own. DamageError when none is.
        """
        self.repo.wait()
        if not self._underway:
            tip = self.repo.head().snapshot
            if self._resume is None or self._resume[0] != tip:
                self._resume = tip, self.repo.newest_intact()
            return self._resume[1]
        prunes = self.repo.prunes()
        for limit in (1, None):  # mostly the first one serves
            for snapshot in self.repo.log(limit=limit):
                if not prunes.get(snapshot.id, frozenset()) & {WHOLE, "model", "optimizer"}:
                    return snapshot
        return None

    def snapshots(self) -> list[Snapshot]:
        """All snapshots before HEAD, newest first."""
        self.repo.wait()
        return list(self.repo.log())

    def restore(self, snapshot: Snapshot | str, **objects: Any) -> Snapshot:
        """Bring the objects given to the snapshot's state, in place; takes the keywords of ``Repo.restore``."""
        restored = self.repo.restore(snapshot, **objects)
        self._underway = True
        self._supervised.restored(restored.step)
        return restored

    def due(self, step: int) -> bool:
        """Whether ``save`` would act at this step."""
        if self._retry_at is not None and step >= self._retry_at:
            return True
        if self._missed and not self.repo.busy:
            return True
        intervals = (self.auto_save_interval, self._supervised.every)
        return any(interval is not None and (step + 1) % interval == 0 for interval in intervals)

    def save(
        self,
        step: int,
        model: Any = None,
        optimizer: Any = None,
        *,
        force: bool = False,
        wait: bool = False,
        **details: Any,
    ) -> PendingSnapshot | None:
        """Save a snapshot if one is due after this completed step; takes the keywords of ``Repo.commit``.

        None if none was due. With ``wait=True`` the snapshot is durable, or has failed, on return.
        """
        self._raise_error()
        self._supervised.at_step(step)
        self._time(step)
        if not force and not self.due(step):
            return None
        self._missed, self._retry_at, self._underway = False, None, True
        pending = self._take(step, model, optimizer, wait, details)
        self._last = step, time.monotonic()
        pending.add_done_callback(self._ended)
        if pending.done():
            self._raise_error()
        return pending

    def _take(self, step: int, model: Any, optimizer: Any, wait: bool, details: dict[str, Any]) -> PendingSnapshot:
        if wait:
            return completed(step, lambda: self.repo.commit(model, optimizer, step=step, **details))
        busy: dict[str, Any] = {"when_busy": self.when_busy or "wait"}
        if self.when_busy is None:
            busy["busy_timeout"] = median(self._step_seconds) if self._step_seconds else 0.0
        try:
            return self.repo.commit(model, optimizer, step=step, wait=False, **{**busy, **details})
        except CiuicError as error:
            return failed(step, error)

    def _time(self, step: int) -> None:
        """How long a step takes, beside the saving itself."""
        now = time.monotonic()
        if self._last is not None and step > self._last[0]:
            self._step_seconds.append((now - self._last[1]) / (step - self._last[0]))
        self._last = step, now

    def _ended(self, pending: PendingSnapshot) -> None:
        """In the thread that ended it."""
        error = pending.exception()
        if error is None:
            if self._failed_step is None or (pending.step or 0) >= self._failed_step:
                self._retry_at, self._retry_pause = None, 1
        elif isinstance(error, (SnapshotSkipped, TornSnapshot)):  # said and counted by whoever found it
            self._missed = True
        else:
            self._failed(pending.step or 0, error)

    def _failed(self, step: int, error: CiuicError) -> None:
        self.failures += 1
        if self.on_error == "raise":
            self._error = error
            return
        seen = max(step, self._last[0] if self._last else step)
        self._failed_step = step
        self._retry_at = seen + self._retry_pause
        logger.error(
            "No snapshot at step %d (failure %d; training goes on, next try at step %d): %s",
            step, self.failures, self._retry_at, error,
        )  # fmt: skip
        self._retry_pause = min(2 * self._retry_pause, self.auto_save_interval or 1024)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def fence(self) -> None:
        """Return when the copies under way are complete: see ``Repo.fence``."""
        self.repo.fence()

    def wait(self, timeout: float | None = None) -> bool:
        """Until every snapshot is durable or has failed; False after ``timeout`` seconds. Raises like ``save``."""
        done = self.repo.wait(timeout)
        self._raise_error()
        return done

    def close(self) -> None:
        """Wait for every snapshot and end the writer process. Raises like ``save``."""
        self._supervised.closed()
        self.repo.close()
        self._raise_error()
