"""The grace time after a signal, kept by a thread: the main thread may be deep in native code and hear nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence

from ciuic.daemon_thread import DaemonThread

LATENESS_S = 1.0
"""How much later than the grace time the deadline is: who waits for a snapshot until then leaves by himself."""
PATIENCE_S = 2.0
"""How long the main thread has after the deadline to leave by itself."""
OWN = 0x80
"""Marks a signal's number that ``begin`` has said, and no signal has."""
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
"""Their default is to do nothing."""


class Deadline:
    """Hears ``numbers`` as soon as the process gets them (by Python's wake-up descriptor, which is handed on to whoever
    had it), and counts ``grace_s`` seconds from the first one.

    A second later ``over`` is true and the signal is sent to the main thread once more; if that is still there
    ``PATIENCE_S`` later, ``overdue(number)`` is called in the thread.
    """

    def __init__(self, numbers: Sequence[int], grace_s: float, overdue: Callable[[int], None]) -> None:
        """In the main thread."""
        self.over = False
        self._numbers = frozenset(numbers)
        self._grace_s = grace_s
        self._overdue = overdue
        self._ears, self._mouth = os.pipe()
        for descriptor in (self._ears, self._mouth):
            os.set_blocking(descriptor, False)
        self._previous = signal.set_wakeup_fd(self._mouth, warn_on_full_buffer=False)
        self._thread = DaemonThread(self._keep, name="ciuic-deadline")
        self._thread.start()

    def begin(self, number: int) -> None:
        """The time runs, if it does not: where somebody else has the wake-up descriptor now, we hear it from here."""
        self._say(bytes((OWN | number,)))

    def stop(self) -> None:
        """The time does not run any more; the next signal starts it anew."""
        self.over = False
        self._say(b"\0")

    def close(self) -> None:
        """The thread ends; the wake-up descriptor is that of whoever had it.

        Only the main thread can give it back. Elsewhere the thread goes on to hand on what it hears: Python would write
        each signal into whatever file was opened next under a number that is closed.
        """
        if threading.current_thread() is not threading.main_thread():
            self._numbers = frozenset()
            self.stop()
            return
        mine = signal.set_wakeup_fd(-1)
        if mine not in (-1, self._mouth):
            signal.set_wakeup_fd(mine, warn_on_full_buffer=False)  # somebody has come later
        elif self._previous != -1:
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile
                signal.set_wakeup_fd(self._previous, warn_on_full_buffer=False)
        mouth, self._mouth = self._mouth, -1
        if mouth >= 0:
            os.close(mouth)  # the thread hears that, and closes the other end

    def forget(self) -> None:
        """In a forked child, which has no such thread."""
        with contextlib.suppress(ValueError, OSError):
            if signal.set_wakeup_fd(-1) not in (-1, self._mouth):
                return
        for descriptor in (self._ears, self._mouth):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._mouth = -1

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._mouth, word)

    def _keep(self) -> None:
        number, at_s = 0, None
        poll = select.poll()  # a training may have more descriptors than select takes
        poll.register(self._ears, select.POLLIN)
        while True:
            if poll.poll(None if at_s is None else max(0.0, 1000 * (at_s - time.monotonic()))):
                heard = self._heard()
                if heard is None:
                    return
                for byte in heard:
                    if byte == 0:
                        number, at_s = 0, None
                    elif byte & ~OWN in self._numbers and at_s is None:
                        number, at_s = byte & ~OWN, time.monotonic() + self._grace_s + LATENESS_S
            elif not self.over:
                self.over, at_s = True, time.monotonic() + PATIENCE_S
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                self._overdue(number)
                at_s = None

    def _heard(self) -> bytes | None:
        """What came, handed on to whoever had the wake-up descriptor before; None at the end."""
        try:
            heard = os.read(self._ears, 4096)
        except BlockingIOError:
            return b""
        if not heard:
            os.close(self._ears)
            return None
        if self._previous != -1:
            with contextlib.suppress(OSError):
                os.write(self._previous, bytes(byte for byte in heard if 0 < byte < OWN))
        return heard


def end_by_default(number: int) -> None:
    """End this process by the signal's default, from any thread; returns if that is not to end it (SIGCONT's).

    For a container's first process the kernel passes over the default: it ends with the status that a shell gives.
    """
    ctypes.CDLL(None).signal(number, None)  # SIG_DFL is a null pointer; Python lets only the main thread say so
    os.kill(os.getpid(), number)
    if number not in HARMLESS and os.getpid() == 1:
        os._exit(128 + number)
