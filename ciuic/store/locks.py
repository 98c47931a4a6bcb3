"""Kernel locks (flock): released by the kernel when their owner dies, whatever the way.

Each lock taken is a descriptor of its own. After a fork the child closes its copies and never unlocks: an unlock
would release the parent's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator

from ciuic.errors import CiuicError, LockTimeout
from ciuic.store.fs import FileSystem, typed_errors

POLL_S = 0.005

_held: set[int] = set()
_held_guard = threading.Lock()


def _close_in_child() -> None:
    global _held_guard
    _held_guard = threading.Lock()
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def hold(fs: FileSystem, path: str, *, exclusive: bool, timeout_s: float) -> Iterator[None]:
    """Hold the lock file ``path``; LockTimeout when it is not to be had in time."""
    descriptor = fs.open(path)
    owner = os.getpid()
    try:
        with hold_open(descriptor, path, exclusive=exclusive, timeout_s=timeout_s):
            yield
    finally:
        if os.getpid() == owner:
            fs.close(descriptor)


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
    """Hold the lock of an open file, which the caller closes; LockTimeout when it is not to be had in time."""
    with _held_guard:
        _held.add(descriptor)
    owner = os.getpid()
    try:
        _acquire(descriptor, path, exclusive=exclusive, timeout_s=timeout_s)
        yield
    finally:
        if os.getpid() == owner:
            # A forked child may hold a copy for an instant: closing alone would leave the lock with it.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            with _held_guard:
                _held.discard(descriptor)


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
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockTimeout(
                    f"{path}: another process has held this lock for {timeout_s:g} s. "
                    "Wait for it to finish (`fuser -v` names it), then try again."
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, POLL_S)
