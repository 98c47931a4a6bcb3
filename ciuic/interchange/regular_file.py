"""Opening a file that a person named, and telling a path that leaves its folder."""

from __future__ import annotations

import os
import stat
from io import BufferedReader

from ciuic.errors import InvalidImport, UnsafePath


def open_regular(file: str) -> BufferedReader:
    """An ordinary file, opened for reading. InvalidImport when it is missing, or a folder, device or pipe."""
    try:
        # Without O_NONBLOCK a pipe without a writer would hang here.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidImport(f"cannot open {file!r}: {reason}. Check the path and its permissions.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidImport(f"{file} is not an ordinary file. Name a .safetensors, .pt or .pth file.")
    return open(descriptor, "rb")


def path_inside(folder: str, name: str) -> str:
    """The path of ``name`` in ``folder``. UnsafePath when it leaves the folder, by a symbolic link too."""
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(os.path.join(root, name))
    except ValueError:  # a NUL, or half a surrogate pair
        path = os.sep
    if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/") or os.path.commonpath([root, path]) != root:
        raise UnsafePath(f"{name!r} leads out of {folder}, so it is not read. Put all files into one folder.")
    return path
