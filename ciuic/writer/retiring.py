"""Retention in the process that stores snapshots: the writer, or the trainer when it waits."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ciuic.errors import CiuicError
from ciuic.history.following import Following
from ciuic.objects.snapshot import Snapshot

if TYPE_CHECKING:
    from ciuic.retention.engine import Retention

logger = logging.getLogger("ciuic")


class Retiring:
    """Loads retention when there are policies, and not before the first snapshot."""

    def __init__(self, given: Sequence[str] | None, waiting: Callable[[], bool] = lambda: False) -> None:
        """``given``: policies as texts; None for those of the repository's config.toml."""
        self._given = given
        self._waiting = waiting
        self._retention: Retention | None = None
        self._settled = given is not None and not given

    def make_room(self, following: Following, raw_bytes: int, *, full: bool = False) -> bool:
        """Before a snapshot of a state of so many bytes (0: unknown) is stored, or when it did not fit (``full``).

        False when there are no policies, and so nothing was done. Never raises; never inside the shared lock.
        """
        retention = self._opened(following)
        if retention is None:
            return False
        parent = branch = None
        with contextlib.suppress(CiuicError):
            parent, branch = following.position.parent, following.position.branch
        retention.make_room(raw_bytes, parent, branch, full=full)
        return True

    def after(self, snapshot: Snapshot, following: Following) -> None:
        """A snapshot was published. Never raises; never inside the shared lock."""
        if self._retention is not None:
            self._retention.after(snapshot, following.position.branch)

    def finish(self) -> None:
        """There will be no more for now: some time for what is due."""
        if self._retention is not None:
            self._retention.finish()

    def _opened(self, following: Following) -> Retention | None:
        if not self._settled:
            self._settled = True
            try:
                store = following.store
                if self._given is not None or store.config.retention:
                    from ciuic.retention.engine import Retention
                    from ciuic.retention.texts import policies_in, policies_of

                    table = store.config.retention
                    policies = policies_in(table) if self._given is None else policies_of(self._given)
                    self._retention = Retention(store, policies, self._waiting) if policies else None
            except (CiuicError, ValueError) as error:
                logger.warning("Nothing will be pruned: %s", error)
        return self._retention
