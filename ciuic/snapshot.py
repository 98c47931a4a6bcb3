"""``SnapshotManager``: snapshots in a training loop, in three lines."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

from ciuic.errors import CiuicError
from ciuic.objects.snapshot import Snapshot
from ciuic.repo import Repo
from ciuic.store.refs import WHOLE

__all__ = ["Snapshot", "SnapshotManager"]

logger = logging.getLogger("ciuic")


class SnapshotManager:
    """Saves a snapshot when one is due, and finds the one to resume from.

    ``snapshot_dir`` becomes an ordinary repository if it is new or empty. ``auto_save_interval=100`` makes ``save``
    act after every 100th completed step (99, 199, …); without it only on ``force=True``.
    A failure to save is logged and counted in ``failures``, and training goes on; the next calls try again, after
    1, 2, 4, … steps. ``on_error="raise"`` raises instead.
    """

    def __init__(
        self,
        snapshot_dir: str | os.PathLike[str],
        auto_save_interval: int | None = None,
        *,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if auto_save_interval is not None and auto_save_interval < 1:
            raise ValueError("auto_save_interval is a number of steps, at least 1")
        self.repo = Repo.open(snapshot_dir, create=True)
        self.auto_save_interval = auto_save_interval
        self.on_error = on_error
        self.failures = 0
        self._retry_at: int | None = None
        self._retry_pause = 1

    def has_snapshots(self) -> bool:
        """Whether there is one to resume from."""
        return self.get_latest_snapshot() is not None

    def get_latest_snapshot(self) -> Snapshot | None:
        """The snapshot to resume from: the newest before HEAD whose state was not pruned; None without any."""
        prunes = self.repo.prunes()
        for limit in (1, None):  # mostly the first one serves
            for snapshot in self.repo.log(limit=limit):
                if not prunes.get(snapshot.id, frozenset()) & {WHOLE, "model", "optimizer"}:
                    return snapshot
        return None

    def snapshots(self) -> list[Snapshot]:
        """All snapshots before HEAD, newest first."""
        return list(self.repo.log())

    def restore(self, snapshot: Snapshot | str, **objects: Any) -> Snapshot:
        """Bring the objects given to the snapshot's state, in place; takes the keywords of ``Repo.restore``."""
        return self.repo.restore(snapshot, **objects)

    def due(self, step: int) -> bool:
        """Whether ``save`` would act at this step."""
        if self._retry_at is not None and step >= self._retry_at:
            return True
        return self.auto_save_interval is not None and (step + 1) % self.auto_save_interval == 0

    def save(
        self, step: int, model: Any = None, optimizer: Any = None, *, force: bool = False, **details: Any
    ) -> Snapshot | None:
        """Save a snapshot if one is due after this completed step; takes the keywords of ``Repo.commit``.

        On return the snapshot (None if none was due, or saving failed) is durable.
        """
        if not force and not self.due(step):
            return None
        try:
            snapshot = self.repo.commit(model, optimizer, step=step, **details)
        except (CiuicError, OSError) as error:
            if self.on_error == "raise":
                raise
            self._failed(step, error)
            return None
        self._retry_at, self._retry_pause = None, 1
        return snapshot

    def _failed(self, step: int, error: Exception) -> None:
        self.failures += 1
        self._retry_at = step + self._retry_pause
        logger.error(
            "No snapshot at step %d (failure %d; training goes on, next try at step %d): %s",
            step, self.failures, self._retry_at, error,
        )  # fmt: skip
        self._retry_pause = min(2 * self._retry_pause, self.auto_save_interval or 1024)
