"""A run's history, as its supervisor writes it: ``runs/<id>/`` in the repository. The store knows nothing of it.

run.json                the command, where, since when; the last file to appear, and then the run has begun
events.jsonl            one JSON object a line; a line is written at once and synced, and a torn one does not count
attempt-1.log           the newest of what each attempt said, and before that attempt-1.log.earlier
heartbeat               the page in which the training tells its step
lock                    locked for as long as the supervisor lives
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from ciuic.errors import CiuicError, RepositoryError
from ciuic.store.fs import LOCAL
from ciuic.supervisor.output_log import EARLIER, OutputLog
from ciuic.supervisor.pulse import Pulse
from ciuic.supervisor.runs import EVENTS, FOLDER, LOCK, PAGE, RUN, is_running, log_name, run_names

KEPT_RUNS = 50
KEPT_LOGS = 20

logger = logging.getLogger("ciuic")


class Record:
    """The history of a run that begins now; durable event by event."""

    def __init__(self, repository: str, command: Sequence[str], folder: str, **facts: Any) -> None:
        """CiuicError, OSError when it cannot be begun."""
        runs = os.path.join(repository, FOLDER)
        if os.path.islink(runs):
            raise RepositoryError(f"{runs} is a link. Move what it leads to here, or do not trust it.")
        LOCAL.make_folder_if_missing(runs)
        _forget_old(runs)
        began = datetime.now(timezone.utc)
        self.id = f"{began:%Y%m%d-%H%M%S}-{began.microsecond // 16:04x}"  # sixteens of microseconds: they sort by age
        self.path = os.path.join(runs, self.id)
        LOCAL.make_folder(self.path)
        self._lock = LOCAL.create(self._join(LOCK))
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # a reader may hold it for an instant
        self.pulse = Pulse(self._join(PAGE))
        self._events = os.open(self._join(EVENTS), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._torn = False
        run = {"command": list(command), "folder": folder, "began": began.isoformat(), **facts}
        LOCAL.write_file(self._join(RUN), json.dumps(run).encode() + b"\n", self._join(RUN + ".new"))
        LOCAL.sync_folder(runs)

    def _join(self, name: str) -> str:
        return os.path.join(self.path, name)

    def add(self, event: str, facts: Mapping[str, Any]) -> None:
        """Durable on return. Where the disk will not have it, that is said, and the run goes on."""
        record = {"event": event, "time": datetime.now(timezone.utc).isoformat(), **facts}
        line = json.dumps(record).encode() + b"\n"
        try:
            data = b"\n" + line if self._torn else line
            self._torn = os.write(self._events, data) != len(data)
            os.fdatasync(self._events) if hasattr(os, "fdatasync") else os.fsync(self._events)
        except OSError as error:
            self._torn = True
            logger.warning("The history of this run lacks an event (%s: %s).", event, error.strerror)

    def log(self, attempt: int) -> OutputLog:
        """For what this attempt says. The logs of attempts long past are given up."""
        old = self._join(log_name(attempt - KEPT_LOGS))
        for path in (old, old + EARLIER):
            with contextlib.suppress(OSError):
                os.unlink(path)
        return OutputLog(self._join(log_name(attempt)))

    def close(self) -> None:
        """The supervisor's life ends here. A second call does nothing more."""
        self.pulse.close()
        descriptors, self._events, self._lock = (self._events, self._lock), -1, -1
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def _forget_old(runs: str) -> None:
    """All but the newest; a run whose supervisor lives is left alone."""
    for name in run_names(runs)[: -(KEPT_RUNS - 1)]:
        path = os.path.join(runs, name)
        with contextlib.suppress(CiuicError, OSError):
            if not is_running(path):
                shutil.rmtree(path)
