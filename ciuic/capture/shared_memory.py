"""Memory without a name that another process can map through its descriptor, and that dies with its last user."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from typing import Any

import numpy

PAGE = mmap.PAGESIZE
PIECE_BYTES = 64 << 20


def create(size: int) -> int:
    """A descriptor of ``size`` zero bytes, not inherited by programs that are started; OSError when there is no way."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ciuic-slot", os.MFD_CLOEXEC)
    else:
        descriptor = _posix_shared_memory()
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _posix_shared_memory() -> int:
    """For macOS: a POSIX object whose name is gone at once."""
    try:
        posix: Any = __import__("_posixshmem")
    except ImportError as error:
        raise OSError("this system has no shared memory that Python can make") from error
    name = f"/ciuic-{os.getpid()}-{os.urandom(4).hex()}"
    descriptor: int = posix.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    posix.shm_unlink(name)
    os.set_inheritable(descriptor, False)
    return descriptor


class Mapping:
    """A shared, writable mapping. A forked child does not get it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._map = mmap.mmap(descriptor, size)
        if hasattr(mmap, "MADV_DONTFORK"):
            self._map.madvise(mmap.MADV_DONTFORK)
        self.bytes: numpy.ndarray[Any, numpy.dtype[numpy.uint8]] = numpy.frombuffer(self._map, dtype=numpy.uint8)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._ready = 0

    @property
    def ready(self) -> bool:
        """Whether every page is there, so that a copy meets no page fault."""
        return self._ready >= self.size

    def prepare_piece(self) -> None:
        """Make the next PIECE_BYTES ready. Keeps what is in them; other threads run meanwhile."""
        start, stop = self._ready, min(self._ready + PIECE_BYTES, self.size)
        if stop > start:
            if hasattr(os, "posix_fallocate"):
                with contextlib.suppress(OSError):
                    os.posix_fallocate(self.descriptor, start, stop - start)
            touched = self.bytes[start:stop:PAGE]
            touched |= 0
        self._ready = stop

    def mark_ready(self, nbytes: int) -> None:
        """The first ``nbytes`` have been written to."""
        if nbytes >= self._ready:
            self._ready = min(self.size, -(-nbytes // PAGE) * PAGE)
