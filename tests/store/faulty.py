"""File systems that fail, or die, at the Nth file effect."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Any

from ciuic.errors import StorageError
from ciuic.store.fs import FileSystem, typed_errors

EFFECTS = ("create", "write", "write_at", "sync", "sync_folder", "rename", "link", "unlink", "make_folder")
READS = ("open", "read_at", "read_into", "list_folder")


class Faulty(FileSystem):
    """Counts file effects, and fails the ``at``-th: with ``number``, once or from then on.

    ``short``: a failing write leaves half of its bytes behind. ``die``: the process ends there, before the effect
    ("before"), after half of a write ("half"), or after it ("after").
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


def _wrap(name: str, path_at: int) -> Any:
    real = getattr(FileSystem, name)

    def effect(self: Faulty, *arguments: Any, **more: Any) -> Any:
        path = arguments[path_at]
        if not self._due(name, path):
            return real(self, *arguments, **more)
        if name == "write" and (self.short or self.die == "half"):
            whole = b"".join(bytes(memoryview(buffer).cast("B")) for buffer in arguments[1])
            real(self, arguments[0], [whole[: len(whole) // 2]], path)
        elif name == "write_at" and (self.short or self.die == "half"):
            real(self, arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
        elif self.die == "after":
            with contextlib.suppress(OSError):
                real(self, *arguments, **more)
        self._fail(path)
        raise AssertionError

    return effect


for _name, _path_at in {
    "create": 0, "write": 2, "write_at": 3, "sync": 1, "sync_folder": 0, "rename": 1, "link": 1, "unlink": 0,
    "make_folder": 0, "open": 0, "read_at": 3, "read_into": 3, "list_folder": 0,
}.items():  # fmt: skip
    setattr(Faulty, _name, _wrap(_name, _path_at))

__all__ = ["EFFECTS", "READS", "Faulty", "StorageError"]
