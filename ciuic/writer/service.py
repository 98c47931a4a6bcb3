"""The writer process: takes orders, in order, until its trainer is gone; then finishes what it has, and exits."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
from types import FrameType

from ciuic.writer import priority
from ciuic.writer.channel import Channel
from ciuic.writer.link import Link
from ciuic.writer.orphans import Announcement

NO_HELLO = 2


class _Forward(logging.Handler):
    """What is logged here is logged by the trainer."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        self._link.post({"log": record.levelno, "text": record.getMessage()})


def main() -> None:
    """Serve the trainer at the other end of standard input. Returns when every order is done."""
    faulthandler.enable()
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    channel = Channel(_endpoint())
    messages = channel.receive()  # it was sent before this process was started
    if not messages:
        raise SystemExit(NO_HELLO)
    (hello, _), *early = messages
    link = Link(channel, hello["trainer"], hello["beat"])
    for message in early:
        link.orders.put(message)
    signal.signal(signal.SIGTERM, lambda number, frame: _leave(link, number, frame))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    announcement = Announcement(hello["repository"])
    link.on_orphaned = announcement.make
    link.start()
    if hello["low"]:
        priority.lower()
    logger = logging.getLogger("ciuic")
    logger.addHandler(_Forward(link))
    logger.propagate = False
    sys.path += [entry for entry in hello["path"] if entry not in sys.path]

    from ciuic.writer.storing import Storing  # slow on some machines: it beats already

    storing = Storing(link, hello["repository"], hello["leftovers"])
    while True:
        link.busy = not link.orders.empty()
        order = link.orders.get()
        if order is None:
            break
        link.busy = True
        storing.store(*order)
    announcement.withdraw()
    link.tell()


def _leave(link: Link, number: int, frame: FrameType | None) -> None:
    """SIGTERM: finish what was received."""
    link.orders.put(None)


def _endpoint() -> socket.socket:
    """The socket that stands in for standard input, which is nothing from now on."""
    endpoint = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return endpoint
