"""Kernel locks (flock): released by the kernel when their owner dies, whatever the way.

Each lock taken is a descriptor of its own. After a fork the child closes its copies and never unlocks: an unlock
would release the parent's. No fork comes between the opening of such a descriptor and its being noted: a child that
kept a copy would keep the lock for as long as it lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from ciuic.errors import CiuicError, LockTimeout, StorageError
from ciuic.store.fs import FileSystem, typed_errors

POLL_S = 0.005
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}

_held: set[int] = set()
_guard = threading.RLock()  # a signal handler that forks must not wait for the thread that it interrupted


class LocksUnsupported(StorageError):
    """The file system has no locks, or cannot give one."""


def _close_in_child() -> None:
    global _guard
    _guard = threading.RLock()
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(
    before=lambda: _guard.acquire(), after_in_parent=lambda: _guard.release(), after_in_child=_close_in_child
)


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Other threads' forks wait: whoever opens what no child may keep notes it before the next one."""
    with _guard:
        yield


@contextlib.contextmanager
def opened(fs: FileSystem, path: str, *, write: bool = False) -> Iterator[int]:
    """A descriptor that may be locked; a forked child has none."""
    with no_fork():
        descriptor = fs.open(path, write=write)
        _held.add(descriptor)
    owner = os.getpid()
    try:
        yield descriptor
    finally:
        if os.getpid() == owner:
            _held.discard(descriptor)
            fs.close(descriptor)


@contextlib.contextmanager
def hold(fs: FileSystem, path: str, *, exclusive: bool, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``; LockTimeout when it is not to be had in time."""
    # NFS locks exclusively only what is open for writing.
    with (
        opened(fs, path, write=exclusive) as descriptor,
        hold_open(descriptor, path, exclusive=exclusive, timeout_s=timeout_s),
    ):
        yield


def is_held(fs: FileSystem, path: str) -> bool:
    """Whether somebody holds ``path`` exclusively now; False when it is not there."""
    try:
        with hold(fs, path, exclusive=False, timeout_s=0.0):
            return False
    except LockTimeout:
        return True
    except (CiuicError, OSError):
        return False


@contextlib.contextmanager
def hold_open(descriptor: int, path: str, *, exclusive: bool, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a file from ``opened``; LockTimeout when it is not to be had in time."""
    owner = os.getpid()
    try:
        _acquire(descriptor, path, exclusive=exclusive, timeout_s=timeout_s)
        yield
    finally:
        if os.getpid() == owner:
            # A process that is being started may hold a copy for an instant: closing alone would leave it the lock.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)


def _acquire(descriptor: int, path: str, *, exclusive: bool, timeout_s: float) -> None:
    """flock an open descriptor, polling until ``timeout_s`` is over."""
    operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
    deadline = time.monotonic() + timeout_s
    pause = POLL_S / 10
    while True:
        try:
            with typed_errors(path):
                fcntl.flock(descriptor, operation)
            return
        except StorageError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in UNSUPPORTED:
                raise LocksUnsupported(
                    f"{path}: locks do not work on this file system ({cause.strerror}), and without them nothing can "
                    "be changed. Keep the repository on a local disk."
                ) from error
            raise
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockTimeout(
                    f"{path}: another process has held this lock for {timeout_s:g} s. "
                    "Wait for it to finish (`fuser -v` names it), then try again."
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, POLL_S)
