"""Memory without a name that another process can map through its descriptor, and that dies with its last user."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable
from typing import Any

import numpy

PAGE = mmap.PAGESIZE
PIECE_BYTES = 16 << 20
FAILED = ctypes.c_void_p(-1).value

_libc: Any = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


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
    """A shared, writable mapping of a whole descriptor, which it owns. A forked child does not get it.

    Not ``mmap.mmap``: that unmaps its range in a forked child too, where something else may lie there by now.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.address = 0
        self.descriptor = descriptor
        self.size = size
        self.before_close: list[Callable[[], object]] = []
        self._owner = os.getpid()
        self._ready = 0
        protection, kind = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
        address = _libc.mmap(None, size, protection, kind, descriptor, 0)
        if address is None or address == FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.address = address
        if hasattr(mmap, "MADV_DONTFORK"):
            _libc.madvise(address, size, mmap.MADV_DONTFORK)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (self.address, False), "shape": (self.size,), "typestr": "|u1", "version": 3}

    @property
    def bytes(self) -> numpy.ndarray[Any, numpy.dtype[numpy.uint8]]:
        """The memory as an array, which keeps the mapping alive; not to be touched after ``close``."""
        return numpy.asarray(self)

    def close(self) -> None:
        """Unmap, and close the descriptor. In a forked child, only that."""
        address, self.address = self.address, 0
        if address and self._owner == os.getpid():
            for call in self.before_close:
                call()
            _libc.munmap(address, self.size)
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.close()

    @property
    def ready_bytes(self) -> int:
        """So many bytes from the start have their pages."""
        return self._ready

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
