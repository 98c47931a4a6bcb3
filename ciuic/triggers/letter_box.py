"""A file through which another process, on any host that has the repository, talks to a running training.

``tmp/run-<token>.asks`` is locked by the training for as long as it lives: gc leaves it alone, and everybody sees
whether somebody listens. Either side only appends whole lines of JSON: who asks an ``ask``, the training what is ``to``
it. A file has no longest path as a socket has, and works between the hosts of a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ciuic.errors import CiuicError
from ciuic.store.fs import LOCAL, FileSystem
from ciuic.store.locked_file import LockedFile
from ciuic.store.locks import is_held

PREFIX, SUFFIX = "run-", ".asks"
MOST_AT_ONCE = 64 << 10
"""Bytes that are read at a time; a longer line is nobody's."""


class Lines:
    """What is new in a file that others append to, line by line; what is no line of ours is passed over."""

    def __init__(self, fs: FileSystem, descriptor: int, path: str, position: int = 0) -> None:
        self._fs = fs
        self._descriptor = descriptor
        self._path = path
        self._position = position

    def new(self) -> Iterator[dict[str, Any]]:
        """The lines that are complete and were not given before."""
        while True:
            data = self._fs.read_at(self._descriptor, MOST_AT_ONCE, self._position, self._path)
            end = data.rfind(b"\n") + 1
            if not end:
                self._position += len(data) if len(data) == MOST_AT_ONCE else 0
                return
            self._position += end
            for line in data[:end].splitlines():
                with contextlib.suppress(ValueError, RecursionError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        yield value


def append(fs: FileSystem, path: str, line: Mapping[str, Any]) -> None:
    """One line at the end, whole."""
    data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fs.write(descriptor, [data], path)
    finally:
        fs.close(descriptor)


class LetterBox:
    """The training's side: made, locked and under its name on return. OSError, StorageError."""

    def __init__(self, repository: str, fs: FileSystem = LOCAL) -> None:
        self._fs = fs
        self._file = LockedFile(fs, os.path.join(repository, "tmp", f"{PREFIX}{os.urandom(8).hex()}{SUFFIX}"))
        self.path = self._file.path
        self._lines = Lines(fs, self._file.descriptor, self.path)

    def asks(self) -> Iterator[dict[str, Any]]:
        """What was asked since the last call."""
        return (line for line in self._lines.new() if isinstance(line.get("ask"), str))

    def answer(self, ask: str, **facts: Any) -> None:
        """Tell the one who asked; best effort."""
        with contextlib.suppress(CiuicError, OSError):
            append(self._fs, self.path, {"to": ask, "pid": os.getpid(), **facts})

    def close(self) -> None:
        """Nobody listens any more. An ask that has not been answered by now never is."""
        if self._file.held:
            self._file.remove()


def open_boxes(repository: str, fs: FileSystem = LOCAL) -> list[str]:
    """The paths of the letter boxes that a training listens to; those of dead ones are removed, if they can be."""
    folder, found = os.path.join(repository, "tmp"), []
    for name in sorted(fs.list_folder(folder)):
        path = os.path.join(folder, name)
        if name.startswith(PREFIX) and name.endswith(SUFFIX):
            if is_held(fs, path):
                found.append(path)
            else:
                with contextlib.suppress(CiuicError, OSError):
                    fs.remove_if_there(path)
    return found
