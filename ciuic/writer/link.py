"""The writer's end of the line: orders come in, signs of life go out, the trainer's death is noticed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import select
import struct
import sys
import threading
import time
import traceback

from ciuic.daemon_thread import DaemonThread
from ciuic.writer.channel import Channel, Message

MOST_UNREAD = 4096
"""Bytes that a trainer has not read, above which no beat is added: answers must find room."""
BROKEN = 70
TIOCOUTQ = 0x5411


class Link:
    """``orders`` ends with None: nothing more will come. ``tell`` and ``post`` may be called from any thread."""

    def __init__(self, channel: Channel, trainer: int, beat: float) -> None:
        self.orders: queue.SimpleQueue[tuple[Message, list[int]] | None] = queue.SimpleQueue()
        self.progress = 0
        self.busy = True  # until the start is over
        self.orphaned = False
        self._channel = channel
        self._trainer = trainer
        self._interval = beat
        self._death = _pidfd(trainer)
        self._sending = threading.Lock()
        self._thread = DaemonThread(self._run, name="ciuic-link")

    def start(self) -> None:
        self._thread.start()

    def advance(self) -> None:
        """Something was done: a beat says so."""
        self.progress += 1

    def post(self, message: Message) -> None:
        """Send without waiting: what the trainer does not read now is sent later."""
        with self._sending:
            if not self.orphaned:
                self._channel.post(message)
                self._channel.flush()

    def tell(self, message: Message | None = None) -> None:
        """Send, with all that was posted, and wait until the kernel has it, or the trainer is gone."""
        if message is not None:
            self.post(message)
        while not self.orphaned:
            with self._sending:
                if self._channel.flush():
                    return
            select_ready([], [self._channel.fileno()], self._interval)

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException:
            traceback.print_exc()
            os._exit(BROKEN)

    def _serve(self) -> None:
        next_beat = time.monotonic()
        watched = [self._channel.fileno()] + ([] if self._death is None else [self._death])
        while not self._channel.ended and not self.orphaned:
            now = time.monotonic()
            if now >= next_beat:
                self._beat()
                next_beat = now + self._interval
            unsent = [self._channel.fileno()] if self._channel.waiting else []
            select_ready(watched, unsent, next_beat - now)
            dead = self._trainer_is_dead()  # before the last look: what it sent, it sent before
            for message in self._channel.receive():
                self.orders.put(message)
            if dead:
                self.orphaned = True
            with self._sending:
                self._channel.flush()
        self.orders.put(None)
        while not self.orphaned:  # it closed its side, and may die before the last order is done
            select_ready([] if self._death is None else [self._death], [], self._interval)
            self.orphaned = self._trainer_is_dead()
            self._beat()  # it waits for the last order, and for what is tidied up after it

    def _beat(self) -> None:
        if self.busy and self._unread() <= MOST_UNREAD:
            self.post({"beat": self.progress})

    def _unread(self) -> int:
        if sys.platform != "linux":
            return 0
        with contextlib.suppress(OSError):
            (count,) = struct.unpack("i", fcntl.ioctl(self._channel.fileno(), TIOCOUTQ, bytes(4)))
            return int(count)
        return 0

    def _trainer_is_dead(self) -> bool:
        if self._death is None:
            return os.getppid() != self._trainer
        return bool(select_ready([self._death], [], 0))


def select_ready(reading: list[int], writing: list[int], timeout: float | None) -> list[int]:
    """The descriptors that are ready, or ended, within ``timeout`` seconds (None: ever); any numbers."""
    poll = select.poll()
    for descriptor in {*reading, *writing}:
        events = (select.POLLIN if descriptor in reading else 0) | (select.POLLOUT if descriptor in writing else 0)
        poll.register(descriptor, events)
    return [descriptor for descriptor, _ in poll.poll(None if timeout is None else max(0.0, timeout) * 1000)]


def _pidfd(trainer: int) -> int | None:
    """What becomes readable when the trainer dies; None where only the parent's number tells."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        descriptor: int = os.pidfd_open(trainer)
    except OSError:
        return None
    if os.getppid() == trainer:  # and so it was the trainer that was opened
        return descriptor
    os.close(descriptor)
    return None
