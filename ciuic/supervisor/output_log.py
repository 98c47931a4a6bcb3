"""What a command said, in files that do not grow without limit."""

from __future__ import annotations

import contextlib
import os

LIMIT = 1 << 20
EARLIER = ".earlier"
REMEMBERED = 64 << 10


class OutputLog:
    """The newest mebibyte or two: when the file is full it becomes ``PATH.earlier``, in place of the one before.

    A disk that is full costs the log and nothing else.
    """

    def __init__(self, path: str, limit: int = LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._size = 0
        self._descriptor = -1
        self._end = bytearray()
        with contextlib.suppress(OSError):
            self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o666)
        self._size = 0

    def write(self, data: bytes) -> None:
        self._end += data
        if len(self._end) > 2 * REMEMBERED:
            del self._end[:-REMEMBERED]
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if self._size and self._size + len(data) > self._limit:
                self.close()
                os.replace(self.path, self.path + EARLIER)
                self._open()
            self._size += os.write(self._descriptor, data)

    def end(self) -> str:
        """The last of it, from memory."""
        return self._end[-REMEMBERED:].decode("utf-8", "replace")

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def last_lines(path: str, count: int, most: int = REMEMBERED) -> list[str]:
    """The last lines of a log, from both of its files; none when there is no log. A progress bar is its last state."""
    text = b""
    for name in (path, path + EARLIER):
        text = _end_of(name, most - len(text)) + text
        if text.count(b"\n") > count:
            break
    lines = text.decode("utf-8", "replace").split("\n")
    shown = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    while shown and not shown[-1].strip():
        shown.pop()
    return shown[-count:]


def _end_of(path: str, most: int) -> bytes:
    if most <= 0:
        return b""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, most, max(0, size - most))
    except OSError:
        return b""
    finally:
        os.close(descriptor)
