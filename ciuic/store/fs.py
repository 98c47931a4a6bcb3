"""The one seam through which every file effect goes, so that a test can crash, fill or corrupt the disk at any of them.

Failures come out as our typed errors. Only LMDB, whose file is disposable, writes behind this seam's back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from typing import Any

from ciuic.errors import ReadOnlyStorage, StorageError, StorageFull

FULL = {errno.ENOSPC, errno.EDQUOT}
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


EXISTENCE = (FileNotFoundError, FileExistsError, BlockingIOError, NotADirectoryError, IsADirectoryError)


class typed_errors:  # a class, since every file effect passes here
    """OSError → StorageFull, ReadOnlyStorage or StorageError. Errors of existence pass: callers handle them."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, EXISTENCE):
            raise typed(error, self.path) from error


def typed(error: OSError, path: str) -> StorageError:
    """Our error for one of the operating system's."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return StorageFull(
            f"{path}: {reason}. Nothing that was saved is lost. Free some space (`ciuic gc --dry-run` shows what "
            "this repository could give back) and try again."
        )
    if error.errno in READ_ONLY:
        return ReadOnlyStorage(f"{path}: {reason}. Make it writable, or work on a copy.")
    return StorageError(f"{path}: {reason}. Check the disk, then run `ciuic fsck`.")


def _preadv(descriptor: int, views: list[memoryview], offset: int) -> int:
    """os.preadv, which not every system has."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, views, offset)
    data = os.pread(descriptor, len(views[0]), offset)
    views[0][: len(data)] = data
    return len(data)


class FileSystem:
    """The operating system's file effects. Tests subclass it."""

    def create(self, path: str) -> int:
        """A descriptor of a new file; FileExistsError if it is there."""
        with typed_errors(path):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def open(self, path: str, *, write: bool = False) -> int:
        """A descriptor of a regular file; StorageError for anything else, links included."""
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not hang whoever opens it
        with typed_errors(path):
            descriptor = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | flags)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a folder stands where a file belongs", path)
        raise StorageError(f"{path}: not an ordinary file. Restore it from a copy.")

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def write(self, descriptor: int, buffers: list[Any], path: str) -> int:
        """Append all of ``buffers`` at the file position; returns the bytes written, which is all of them."""
        views = [view for buffer in buffers if len(view := memoryview(buffer).cast("B"))]
        total = sum(len(view) for view in views)
        first = 0
        while first < len(views):
            with typed_errors(path):
                written = os.writev(descriptor, views[first : first + 512])
            while first < len(views) and written >= len(views[first]):
                written -= len(views[first])
                first += 1
            if written:
                views[first] = views[first][written:]
        return total

    def write_at(self, descriptor: int, data: bytes, offset: int, path: str) -> None:
        view = memoryview(data)
        while view:
            with typed_errors(path):
                written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def read_at(self, descriptor: int, length: int, offset: int, path: str) -> bytes:
        """Up to ``length`` bytes; fewer only at the end of the file."""
        pieces: list[bytes] = []
        while length:
            with typed_errors(path):
                piece = os.pread(descriptor, length, offset)
            if not piece:
                break
            pieces.append(piece)
            length, offset = length - len(piece), offset + len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_into(self, descriptor: int, buffers: list[memoryview], offset: int, path: str) -> int:
        """Fill the writable ``buffers`` (one byte an item) one after the other; returns the bytes read, fewer than
        they take only at the end of the file."""
        views = [view for view in buffers if len(view)]
        total = first = 0
        while first < len(views):
            with typed_errors(path):
                count = _preadv(descriptor, views[first : first + 512], offset + total)
            if not count:
                break
            total += count
            while first < len(views) and count >= len(views[first]):
                count -= len(views[first])
                first += 1
            if count:
                views[first] = views[first][count:]
        return total

    def sync(self, descriptor: int, path: str) -> None:
        """The file's data is durable on return. Never retried: after a failure its state is unknown."""
        with typed_errors(path):
            if sys.platform == "darwin":  # fsync alone leaves the data in the drive's cache there
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            else:
                os.fdatasync(descriptor)

    def start_writing(self, descriptor: int, offset: int, length: int) -> None:
        """Bytes that were written begin their way to the disk, so that a later sync has little left to wait for.

        Best effort. Linux starts to write what is dirty when it is told to forget it, and keeps it meanwhile.
        """
        if hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)

    def sync_folder(self, path: str) -> None:
        """The folder's entries (creations, renames, removals) are durable on return."""
        with typed_errors(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        with typed_errors(target):
            os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """A second name; FileExistsError if the target is there."""
        with typed_errors(target):
            os.link(source, target)

    def unlink(self, path: str) -> None:
        with typed_errors(path):
            os.unlink(path)

    def make_folder(self, path: str) -> None:
        with typed_errors(path):
            os.mkdir(path)

    def list_folder(self, path: str) -> list[str]:
        """Names in ``path``; none when it does not exist."""
        try:
            with typed_errors(path):
                return os.listdir(path)
        except FileNotFoundError:
            return []

    def free_bytes(self, path: str) -> int:
        """What the file system has left for us."""
        with typed_errors(path):
            status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def mountinfo(self) -> str:
        """The kernel's table of mounts, as Linux has it; nothing where there is none."""
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""

    # What follows is put together from the effects above.

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def read_file(self, path: str, limit: int = 1 << 24) -> bytes:
        """The whole of a small file; StorageError past ``limit`` bytes."""
        descriptor = self.open(path)
        try:
            if self.size(descriptor) > limit:
                raise StorageError(f"{path}: larger than {limit} bytes, which no such file is. Restore it from a copy.")
            return self.read_at(descriptor, limit, 0, path)
        finally:
            self.close(descriptor)

    def write_file(self, path: str, data: bytes, temporary: str) -> None:
        """Replace ``path`` as a whole: on return it is durable, and at no time is it half written."""
        self.remove_if_there(temporary)
        descriptor = self.create(temporary)
        try:
            self.write(descriptor, [data], temporary)
            self.sync(descriptor, temporary)
        finally:
            self.close(descriptor)
        self.rename(temporary, path)
        self.sync_folder(os.path.dirname(path))

    def remove_if_there(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.unlink(path)

    def make_folder_if_missing(self, path: str) -> None:
        with contextlib.suppress(FileExistsError):
            self.make_folder(path)


LOCAL = FileSystem()
