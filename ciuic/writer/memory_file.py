"""Files without a name that die with their last user: what is too large for a message travels in them."""

from __future__ import annotations

import os
import tempfile


def memory_file(data: bytes = b"") -> int:
    """A descriptor of a new nameless file that holds ``data``; not inherited by programs that are started."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ciuic-writer", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def contents(descriptor: int, last: int | None = None) -> bytes:
    """All of it, or the ``last`` bytes; the file's position stays."""
    size = os.fstat(descriptor).st_size
    offset = 0 if last is None else max(0, size - last)
    pieces = []
    while offset < size:
        piece = os.pread(descriptor, size - offset, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)
