"""Writers that outlive their trainer: the next run waits for what they still have to publish, and resumes from it.

Each writer has two locked files in ``tmp/``: its own, whose lock it inherits before it runs, and its trainer's. The
kernel lets go of each when its process ends, or executes another program: the one held without the other says it all.
"""

from __future__ import annotations

import contextlib
import logging
import os

from ciuic.errors import CiuicError, LockTimeout
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.locked_file import NEW, LockedFile
from ciuic.store.locks import hold, is_held

PREFIX = "run-"
WRITER, TRAINER = ".writer", ".trainer"
PATIENCE_S = 120.0

logger = logging.getLogger("ciuic")

class Announcement:
    """The two files of one writer, as its trainer makes them; best effort. Never there without their locks."""

    def __init__(self, repository: str, fs: FileSystem = LOCAL) -> None:
        self.token = os.urandom(8).hex()
        self._repository = repository
        self._fs = fs
        self._files: dict[str, LockedFile] = {}
        with contextlib.suppress(CiuicError, OSError):
            for suffix in (TRAINER, WRITER):  # in this order: a writer's file alone is waited for
                self._files[suffix] = LockedFile(fs, os.path.join(repository, "tmp", f"{PREFIX}{self.token}{suffix}"))

    def writers(self) -> tuple[int, ...]:
        """What the writer process inherits."""
        file = self._files.get(WRITER)
        return (file.descriptor,) if file is not None and file.held else ()

    def handed_over(self) -> None:
        """The lock of the writer's file is the writer's alone."""
        if WRITER in self._files:
            self._files[WRITER].let_go()

    def let_go(self) -> None:
        """Whatever the writer still does, it does without its trainer."""
        for suffix in (WRITER, TRAINER):
            if suffix in self._files:
                self._files[suffix].let_go()

    def withdraw(self) -> None:
        """There was no writer."""
        self.let_go()
        remove(self._repository, self.token, self._fs)

    def names(self) -> list[str]:
        """In ``tmp/``."""
        return _names(self.token)


def wait(repository: str, fs: FileSystem = LOCAL, timeout_s: float = PATIENCE_S) -> bool:
    """Return when no writer of an earlier run has anything to publish; whether there was one.

    One that has not finished within ``timeout_s`` seconds is left alone, with a warning.
    """
    folder, waited = os.path.join(repository, "tmp"), False
    names = [name for name in fs.list_folder(folder) if name.startswith(PREFIX)]
    for token in sorted({name[len(PREFIX) :].partition(".")[0] for name in names}):
        writer, trainer = (os.path.join(folder, name) for name in _names(token)[:2])
        if is_held(fs, trainer):
            continue  # it waits for its writer itself, where it matters
        if is_held(fs, writer):
            waited = True
            logger.warning("An earlier run's last snapshot is still being written; waiting for it.")
            try:
                with contextlib.suppress(FileNotFoundError), hold(fs, writer, exclusive=False, timeout_s=timeout_s):
                    pass
            except LockTimeout:
                logger.warning("It has not ended in %g s: going on without it (%s).", timeout_s, writer)
                continue
        if not any(is_held(fs, os.path.join(folder, name)) for name in _names(token)[2:]):
            remove(repository, token, fs)
    return waited


def remove(repository: str, token: str, fs: FileSystem = LOCAL) -> None:
    """Of a writer that has nothing left to publish. Best effort."""
    for name in _names(token):
        with contextlib.suppress(CiuicError, OSError):
            fs.remove_if_there(os.path.join(repository, "tmp", name))


def _names(token: str) -> list[str]:
    final = [f"{PREFIX}{token}{suffix}" for suffix in (WRITER, TRAINER)]
    return [*final, *(name + NEW for name in final)]
