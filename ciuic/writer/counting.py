"""File effects as signs of progress, and a word about each temporary file, so that it can be removed after a death."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ciuic.store.fs import FileSystem


class CountingFileSystem(FileSystem):
    """``progress`` is called with every effect, ``temporary`` with the name of a file about to be made in ``tmp/``."""

    def __init__(self, progress: Callable[[], None], temporary: Callable[[str], None]) -> None:
        self._progress = progress
        self._temporary = temporary

    def create(self, path: str) -> int:
        folder, name = os.path.split(path)
        if os.path.basename(folder) == "tmp":
            self._temporary(name)
        self._progress()
        return super().create(path)

    def open(self, path: str, *, write: bool = False) -> int:
        self._progress()
        return super().open(path, write=write)

    def write(self, descriptor: int, buffers: list[Any], path: str) -> int:
        self._progress()
        return super().write(descriptor, buffers, path)

    def write_at(self, descriptor: int, data: bytes, offset: int, path: str) -> None:
        self._progress()
        super().write_at(descriptor, data, offset, path)

    def read_at(self, descriptor: int, length: int, offset: int, path: str) -> bytes:
        self._progress()
        return super().read_at(descriptor, length, offset, path)

    def sync(self, descriptor: int, path: str) -> None:
        self._progress()
        super().sync(descriptor, path)

    def sync_folder(self, path: str) -> None:
        self._progress()
        super().sync_folder(path)

    def rename(self, source: str, target: str) -> None:
        self._progress()
        super().rename(source, target)
