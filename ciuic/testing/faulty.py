"""A file system that fails, or a process that ends, at the Nth file effect."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from ciuic.store.fs import FileSystem, typed_errors

EFFECTS = ("create", "write", "write_at", "sync", "sync_folder", "rename", "link", "unlink", "make_folder")
"""The methods of a ``FileSystem`` that change something."""
READS = ("open", "read_at", "read_into", "list_folder")


class FaultyFileSystem(FileSystem):
    """Counts file effects, and fails the ``at``-th, counted from 0, with the error ``number``: once, or from then on.

    ``short``: a failing write leaves half of its bytes behind. ``die``: the process ends there without a word, before
    the effect ("before"), after half of a write ("half"), or after the effect ("after"). ``effects``: what counts.
    ``log``: "name path" of each so far. A negative ``at`` never comes; it may be set at any time.
    """

    def __init__(
        self,
        at: int = -1,
        number: int = errno.EIO,
        *,
        for_ever: bool = False,
        short: bool = False,
        die: str = "",
        effects: tuple[str, ...] = EFFECTS,
    ) -> None:
        self.at, self.number, self.for_ever, self.short, self.die = at, number, for_ever, short, die
        self.effects = effects
        self.count = 0
        self.log: list[str] = []

    def _due(self, name: str, path: str) -> bool:
        if name not in self.effects:
            return False
        self.log.append(f"{name} {path}")
        self.count += 1
        return self.count - 1 == self.at or (self.for_ever and self.count - 1 > self.at >= 0)

    def _fail(self, path: str) -> None:
        if self.die:
            os._exit(0)
        with typed_errors(path):
            raise OSError(self.number, os.strerror(self.number))


def _failing(name: str, path_at: int) -> Any:
    real = getattr(FileSystem, name)

    def effect(self: FaultyFileSystem, *arguments: Any, **more: Any) -> Any:
        path = arguments[path_at]
        if not self._due(name, path):
            return real(self, *arguments, **more)
        halved = self.short or self.die == "half"
        if name == "write" and halved:
            whole = b"".join(bytes(memoryview(buffer).cast("B")) for buffer in arguments[1])
            real(self, arguments[0], [whole[: len(whole) // 2]], path)
        elif name == "write_at" and halved:
            real(self, arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
        elif self.die == "after":
            with contextlib.suppress(OSError):
                real(self, *arguments, **more)
        self._fail(path)
        raise AssertionError("a failure that does not fail")

    return effect


for _name, _path_at in {
    "create": 0, "write": 2, "write_at": 3, "sync": 1, "sync_folder": 0, "rename": 1, "link": 1, "unlink": 0,
    "make_folder": 0, "open": 0, "read_at": 3, "read_into": 3, "list_folder": 0,
}.items():  # fmt: skip
    setattr(FaultyFileSystem, _name, _failing(_name, _path_at))
