"""Files that say by their lock that somebody is there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref

from ciuic.errors import CiuicError
from ciuic.store.fs import FileSystem
from ciuic.store.locks import no_fork

NEW = ".new"
"""Appended to the name while the file is being made."""
ATTEMPTS = 3


class LockedFile:
    """A new file, locked before it has its name: until ``let_go``, or until this process and who inherits it are gone.

    A forked child does not hold it.
    """

    def __init__(self, fs: FileSystem, path: str) -> None:
        """OSError, StorageError; nothing is left of it then."""
        self.path = path
        self._fs = fs
        for attempt in range(1, ATTEMPTS + 1):  # gc may empty the folder in between
            with no_fork():
                self.descriptor = fs.create(path + NEW)
                _held.add(self)
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fs.rename(path + NEW, path)
                return
            except BaseException as error:
                with contextlib.suppress(CiuicError, OSError):
                    fs.remove_if_there(path + NEW)
                self.let_go()
                if not isinstance(error, FileNotFoundError) or attempt == ATTEMPTS:
                    raise

    @property
    def held(self) -> bool:
        """By this process."""
        return self.descriptor >= 0

    def let_go(self) -> None:
        """Close it; who has inherited it holds it still."""
        descriptor, self.descriptor = self.descriptor, -1
        _held.discard(self)
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def remove(self) -> None:
        """There is nobody any more. Best effort."""
        with contextlib.suppress(CiuicError, OSError):
            self._fs.remove_if_there(self.path)
        self.let_go()


_held: weakref.WeakSet[LockedFile] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked worker would hold them for as long as it lives."""
    for file in list(_held):
        file.let_go()


os.register_at_fork(after_in_child=_let_go_in_child)
