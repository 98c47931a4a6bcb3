"""Storing in the background of everything else: the lowest CPU and disk priority. Best effort."""

from __future__ import annotations

import contextlib
import os
import platform
import sys

NICEST = 19
AUTOGROUP = "/proc/self/autogroup"
"""Linux shares the CPU out among sessions first, outside of control groups, and niceness counts within one only: the
writer, which has a session of its own, would get half of a training's CPU however nice it is. See sched(7)."""
IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "ppc64le": 273, "riscv64": 30}
THIS_THREAD = (1, 0)  # IOPRIO_WHO_PROCESS, oneself
IDLE = 3 << 13


def lower() -> None:
    """For this thread and those that it starts from now on (on Linux; elsewhere for the process), in its session."""
    with contextlib.suppress(OSError):
        os.nice(NICEST)
    with contextlib.suppress(OSError), open(AUTOGROUP, "w", encoding="ascii") as file:
        file.write(str(NICEST))
    number = IOPRIO_SET.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).syscall(number, *THIS_THREAD, IDLE)
