"""A file system that writes down what it does: every effect of any number of processes, in order, with its data."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ciuic.objects.encoding import decode, encode
from ciuic.store.fs import LOCAL, FileSystem

LENGTH_BYTES = 8


class Effect(NamedTuple):
    """One effect, or a note between two.

    ``name``: of the ``FileSystem`` method; "note" for what ``EffectLog.note`` was told, "seen" for a file of ``beside``
    that has changed. ``path`` and ``target`` (of a rename or a link) are relative to the recorded folder.
    ``inode``: of the file that was created, written or synced.
    """

    name: str
    path: str = ""
    target: str = ""
    inode: int = 0
    offset: int = 0
    data: bytes = b""


class EffectLog:
    """The file that effects are written to, for the processes that work below the folder ``root``.

    ``path``: not below ``root``; made if it is missing. ``beside``: files below ``root`` that somebody writes without
    this log, relative to it: what they hold is written down whenever it has changed before an effect.
    """

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str], beside: Sequence[str] = ()) -> None:
        self.path = os.path.abspath(path)
        self.root = os.path.realpath(root)
        self.beside = tuple(beside)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._guard = threading.RLock()
        self._seen: dict[str, tuple[int, ...]] = {}

    def close(self) -> None:
        os.close(self._descriptor)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """An effect and its entry are one: nobody else's come in between."""
        with self._guard:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                self._look_beside()
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def add(self, effect: Effect) -> None:
        """Write an effect down. In one's ``turn``."""
        data = encode(effect)
        os.write(self._descriptor, len(data).to_bytes(LENGTH_BYTES, "little") + data)

    def note(self, text: str) -> None:
        """Write a line down between two effects: that something was acknowledged, say."""
        with self.turn():
            self.add(Effect("note", text))

    def relative(self, path: str) -> str | None:
        """``path`` below the recorded folder, "." for the folder itself; None when it is elsewhere."""
        folder, name = os.path.split(os.path.abspath(path))
        found = os.path.relpath(os.path.join(os.path.realpath(folder), name), self.root)
        return None if found.startswith("..") else found

    def _look_beside(self) -> None:
        for name in self.beside:
            path = os.path.join(self.root, name)
            try:
                status = os.stat(path)
                now = (status.st_ino, status.st_size, status.st_mtime_ns)
                if self._seen.get(name) != now:
                    with open(path, "rb") as file:
                        data = file.read()
                    self._seen[name] = now
                    self.add(Effect("seen", name, data=data))
            except FileNotFoundError:
                if self._seen.pop(name, None) is not None:
                    self.add(Effect("seen", name, "gone"))


class RecordingFileSystem(FileSystem):
    """Does what the class beside it in the order of inheritance does, and writes each effect that succeeded to ``log``.

    By itself it is the operating system's files: ``RecordingFileSystem(log)``.
    """

    log: EffectLog

    def __init__(self, log: EffectLog) -> None:
        self.log = log

    def _add(self, name: str, path: str, target: str = "", inode: int = 0, offset: int = 0, data: bytes = b"") -> None:
        here = self.log.relative(path)
        there = self.log.relative(target) if target else ""
        if here is not None and there is not None:
            self.log.add(Effect(name, here, there, inode, offset, data))

    def create(self, path: str) -> int:
        with self.log.turn():
            descriptor = super().create(path)
            self._add("create", path, inode=os.fstat(descriptor).st_ino)
            return descriptor

    def write(self, descriptor: int, buffers: list[Any], path: str) -> int:
        with self.log.turn():
            data = b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers if len(memoryview(buffer)))
            offset = os.lseek(descriptor, 0, os.SEEK_CUR)
            written = super().write(descriptor, [data], path)
            self._add("write", path, inode=os.fstat(descriptor).st_ino, offset=offset, data=data)
            return written

    def write_at(self, descriptor: int, data: bytes, offset: int, path: str) -> None:
        with self.log.turn():
            super().write_at(descriptor, data, offset, path)
            self._add("write_at", path, inode=os.fstat(descriptor).st_ino, offset=offset, data=bytes(data))

    def sync(self, descriptor: int, path: str) -> None:
        with self.log.turn():
            super().sync(descriptor, path)
            self._add("sync", path, inode=os.fstat(descriptor).st_ino)

    def sync_folder(self, path: str) -> None:
        with self.log.turn():
            super().sync_folder(path)
            self._add("sync_folder", path)

    def rename(self, source: str, target: str) -> None:
        with self.log.turn():
            super().rename(source, target)
            self._add("rename", source, target)

    def link(self, source: str, target: str) -> None:
        with self.log.turn():
            super().link(source, target)
            self._add("link", source, target)

    def unlink(self, path: str) -> None:
        with self.log.turn():
            super().unlink(path)
            self._add("unlink", path)

    def make_folder(self, path: str) -> None:
        with self.log.turn():
            super().make_folder(path)
            self._add("make_folder", path)


@contextlib.contextmanager
def recording(log: EffectLog) -> Iterator[EffectLog]:
    """While it lasts, whatever this process does through ``ciuic.store.fs.LOCAL`` is written down: every object of ours
    that was not given another file system, those made before too."""
    before = LOCAL.__class__
    LOCAL.log = log  # type: ignore[attr-defined]
    LOCAL.__class__ = RecordingFileSystem
    try:
        yield log
    finally:
        LOCAL.__class__ = before
        del LOCAL.log  # type: ignore[attr-defined]


def read_log(path: str | os.PathLike[str]) -> list[Effect]:
    """What was recorded, in order."""
    with open(path, "rb") as file:
        data = file.read()
    effects: list[Effect] = []
    start = 0
    while start < len(data):
        end = start + LENGTH_BYTES + int.from_bytes(data[start : start + LENGTH_BYTES], "little")
        effects.append(Effect(*decode(data[start + LENGTH_BYTES : end])))
        start = end
    return effects
