"""What a command says: through the supervisor to where it would have gone, and into the log on its way.

A terminal stays one for the command: it gets a pseudo-terminal of the same size, so progress bars look as they do
without a supervisor. Anything else is a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import struct
import termios
import time
from collections.abc import Sequence

from ciuic.supervisor.output_log import OutputLog

READ = 1 << 16
SLOW_S = 1.0


class Outlet:
    """One way out. ``inner``: the command's end. ``source``: ours. ``target``: where it goes on."""

    def __init__(self, target: int, *, terminal: bool) -> None:
        self.target = target
        self.terminal = terminal
        if terminal:
            self.source, self.inner = pty.openpty()
            attributes = termios.tcgetattr(self.inner)
            attributes[1] &= ~termios.OPOST  # the real terminal does that
            termios.tcsetattr(self.inner, termios.TCSANOW, attributes)
            self.resize()
        else:
            self.source, self.inner = os.pipe()
        os.set_blocking(self.source, False)
        self.open = True

    def resize(self) -> None:
        """As large as the real terminal."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self.target, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            fcntl.ioctl(self.source, termios.TIOCSWINSZ, size)

    def read(self) -> bytes:
        """What is there; b"" when nothing is now. ``open`` turns False at the end."""
        try:
            data = os.read(self.source, READ)
        except BlockingIOError:
            return b""
        except OSError as error:
            if error.errno != errno.EIO:  # that is how a pseudo-terminal ends
                raise
            data = b""
        self.open = bool(data)
        return data

    def started(self) -> None:
        """The command has its end."""
        os.close(self.inner)
        self.inner = -1

    def close(self) -> None:
        for descriptor in (self.source, self.inner):
            if descriptor >= 0:
                os.close(descriptor)
        self.source = self.inner = -1


class Outlets:
    """Both ways out of one attempt. ``blocked_until``: of the monotonic clock; until then nobody downstream would take
    more, so the command may have been waiting, too."""

    def __init__(self, terminals: Sequence[bool], log: OutputLog, *, quiet: bool = False) -> None:
        """``terminals``: whether descriptors 1 and 2 are; two share one pseudo-terminal, which keeps the order."""
        self.all = [Outlet(1, terminal=terminals[0])]
        if not all(terminals):
            self.all.append(Outlet(2, terminal=terminals[1]))
        self._log = log
        self._deaf: set[int] = {1, 2} if quiet else set()
        self.blocked_until = 0.0

    @property
    def inner(self) -> tuple[int, int]:
        """What the command is to have as its standard output and error."""
        return self.all[0].inner, self.all[-1].inner

    def pass_on(self, outlet: Outlet) -> bool:
        """One read's worth; whether there was any."""
        data = outlet.read()
        if data:
            self._tell(outlet.target, data)
        return bool(data)

    def say(self, data: bytes) -> None:
        """In the place of a command that could not be started."""
        self._tell(self.all[-1].target, data)

    def _tell(self, target: int, data: bytes) -> None:
        self._log.write(data)
        if target in self._deaf:
            return
        began = time.monotonic()
        try:
            _write_all(target, data)
        except OSError:  # whoever read it has gone; the log goes on
            self._deaf.add(target)
        ended = time.monotonic()
        if ended - began > SLOW_S:
            self.blocked_until = ended

    def drain(self) -> None:
        """All that is there now."""
        for outlet in self.all:
            while outlet.open and self.pass_on(outlet):
                pass

    def resize(self) -> None:
        for outlet in self.all:
            if outlet.terminal:
                outlet.resize()

    def close(self) -> None:
        for outlet in self.all:
            outlet.close()
        self._log.close()


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # whoever shares it with us has made it so
            time.sleep(0.01)
