"""The processes below this one: what a command leaves behind when it dies, its writer set apart. Linux has them all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
WRITER = b"ciuic/writer/__main__.py"
PROC = Path("/proc")


def adopt_orphans() -> None:
    """From now on what outlives its parent becomes this process's child. Does nothing where there is no such thing."""
    prctl = _prctl()
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def dies_with_parent() -> Callable[[], None] | None:
    """What a child calls before it runs its program, to get SIGTERM when this process dies, in whatever way."""
    prctl, parent = _prctl(), os.getpid()
    if prctl is None:
        return None

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


def children(pid: int) -> set[int]:
    """Of all threads of a process."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found |= {int(word) for word in (task / "children").read_text().split()}
    return found


def below(roots: set[int]) -> list[int]:
    """Those and all below them, but for writer processes, which have snapshots to publish."""
    found: list[int] = []
    waiting = sorted(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found and not _is_writer(pid):
            found.append(pid)
            waiting += sorted(children(pid))
    return found


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def signal_all(root: int, number: int) -> None:
    """To a process and all below it but writers; where they are not known, to its group."""
    if PROC.joinpath("self").exists():
        kill(below({root}), number)
    else:
        with contextlib.suppress(OSError):
            os.killpg(root, number)


def reap(pids: set[int]) -> None:
    """Bury those of these children that are dead."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


def is_dead(pid: int) -> bool:
    """Gone, or not yet buried."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True


def _is_writer(pid: int) -> bool:
    with contextlib.suppress(OSError):
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        return any(word.endswith(WRITER) for word in words[:3])
    return False


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError, AttributeError):
        function = ctypes.CDLL(None, use_errno=True).prctl
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
        return function
    return None
