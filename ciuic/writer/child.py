"""One writer process, as its trainer sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

from ciuic.objects.encoding import encode
from ciuic.writer.channel import Channel, Message
from ciuic.writer.memory_file import contents, memory_file
from ciuic.writer.orphans import Announcement
from ciuic.writer.signals import HELD_SIGNALS

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
LAST_WORDS = 2000
MOST_SLOTS = 4
"""How many slots the process keeps mapped."""

_left: set[int] = set()  # children that were left to finish: reaped when the next one is started


class Child:
    """Its line, its state of health, and what it knows. Starting it does not wait for it."""

    def __init__(self, program: Sequence[str] | None, hello: Message) -> None:
        """OSError when there is no starting it."""
        _reap_the_left()
        command = [sys.executable, PROGRAM, str(hello["repository"])] if program is None else list(program)
        if not command[0] or (program is None and getattr(sys, "frozen", False)):
            raise FileNotFoundError("sys.executable is no Python")
        self.silence = 0.0  # seconds since it last said anything
        self.stuck = 0.0  # seconds since it last got anywhere
        self.progress = -1
        self.orders = 0
        self.finishing = False
        self.slots: dict[int, int] = {}  # key → bytes
        self.exit: int | None = None
        self.announcement = Announcement(str(hello["repository"]))
        with contextlib.ExitStack() as failing, contextlib.ExitStack() as always:
            failing.callback(self.announcement.withdraw)
            hello = {**hello, "announced": self.announcement.token}
            self._errors = memory_file()
            failing.callback(os.close, self._errors)
            carrier = memory_file(encode(hello))  # of any size; the message that brings it always fits
            always.callback(os.close, carrier)
            ours, theirs = socket.socketpair()
            always.callback(theirs.close)
            self.channel = Channel(ours)
            failing.callback(self.channel.close)
            self.channel.post({}, (carrier,))
            self.channel.flush()
            with _blocked_signals():
                self.process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    cwd="/",
                    start_new_session=True,
                    pass_fds=self.announcement.writers(),
                )
            self.announcement.handed_over()
            failing.pop_all()
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.exit = os.pidfd_open(self.process.pid)

    @property
    def leftovers(self) -> list[str]:
        """What it leaves in ``tmp/`` when it dies, but for what it said."""
        return self.announcement.names()

    def has_slot(self, key: int) -> bool:
        return key in self.slots

    def give_slot(self, key: int, size: int) -> list[int]:
        """The key becomes the last one used; returns the keys that it is to drop for it.

        The smaller ones are of slots that have grown since, or will when they are used again.
        """
        self.slots.pop(key, None)
        self.slots[key] = size
        kept = [each for each, held in self.slots.items() if held >= size][-MOST_SLOTS:]
        dropped = [each for each in self.slots if each not in kept]
        for each in dropped:
            del self.slots[each]
        return dropped

    def dead(self) -> bool:
        """Also reaps it."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Works on a stopped process too; one that hangs in a system call dies when that returns."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)

    def epitaph(self) -> str:
        """How it ended, and its last words."""
        code = self.process.returncode
        if code is None:
            how = "no exit code yet"
        elif code < 0:
            known = {each.value: each.name for each in signal.Signals}
            how = f"killed by {known.get(-code, f'signal {-code}')}"
        else:
            how = f"exit code {code}"
        words = contents(self._errors, LAST_WORDS).decode("utf-8", "replace").strip()
        return f"{how}\n{words}" if words else how

    def let_go(self) -> None:
        """Close this side; a process that still runs is left to finish."""
        if self.process.poll() is None:
            _left.add(self.process.pid)
        self.forget()

    def forget(self) -> None:
        """Close this side without a look at the process, which may be another one's child."""
        if self.process.returncode is None:
            self.process.returncode = 0  # nobody will wait for it through this object
        self.channel.close()
        self.announcement.let_go()
        descriptors, self.exit, self._errors = (self.exit, self._errors), None, -1
        for descriptor in descriptors:
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """The child inherits them blocked, until it is ready for those that it wants."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reap_the_left() -> None:
    for pid in list(_left):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        except OSError:
            ended = True
        if ended:
            _left.discard(pid)
