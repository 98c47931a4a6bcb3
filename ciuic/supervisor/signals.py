"""Signals as bytes on a socket, for a loop that waits on descriptors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""They mean the end: no further attempt."""
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
NOTICED = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGTSTP)


class Signals:
    """Those that came since the last ``take``. ``descriptor`` is readable when there are any."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self.descriptor = receiver.fileno()

    def take(self) -> list[int]:
        with contextlib.suppress(BlockingIOError):
            return list(self._receiver.recv(4096))
        return []


@contextlib.contextmanager
def received() -> Iterator[Signals]:
    """Within the block signals do nothing but arrive. What was ignored (by nohup, say) stays ignored. Main thread."""
    receiver, sender = socket.socketpair()
    for end in (receiver, sender):
        end.setblocking(False)
    before = {}
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        for number in (*STOPPING, *PASSED_ON, *NOTICED):
            if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, _noted)
        yield Signals(receiver)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        receiver.close()
        sender.close()


def stop_here() -> None:
    """As SIGTSTP means it; returns when this process is continued. At once where nobody could continue it."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Its number is on the socket already."""
