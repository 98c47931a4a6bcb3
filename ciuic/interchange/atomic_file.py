"""A file that appears under its name whole or not at all."""

from __future__ import annotations

import os
import secrets
from types import TracebackType
from typing import Any

from ciuic.errors import StorageError
from ciuic.store.fs import LOCAL, FileSystem


class AtomicFile:
    """A context that collects writes beside ``path`` and, without an error, puts them in its place.

    After it ended the file is durable. An error, Ctrl-C included, leaves what was at ``path`` before, and
    nothing else. Raises StorageError when ``path`` exists and ``replace`` is False, and the storage errors
    of the file system.
    """

    def __init__(self, path: str, *, replace: bool = False, fs: FileSystem = LOCAL) -> None:
        self._path = os.path.abspath(path)
        self._folder, name = os.path.split(self._path)
        self._temporary = os.path.join(self._folder, f".{name}.{secrets.token_hex(6)}.partial")
        self._replace = replace
        self._fs = fs
        self.size = 0

    def __enter__(self) -> AtomicFile:
        self._refuse_to_replace()
        try:
            self._descriptor = self._fs.create(self._temporary)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(f"the folder {self._folder} does not exist. Create it first.") from error
        return self

    def write(self, data: Any) -> int:
        """Append ``data``, any contiguous buffer; returns its length in bytes."""
        written = self._fs.write(self._descriptor, [data], self._temporary)
        self.size += written
        return written

    def flush(self) -> None:
        """Nothing is buffered; torch asks."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        published = False
        try:
            try:
                if kind is None:
                    self._fs.sync(self._descriptor, self._temporary)
            finally:
                self._fs.close(self._descriptor)
            if kind is None:
                self._refuse_to_replace()
                self._fs.rename(self._temporary, self._path)
                published = True
                self._fs.sync_folder(self._folder)
        finally:
            if not published:
                self._fs.remove_if_there(self._temporary)

    def _refuse_to_replace(self) -> None:
        if os.path.isdir(self._path):
            raise StorageError(f"{self._path} is a folder. Name a file to write.")
        if not self._replace and os.path.lexists(self._path):
            raise StorageError(f"{self._path} exists already. Pass force (--force) to replace it, or another name.")
