"""Writers that outlive their trainer: the next run waits for what they still have to publish, and resumes from it.

A writer whose trainer is dead holds a kernel lock on a file in ``tmp/`` until it has finished; the file of one that
was killed is free to take, and is removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading

from ciuic.errors import CiuicError, LockTimeout
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.locks import hold, hold_open

PREFIX = "orphan-"
PATIENCE_S = 120.0

logger = logging.getLogger("ciuic")


class Announcement:
    """Says that this process, whose trainer is dead, still has something to publish. For two threads."""

    def __init__(self, repository: str, fs: FileSystem = LOCAL) -> None:
        folder = os.path.join(repository, "tmp")
        self._temporary, self._path = (os.path.join(folder, f"{prefix}{os.getpid()}") for prefix in ("new-", PREFIX))
        self._fs = fs
        self._held = contextlib.ExitStack()
        self._guard = threading.Lock()
        self._over = False

    def make(self) -> None:
        """Until ``withdraw``, or the end of the process; nothing after ``withdraw``. Best effort."""
        with self._guard, contextlib.suppress(CiuicError, OSError):
            if self._over:
                return
            descriptor = self._fs.create(self._temporary)
            self._held.callback(self._fs.close, descriptor)
            self._held.enter_context(hold_open(descriptor, self._temporary, exclusive=True, timeout_s=1.0))
            self._fs.rename(self._temporary, self._path)  # it is never there without its lock

    def withdraw(self) -> None:
        """Nothing is left to publish."""
        with self._guard:
            self._over = True
            for path in (self._temporary, self._path):
                with contextlib.suppress(CiuicError, OSError):
                    self._fs.remove_if_there(path)
            self._held.close()


def wait(repository: str, fs: FileSystem = LOCAL, timeout_s: float = PATIENCE_S) -> bool:
    """Return when no writer of an earlier run has anything to publish; whether there was one.

    One that has not finished within ``timeout_s`` seconds is left alone, with a warning.
    """
    folder, waited = os.path.join(repository, "tmp"), False
    for name in fs.list_folder(folder):
        if not name.startswith(PREFIX):
            continue
        path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            try:
                with hold(fs, path, exclusive=False, timeout_s=0.0):
                    pass
            except LockTimeout:
                waited = True
                logger.warning("An earlier run's last snapshot is still being written; waiting for it.")
                try:
                    with hold(fs, path, exclusive=False, timeout_s=timeout_s):
                        pass
                except LockTimeout:
                    logger.warning("It has not ended in %g s: going on without it (process %s).", timeout_s, name[7:])
                    continue
            with contextlib.suppress(CiuicError):
                fs.remove_if_there(path)
    return waited
