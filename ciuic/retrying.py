"""Snapshots that did not come about, and when another one is tried."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from ciuic.errors import CiuicError

LONGEST_PAUSE = 1024

logger = logging.getLogger("ciuic")


class Retrying:
    """``on_error`` "raise": a failure is kept for the next ``raise_error``. Otherwise it is said, and tried again after
    1, 2, 4, … steps, ``longest_pause`` of them at most. ``failures``: how many there were."""

    def __init__(self, on_error: Literal["warn", "raise"], longest_pause: int | None) -> None:
        self.on_error = on_error
        self.failures = 0
        self._longest_pause = longest_pause or LONGEST_PAUSE
        self._at: int | None = None
        self._pause = 1
        self._failed_step: int | None = None
        self._missed = False
        self._error: CiuicError | None = None

    def due(self, step: int, busy: Callable[[], bool]) -> bool:
        """Whether one is to be taken after this step; for one that was missed, as soon as there is a slot."""
        return (self._at is not None and step >= self._at) or (self._missed and not busy())

    def begun(self) -> None:
        """One is being taken."""
        self._missed, self._at = False, None

    def missed(self) -> None:
        """One was due and skipped, or its copy was torn; whoever found it has said and counted it."""
        self._missed = True

    def succeeded(self, step: int) -> None:
        if self._failed_step is None or step >= self._failed_step:
            self._at, self._pause = None, 1

    def failed(self, step: int, error: CiuicError, newest_step: int) -> None:
        """``newest_step``: at which the run is meanwhile."""
        self.failures += 1
        if self.on_error == "raise":
            self._error = error
            return
        self._failed_step = step
        self._at = max(step, newest_step) + self._pause
        logger.error(
            "No snapshot at step %d (failure %d; training goes on, next try at step %d): %s",
            step, self.failures, self._at, error,
        )  # fmt: skip
        self._pause = min(2 * self._pause, self._longest_pause)

    def raise_error(self) -> None:
        """The failure that was kept, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error
