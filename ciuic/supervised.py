"""What a supervisor asks of a training, and what the training tells it in return.

``ciuic run`` and ``ciuic verify-resume`` start a command that they know nothing of, so they speak to the
``SnapshotManager`` in it through the environment. This file alone reads it below the command line, and only these:

    CIUIC_HEARTBEAT        a file of two pages that the training tells its steps in (``heartbeat.py``)
    CIUIC_SNAPSHOTS        a repository to use in place of the script's own
    CIUIC_SNAPSHOT_EVERY   a snapshot after every so many steps, whatever the script's triggers say
    CIUIC_INTERRUPT        "12.25": SIGKILL to itself a quarter of a step's time after the boundary of step 12
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Mapping

from ciuic.heartbeat import Telling

HEARTBEAT = "CIUIC_HEARTBEAT"
REPOSITORY = "CIUIC_SNAPSHOTS"
EVERY = "CIUIC_SNAPSHOT_EVERY"
INTERRUPT = "CIUIC_INTERRUPT"
VARIABLES = (HEARTBEAT, REPOSITORY, EVERY, INTERRUPT)

logger = logging.getLogger("ciuic")


class Supervised:
    """One manager's line to its supervisor. Without a supervisor every method does nothing, in nanoseconds.

    ``repository`` and ``every``: what the supervisor asks for, or None.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        asked = os.environ if environment is None else environment
        self.repository = asked.get(REPOSITORY) or None
        self.every = int(asked[EVERY]) if asked.get(EVERY) else None
        self._telling = _telling(asked.get(HEARTBEAT))
        self._last: float | None = None
        self._interrupt = float(asked[INTERRUPT]) if asked.get(INTERRUPT) else None

    def opened(self, repository: str) -> None:
        """The manager's repository is this one."""
        if self._telling is not None:
            self._telling.opened(repository)

    def restored(self, step: int | None) -> None:
        """The run goes on from the snapshot of this step."""
        if self._telling is not None:
            self._telling.restored(step)

    def at_step(self, step: int) -> None:
        """The boundary after this step is reached. No system call."""
        if self._telling is not None:
            self._telling.at_step(step)
        if self._interrupt is not None:
            self._interrupted(step)

    def closed(self) -> None:
        """No further step is expected: what follows may take its time."""
        if self._telling is not None:
            self._telling.closed()

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


def _telling(path: str | None) -> Telling | None:
    """None without a supervisor, or where its pages cannot be had: training goes on without."""
    try:
        return Telling(path) if path else None
    except (OSError, ValueError) as error:
        logger.warning("The supervisor will not see this run's steps (%s: %s).", path, error)
        return None
